"""The catalogue of a shared store (`store.json`): what it holds; read before any of it is fetched.

It may come from a stranger: one schema bounds all that is in it, and nothing in it names a file outside the store.
Beside it, `.catalogue/` has one entry file for each shared file; whoever pushes writes only his own entries and makes
`store.json` from all of them, so that pushes at the same time lose nothing (see `transfer.write_catalogue`).
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import numpy as np

from twofold.cache.errors import CacheError
from twofold.cache.recipe import Recipe
from twofold.cache.store import MANIFEST, Store
from twofold.cache.user_block import MAX_DIM

CATALOGUE = "store.json"
ENTRIES = ".catalogue"  #: the folder of the entry files
MAX_CATALOGUE_BYTES = 16 << 20
MAX_MANIFEST_BYTES = 4 << 30
MAX_TEXT = 1000  #: characters of a backbone's name

Bytes = Annotated[int, msgspec.Meta(ge=0, le=1 << 44)]
Rows = Annotated[int, msgspec.Meta(ge=0, le=1 << 36)]
Dim = Annotated[int, msgspec.Meta(ge=0, le=MAX_DIM)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
FeatureFileName = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_@+=-][A-Za-z0-9._@+=-]{0,200}\.h5\Z")]
T = TypeVar("T")


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a shared store; sha256: of the whole file."""

    name: str
    bytes: Bytes
    sha256: Sha256

    @classmethod
    def of(cls, path: Path) -> "Entry":
        """The entry of a file on this machine, which is hashed."""
        with path.open("rb") as file:
            return Entry(path.name, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


class FeatureEntry(Entry, frozen=True, forbid_unknown_fields=True):
    """One feature file, as its header describes it."""

    name: FeatureFileName
    rows: Rows
    failed: Rows
    dim: Dim
    fingerprint: str
    recipe: Recipe

    def __post_init__(self) -> None:
        recipe = Recipe.from_json(self.recipe.canonical())
        if recipe.fingerprint != self.fingerprint:
            raise ValueError(f"{self.name}: the recipe does not match its fingerprint")
        texts = (recipe.backbone, recipe.view.get("name"), recipe.weights)
        if not all(isinstance(text, str) and text.isprintable() and len(text) < MAX_TEXT for text in texts):
            raise ValueError(f"{self.name}: backbone, view or weights are not plain text")
        if self.rows * self.dim * np.dtype(recipe.dtype).itemsize > self.bytes:
            raise ValueError(f"{self.name}: {self.rows} x {self.dim} values do not fit into {self.bytes} bytes")


class Catalogue(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="format", tag="twofold-store-2"):
    """The feature files of a shared store, by name, and its manifest."""

    files: tuple[FeatureEntry, ...]
    manifest: Entry | None

    def __post_init__(self) -> None:
        counts = Counter(file.name.casefold() for file in self.files)  # one file on disks that ignore case
        if max(counts.values(), default=0) > 1:
            raise ValueError(f"it lists {counts.most_common(1)[0][0]} twice")
        if self.manifest and (self.manifest.name != MANIFEST or self.manifest.bytes > MAX_MANIFEST_BYTES):
            raise ValueError(f"the manifest is not {MANIFEST} of at most {MAX_MANIFEST_BYTES >> 30} GB")

    @classmethod
    def of(cls, entries: dict[str, Entry]) -> "Catalogue":
        """The catalogue of these files, by name."""
        files = tuple(entry for _, entry in sorted(entries.items()) if isinstance(entry, FeatureEntry))
        return cls(files, entries.get(MANIFEST))

    @property
    def entries(self) -> dict[str, Entry]:
        """Every file by its name, the manifest first: whatever arrives after it can be used at once."""
        return {entry.name: entry for entry in (self.manifest, *self.files) if entry}

    def json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    def chosen(self, backbones: Sequence[str] | None, source: str) -> "Catalogue":
        """The files of these backbones (`NAME` or `NAME@FINGERPRINT`, all their views) and the manifest; None: all.
        Raises CacheError for one that is not there."""
        if backbones is None:
            return self
        for name in backbones:
            if not any(file.recipe.is_named(name) for file in self.files):
                have = ", ".join(dict.fromkeys(f"{file.recipe.backbone}@{file.fingerprint[:8]}" for file in self.files))
                raise CacheError(f"{source} has no features of {name!r}; it has {have or 'none at all'}")
        return msgspec.structs.replace(self, files=tuple(
            file for file in self.files if any(file.recipe.is_named(name) for name in backbones)))


def catalogue_of(store: Store) -> Catalogue:
    """What a store on this machine has to share: every file is hashed. Unfinished work is not in it. Raises CacheError
    for a file that cannot be read, or whose name would not do elsewhere."""
    entries = {MANIFEST: Entry.of(store.manifest_path)} if store.manifest_path.exists() else {}
    for file in store.files():
        _ = file.keys  # raises CacheError unless it can be read
        entries[file.path.name] = FeatureEntry(
            **msgspec.structs.asdict(Entry.of(file.path)), rows=file.rows, failed=file.failed, dim=file.dim,
            fingerprint=file.fingerprint, recipe=file.recipe)
    catalogue = Catalogue.of(entries)
    return parse(catalogue.json(), Catalogue, str(store.path))  # what we would refuse is not sent out, either


def parse(data: bytes, kind: type[T], source: str) -> T:
    """Read a catalogue or an entry. Raises CacheError, naming `source`, unless all in it is as its schema says."""
    if len(data) > MAX_CATALOGUE_BYTES:
        raise CacheError(f"{source}: its catalogue is refused: it is larger than {MAX_CATALOGUE_BYTES >> 20} MB")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        reason = "".join(letter if letter.isprintable() else "?" for letter in str(error)[:200])
        raise CacheError(f"{source}: its catalogue is not one that `cache push` of this version has written "
                         f"({reason})") from None
