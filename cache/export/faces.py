"""What is exported of a store: the faces of all its chosen files joined by key, read a block at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from twofold.cache.errors import CacheError
from twofold.cache.format.featurefile import FeatureFile
from twofold.cache.store import Store

BLOCK = 4096  #: faces in memory at once
LABELS = ("split", "basic", "compound", "group")


@dataclass(frozen=True, eq=False)
class ExportedFaces:
    """Faces that every file has. labels: a text for each face, '' for none, by column; left_out: faces that some file
    lacks."""

    keys: list[str]
    labels: dict[str, list[str]]
    files: tuple[FeatureFile, ...]
    left_out: int

    @cached_property
    def streams(self) -> list[str]:
        """A name for each file, without what file systems or zip archives cannot take: its own without its ending."""
        return [file.path.name.removesuffix(".h5") for file in self.files]

    @property
    def untrained(self) -> list[str]:
        """The streams that have random weights."""
        return [name for name, file in zip(self.streams, self.files, strict=True) if file.recipe.untrained]

    def spans(self) -> Iterator[slice]:
        """Of at most `BLOCK` faces, in order."""
        return (slice(start, start + BLOCK) for start in range(0, len(self.keys), BLOCK))

    def blocks(self, file: FeatureFile, dtype: str) -> Iterator[np.ndarray]:
        """(at most `BLOCK`, D) features of one file in the order of the keys."""
        return (file.read(self.keys[span], dtype=dtype) for span in self.spans())


def exported_faces(store: Store, *, backbones: Sequence[str], view: str,
                   manifest: Mapping[str, Sequence[str]] | None) -> ExportedFaces:
    """Join the files of these backbones (none: all files of the view).

    manifest: its columns, `key` among them; None for a store without one, whose faces then have no labels.
    Raises CacheError if there is no such file, or no face that all files have.
    """
    files = tuple(store.find(name, view) for name in backbones) if backbones else tuple(
        file for file in store.readable()[0] if file.view == view)
    if not files:
        raise CacheError(f"{store.path}: no feature files of view {view!r} to export")
    listed = list(manifest["key"]) if manifest is not None else list(files[0].keys)
    rows = [row for row, key in enumerate(listed) if all(key in file.position for file in files)]
    if not rows:
        raise CacheError(f"{store.path}: no face that all {len(files)} files have: choose among them with --backbones")
    columns = {name: manifest[name] for name in LABELS if manifest is not None and name in manifest}
    return ExportedFaces([listed[row] for row in rows],
                         {name: [str(column[row]) for row in rows] for name, column in columns.items()},
                         files, len(listed) - len(rows))
