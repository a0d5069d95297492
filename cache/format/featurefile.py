"""A feature file: the embeddings of one backbone and one view, with the recipe that made them, of any version.

What is read is what was written, or an error.
"""

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from twofold.cache.errors import DamagedFile
from twofold.cache.format.classifier import OwnClassifier
from twofold.cache.format.finite import first_not_finite
from twofold.cache.format.header import BLOCK_OF_CHECKSUM, FORMAT, Header, refuse_version
from twofold.cache.format.index import check_keys, decoded
from twofold.cache.format.version1 import SIGNATURE, Version1
from twofold.cache.format.version2 import MAGIC, Version2, open_plain
from twofold.cache.recipe import Recipe

BLOCK_ROWS = 8192


class FeatureFile:
    """A feature file, opened anew for each read, so that it pickles and works in any process and on read-only mounts.

    The header is read and checked on first use; `CacheError` says why a file is refused, `DamagedFile` (a kind of
    it) that its bytes are not those that were written, `OSError` that it cannot be read just now.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"FeatureFile({str(self.path)!r})"

    def __getstate__(self) -> dict:
        return {"path": self.path}

    # ------------------------------------------------------------------------------------------------ header
    @cached_property
    def _content(self) -> Version1 | Version2:
        return _open(self.path)

    @property
    def header(self) -> Header:
        """What it says of itself, checked against the recipe."""
        return self._content.header

    @cached_property
    def recipe(self) -> Recipe:
        return Recipe.from_json(self.header["recipe"])

    @property
    def fingerprint(self) -> str:
        return self.header["fingerprint"]

    @property
    def backbone(self) -> str:
        return self.header["backbone"]

    @property
    def view(self) -> str:
        return self.header["view"]

    @property
    def dim(self) -> int:
        return self.header["dim"]

    @property
    def rows(self) -> int:
        return self.header["rows"]

    @property
    def failed(self) -> int:
        """How many faces could not be encoded."""
        return self.header["failed"]

    # ------------------------------------------------------------------------------------------------- index
    @cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
        keys, hashes, failed, reasons = self._content.tables()
        check_keys(keys, failed, self.path)
        failures = dict(zip(decoded(failed, self.path), decoded(reasons, self.path), strict=True))
        return decoded(keys, self.path), hashes, failures

    @property
    def keys(self) -> np.ndarray:
        """(N,) object array of str: the keys in the order of the rows."""
        return self._index[0]

    @property
    def sha256(self) -> np.ndarray:
        """(N,) array of 64-character hex bytes (`S64`): SHA-256 of each image file."""
        return self._index[1]

    @property
    def failures(self) -> dict[str, str]:
        """Key to reason, for faces that could not be encoded."""
        return self._index[2]

    @cached_property
    def position(self) -> dict[str, int]:
        """Key to row."""
        return {key: row for row, key in enumerate(self.keys)}

    # ---------------------------------------------------------------------------------------------- features
    def read(self, keys: Sequence[str] | None = None, *, dtype: np.dtype | type | str = np.float32) -> np.ndarray:
        """(N, D) array of `dtype`: all rows, or those of `keys` in their order.

        Reads each block at most once however scattered the keys are, and holds no second copy.
        Raises KeyError for a key that is not in the file, DamagedFile where a checksum does not hold.
        """
        rows = None if keys is None else np.fromiter((self.position[key] for key in keys), np.int64, len(keys))
        return self.read_rows(rows, dtype=dtype)

    def read_rows(self, rows: np.ndarray | None, *, dtype: np.dtype | type | str = np.float32) -> np.ndarray:
        """(M, D) array of `dtype`: the rows at these positions, in the order given; all of them if None."""
        values = np.empty((self.rows if rows is None else len(rows), self.dim), dtype)
        if rows is not None:
            self._gather(np.asarray(rows), values)
        elif isinstance(self._content, Version2) and values.dtype == np.dtype(self.recipe.dtype):
            self._content.read_all(values)
        else:
            for start, block in self.blocks():
                values[start:start + len(block)] = block
        return values

    def _gather(self, rows: np.ndarray, values: np.ndarray) -> None:
        order = np.argsort(rows, kind="stable")
        numbers, starts = np.unique(rows[order] // BLOCK_OF_CHECKSUM, return_index=True)
        places = np.split(order, starts[1:])
        for (number, block), place in zip(self._content.blocks(numbers.tolist()), places, strict=False):
            values[place] = block[rows[place] - number * BLOCK_OF_CHECKSUM]

    def mapped(self) -> np.ndarray:
        """(N, D) as stored, read-only: a row is read from the disk when it is touched, and costs no more.

        All of it is verified now, once. A file of version 1 is read into memory instead.
        """
        if isinstance(self._content, Version1):
            return self.read(dtype=self.recipe.dtype)
        for _ in self.blocks():
            pass
        return self._content.mapped()

    @cached_property
    def classifier(self) -> OwnClassifier | None:
        """The classifier that the backbone brought along; None if it has none here."""
        return self._content.classifier()

    def logits(self) -> tuple[tuple[str, ...], np.ndarray] | None:
        """The backbone's own classes and logits (N, C) float32, in the order of the keys, as files had them before
        they carried the classifier itself; None if it has none."""
        return self._content.logits() if isinstance(self._content, Version1) else None

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """All rows as stored, verified, some at a time and after the place of their first; the array of a block is
        used again for the next."""
        for number, block in self._content.blocks(range(-(-self.rows // BLOCK_OF_CHECKSUM))):
            yield number * BLOCK_OF_CHECKSUM, block

    def is_current(self) -> bool:
        """True if the file that was read stands there still. Raises OSError if that cannot be told."""
        return self._content.is_current()

    def check(self) -> None:
        """Read everything back; raises DamagedFile or CacheError at the first thing that is wrong."""
        _ = self._index, self.recipe, self.logits(), self.classifier
        for start, block in self.blocks():
            if (row := first_not_finite(block)) is not None:
                raise DamagedFile(f"{self.path}: the features of {self.keys[start + row]!r} are not finite numbers: "
                                  "delete it and extract again")
        if isinstance(self._content, Version2):
            self._content.check_rest()


def _open(path: Path) -> Version1 | Version2:
    """By its first bytes. Raises DamagedFile for what is no feature file."""
    descriptor = open_plain(path)
    try:
        start = os.pread(descriptor, len(MAGIC) + 8, 0)
    finally:
        os.close(descriptor)
    if start.startswith(MAGIC):
        return Version2(path)
    if start.startswith(SIGNATURE):
        return Version1(path)
    name, _, number = start.decode("ascii", "replace").partition(" ")
    if name == FORMAT:
        refuse_version(path, name, number.split(" ")[0])
    raise DamagedFile(f"{path}: not a whole HDF5 file that Twofold has written")
