"""The catalogue of a shared store (`store.json`): what it holds, known before any of it is fetched.

It may come from a stranger: what is in it is bounded, strictly typed, and names nothing outside the store.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from twofold.cache.errors import CacheError
from twofold.cache.format.featurefile import FeatureFile
from twofold.cache.recipe import Recipe
from twofold.cache.report import feature_table
from twofold.cache.store import MANIFEST, Store

CATALOGUE = "store.json"
FORMAT = "twofold-store"
VERSION = 1
MAX_CATALOGUE_BYTES = 16 << 20
MAX_FILE_BYTES = 1 << 44
MAX_MANIFEST_BYTES = 4 << 30
MAX_ROWS = 1 << 36
MAX_DIM = 1 << 24
PLAIN_NAME = re.compile(r"[A-Za-z0-9_@+=-][A-Za-z0-9._@+=-]{0,200}\.h5", re.ASCII)
HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)
ENTRY = {"name", "bytes", "sha256"}
FEATURES = ENTRY | {"rows", "failed", "dim", "fingerprint", "recipe"}


@dataclass(frozen=True)
class Entry:
    """One file of a shared store."""

    name: str
    bytes: int
    sha256: str  #: 64 hex digits, of the whole file


@dataclass(frozen=True)
class Features(Entry):
    """One feature file, as its header describes it."""

    rows: int
    failed: int
    dim: int
    recipe: Recipe

    @property
    def backbone(self) -> str:
        return self.recipe.backbone

    @property
    def view(self) -> str:
        return self.recipe.view["name"]

    @property
    def fingerprint(self) -> str:
        return self.recipe.fingerprint

    def record(self) -> dict:
        return {**_entry(self), "rows": self.rows, "failed": self.failed, "dim": self.dim,
                "fingerprint": self.fingerprint, "recipe": asdict(self.recipe)}


@dataclass(frozen=True)
class Catalogue:
    """The feature files of a shared store, by name, and its manifest."""

    files: tuple[Features, ...] = ()
    manifest: Entry | None = None

    @property
    def entries(self) -> dict[str, Entry]:
        """Every file by its name, the manifest first: whatever arrives after it can be used at once."""
        manifest = (self.manifest,) if self.manifest else ()
        return {entry.name: entry for entry in (*manifest, *self.files)}

    def json(self) -> str:
        manifest = _entry(self.manifest) if self.manifest else None
        return json.dumps({"format": FORMAT, "version": VERSION, "files": [file.record() for file in self.files],
                           "manifest": manifest}, indent=1, sort_keys=True) + "\n"

    def chosen(self, backbones: Sequence[str] | None, source: str) -> "Catalogue":
        """The files of these backbones (`NAME` or `NAME@FINGERPRINT`, all their views) and the manifest; None: all.

        Raises CacheError for one that is not there.
        """
        if backbones is None:
            return self
        for name in backbones:
            if not any(file.recipe.is_named(name) for file in self.files):
                have = ", ".join(dict.fromkeys(f"{file.backbone}@{file.fingerprint[:8]}" for file in self.files))
                raise CacheError(f"{source} has no features of {name!r}; it has {have or 'none at all'}")
        files = tuple(file for file in self.files if any(file.recipe.is_named(name) for name in backbones))
        return Catalogue(files, self.manifest)

    def with_those_of(self, other: "Catalogue") -> "Catalogue":
        """The files of both, `other`'s where the names are equal."""
        files = {file.name: file for file in (*self.files, *other.files)}
        return Catalogue(tuple(files[name] for name in sorted(files)), other.manifest or self.manifest)


@dataclass(frozen=True)
class SharedListing:
    """What a shared store holds, as `cache ls` prints it."""

    url: str
    catalogue: Catalogue

    def record(self) -> dict:
        return {"store": self.url, "files": [
            {"file": file.name, "backbone": file.backbone, "view": file.view, "rows": file.rows, "failed": file.failed,
             "dim": file.dim, "dtype": file.recipe.dtype, "precision": file.recipe.precision,
             "weights": file.recipe.weights, "fingerprint": file.fingerprint, "bytes": file.bytes,
             "sha256": file.sha256} for file in self.catalogue.files]}

    def text(self) -> str:
        return "\n".join(feature_table(self.record()["files"])) or f"{self.url}: no feature files"


def catalogue_of(store: Store) -> Catalogue:
    """What a store on this machine has to share: every file is hashed. Unfinished parts are not in it.

    Raises CacheError for a file that cannot be read, or whose name would not do elsewhere.
    """
    manifest = entry_of(store.manifest_path) if store.manifest_path.exists() else None
    catalogue = Catalogue(tuple(_features_of(file) for file in store.files()), manifest)
    return parse_catalogue(catalogue.json().encode(), str(store.path))  # what we would refuse is not sent out, either


def entry_of(path: Path) -> Entry:
    with path.open("rb") as file:
        return Entry(path.name, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _features_of(file: FeatureFile) -> Features:
    _ = file.keys
    entry = entry_of(file.path)
    return Features(entry.name, entry.bytes, entry.sha256, file.rows, file.failed, file.dim, file.recipe)


def parse_catalogue(data: bytes, source: str) -> Catalogue:
    """Read a catalogue. Raises CacheError, naming `source`, unless it is one and all in it is plain and sane."""
    try:
        return _parse(data)
    except CacheError as error:
        raise CacheError(f"{source}: its catalogue {CATALOGUE} is refused: {error}") from None
    except (ValueError, RecursionError):
        raise CacheError(f"{source}: {CATALOGUE} is not a catalogue that `cache push` has written") from None


def _parse(data: bytes) -> Catalogue:
    if len(data) > MAX_CATALOGUE_BYTES:
        raise CacheError(f"it is larger than {MAX_CATALOGUE_BYTES >> 20} MB")
    record = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError("something else")
    if record.get("version") != VERSION or isinstance(record["version"], bool):
        raise CacheError(f"its version {str(record.get('version'))[:20]!r} is not {VERSION}: update Twofold")
    if set(record) != {"format", "version", "files", "manifest"} or not isinstance(record["files"], list):
        raise CacheError("it does not list just files and a manifest")
    files = tuple(_parse_features(entry) for entry in record["files"])
    counts = Counter(file.name.casefold() for file in files)  # upper and lower case are one file on many a disk
    if doubled := [name for name, count in counts.items() if count > 1]:
        raise CacheError(f"it lists {doubled[0]} twice")
    return Catalogue(files, None if record["manifest"] is None else _parse_manifest(record["manifest"]))


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _parse_manifest(entry: object) -> Entry:
    record = _with_fields(entry, ENTRY)
    if record["name"] != MANIFEST:
        raise CacheError(f"the manifest is not named {MANIFEST}")
    return Entry(MANIFEST, _whole(record, "bytes", MAX_MANIFEST_BYTES), _hex(record))


def _parse_features(entry: object) -> Features:
    record = _with_fields(entry, FEATURES)
    name = record["name"]
    if not isinstance(name, str) or not PLAIN_NAME.fullmatch(name):
        raise CacheError(f"{str(name)[:60]!r} is not a plain name of a feature file")
    try:
        recipe = Recipe.from_json(json.dumps(record["recipe"]))
        if recipe.fingerprint != record["fingerprint"]:
            raise CacheError("the recipe does not match its fingerprint")
        texts = (recipe.backbone, recipe.view.get("name"), recipe.weights)
        if not all(isinstance(text, str) and text.isprintable() and len(text) < 1000 for text in texts):
            raise CacheError("backbone, view or weights are not plain text")
        features = Features(name, _whole(record, "bytes", MAX_FILE_BYTES), _hex(record),
                            _whole(record, "rows", MAX_ROWS),
                            _whole(record, "failed", MAX_ROWS), _whole(record, "dim", MAX_DIM), recipe)
    except CacheError as error:
        raise CacheError(f"{name}: {error}") from None
    if features.rows * features.dim * np.dtype(recipe.dtype).itemsize > features.bytes:
        raise CacheError(f"{name}: {features.rows} x {features.dim} values do not fit into {features.bytes} bytes")
    return features


def _with_fields(entry: object, names: set[str]) -> dict:
    if not isinstance(entry, dict) or set(entry) != names:
        raise CacheError(f"an entry does not have just the fields {', '.join(sorted(names))}")
    return entry


def _whole(record: dict, name: str, most: int) -> int:
    value = record[name]
    if type(value) is not int or not 0 <= value <= most:
        raise CacheError(f"{name} is not a sane whole number ({str(value)[:30]})")
    return value


def _hex(record: dict) -> str:
    if not isinstance(record["sha256"], str) or not HEX.fullmatch(record["sha256"]):
        raise CacheError("sha256 is not 64 hexadecimal digits")
    return record["sha256"]


def _entry(entry: Entry) -> dict:
    return {"name": entry.name, "bytes": entry.bytes, "sha256": entry.sha256}
