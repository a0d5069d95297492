"""A feature file: the embeddings of one backbone and one view, with the recipe that made them.

Reading returns what was written, or raises an error.
"""

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import xxhash

from twofold.cache import layout
from twofold.cache.classifier import BackboneClassifier, read_classifier
from twofold.cache.errors import DamagedFile, FileGone
from twofold.cache.layout import FEATURES, Header, UserBlock, bytes_of, first_non_finite_row
from twofold.cache.recipe import Recipe

BLOCK_ROWS = 8192
SPAN = 4  #: blocks of one read: with fewer the calls cost, with more the bytes leave the processor's cache unchecked


class FeatureFile:
    """A feature file, opened anew for each read, so that it pickles and works in any process and on read-only mounts.

    The header is read and checked on first use. Raises CacheError for a file that cannot be used, DamagedFile (a kind
    of it) if its bytes are not those that were written, OSError if it cannot be read just now.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"FeatureFile({str(self.path)!r})"

    def __getstate__(self) -> dict:
        return {"path": self.path}

    @cached_property
    def _opened(self) -> tuple[bytes, UserBlock]:
        with self._open() as descriptor:
            return layout.read_user_block(descriptor, self.path)

    @property
    def header(self) -> Header:
        """What the file says of itself, checked against the recipe."""
        return self._opened[1].header

    @property
    def header_sha256(self) -> str:
        """SHA-256 of header, keys, hashes and failures: equal only for the same file content."""
        return self._opened[0][-65:-1].decode()

    @cached_property
    def recipe(self) -> Recipe:
        return Recipe.from_json(self.header.recipe)

    @property
    def fingerprint(self) -> str:
        return self.header.fingerprint

    @property
    def backbone(self) -> str:
        return self.header.backbone

    @property
    def view(self) -> str:
        return self.header.view

    @property
    def dim(self) -> int:
        return self.header.dim

    @property
    def rows(self) -> int:
        return self.header.rows

    @property
    def failed(self) -> int:
        """Number of samples that could not be encoded."""
        return self.header.failed

    @cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
        keys, hashes, failed, reasons = (self._table(name) for name in layout.TABLES)
        layout.check_keys(keys, failed, self.path)
        keys, failed, reasons = (layout.decode_texts(texts, self.path) for texts in (keys, failed, reasons))
        return keys, hashes, dict(zip(failed, reasons, strict=True))

    @property
    def keys(self) -> np.ndarray:
        """(N,) object array of str: the keys in row order."""
        return self._index[0]

    @property
    def sha256(self) -> np.ndarray:
        """(N,) array of 64-character hex bytes (`S64`): SHA-256 of each image file."""
        return self._index[1]

    @property
    def failures(self) -> dict[str, str]:
        """Key to reason, for samples that could not be encoded."""
        return self._index[2]

    @cached_property
    def position(self) -> dict[str, int]:
        """Key to row."""
        return {key: row for row, key in enumerate(self.keys)}

    @cached_property
    def classifier(self) -> BackboneClassifier | None:
        """The classification layer of the backbone, if it is stored."""
        block = self._opened[1]
        arrays = {name: self._table(name) for name in layout.CLASSIFIER & block.arrays.keys()}
        try:
            return read_classifier(block.classifier, arrays, self.dim)
        except DamagedFile as error:
            raise DamagedFile(f"{self.path}: {error}") from None

    def read(self, keys: Sequence[str] | None = None, *, dtype: np.dtype | type | str = np.float32) -> np.ndarray:
        """(N, D) array of `dtype`: all rows, or those of `keys` in their order.

        Reads each block at most once however scattered the keys are, and holds no second copy.
        Raises KeyError for a key that is not in the file, DamagedFile where a checksum does not match.
        """
        rows = None if keys is None else np.fromiter((self.position[key] for key in keys), np.int64, len(keys))
        return self.read_rows(rows, dtype=dtype)

    def read_rows(self, rows: np.ndarray | None, *, dtype: np.dtype | type | str = np.float32) -> np.ndarray:
        """(M, D) array of `dtype`: the rows at these indices, in the order given; all of them if None."""
        values = np.empty((self.rows if rows is None else len(rows), self.dim), dtype)
        size = self.header.checksum_rows
        if rows is None and values.dtype == np.dtype(self.recipe.dtype):
            self._read_all(values)
        elif rows is None:
            for start, block in self.blocks():
                values[start:start + len(block)] = block
        else:
            order = np.argsort(rows, kind="stable")
            numbers, starts = np.unique(rows[order] // size, return_index=True)
            places = np.split(order, starts[1:])
            for (number, block), place in zip(self._blocks(numbers.tolist()), places, strict=False):
                values[place] = block[rows[place] - number * size]
        return values

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (index of the first row, verified rows as stored), block by block; the array is reused."""
        size = self.header.checksum_rows
        for number, block in self._blocks(range(-(-self.rows // size))):
            yield number * size, block

    def is_current(self) -> bool:
        """True if the file that was read is still in its place. Raises OSError if that cannot be told."""
        _ = self._opened
        try:
            with self._unchanged():
                return True
        except FileGone:
            return False

    def check(self) -> None:
        """Read everything back. Raises DamagedFile or CacheError at the first thing that is wrong."""
        _ = self._index, self.recipe, self.classifier
        for start, block in self.blocks():
            if (row := first_non_finite_row(block)) is not None:
                raise DamagedFile(f"{self.path}: the features of {self.keys[start + row]!r} are not finite numbers: "
                                  "delete it and extract again")
        block = self._opened[1]
        with self._unchanged() as descriptor:
            start = 512  # where HDF5 looks for its signature, too: here, and at each power of two
            while start < block.size and os.pread(descriptor, 4, start) != layout.HDF5_SIGNATURE[:4]:
                start *= 2
            if layout.checksum_of_rest(descriptor, block.arrays.values(), start=start, size=block.size) != block.hdf5:
                raise DamagedFile(f"{self.path}: HDF5's own tables were altered, other programs cannot read it: delete "
                                  "it and extract again")

    def _table(self, name: str) -> np.ndarray:
        """Any array but the features, whole."""
        array = self._opened[1].arrays[name]
        values = np.empty(array.shape, array.dtype)
        with self._unchanged() as descriptor:
            self._read_into(descriptor, values, array.offset, name)
        if xxhash.xxh3_128_hexdigest(bytes_of(values)) != array.xxh3:
            raise DamagedFile(f"{self.path}: the checksum of /{name} does not match: delete it and extract again")
        return values

    def _blocks(self, numbers: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        """(number, rows as stored) of each of these checksum blocks; the array is reused."""
        size, checksums = self.header.checksum_rows, self._table(layout.CHECKSUMS)
        buffer = np.empty((min(size, self.rows), self.dim), self._opened[1].arrays[FEATURES].dtype)
        with self._unchanged() as descriptor:
            for number in numbers:
                rows = buffer[:min(size, self.rows - number * size)]
                self._read_span(descriptor, number, rows, checksums)
                yield number, rows

    def _read_all(self, out: np.ndarray) -> None:
        """Fill `out` (N, D), of the stored type, with all rows: no byte is copied twice."""
        size, checksums = self.header.checksum_rows, self._table(layout.CHECKSUMS)
        with self._unchanged() as descriptor:
            for first in range(0, len(checksums), SPAN):
                self._read_span(descriptor, first, out[first * size:(first + SPAN) * size], checksums)

    def _read_span(self, descriptor: int, first: int, rows: np.ndarray, checksums: np.ndarray) -> None:
        """Fill `rows` from the start of block `first` on, and check each block of them."""
        size, fingerprint = self.header.checksum_rows, self.fingerprint
        length = size * rows.strides[0]
        self._read_into(descriptor, rows, self._opened[1].arrays[FEATURES].offset + first * length, FEATURES)
        content = bytes_of(rows)
        for number, start in enumerate(range(0, len(content), length), first):
            seed = layout.block_seed(fingerprint, number)
            if xxhash.xxh3_64_intdigest(content[start:start + length], seed=seed) != checksums[number]:
                last = min((number + 1) * size, self.rows) - 1
                raise DamagedFile(f"{self.path}: the features do not read back (the checksum of rows {number * size} "
                                  f"to {last} does not match): delete it and extract again")

    def _read_into(self, descriptor: int, values: np.ndarray, offset: int, name: str) -> None:
        buffer = bytes_of(values)
        while len(buffer):
            count = os.preadv(descriptor, [buffer], offset)
            if not count:
                raise DamagedFile(f"{self.path}: cut off in /{name}: delete it and extract again")
            buffer, offset = buffer[count:], offset + count

    @contextlib.contextmanager
    def _unchanged(self) -> Iterator[int]:
        """Open the file whose header was read. Raises FileGone if another has taken its place."""
        seal, block = self._opened
        with self._open() as descriptor:
            if os.fstat(descriptor).st_size != block.size or os.pread(descriptor, layout.SEAL_BYTES, 0) != seal:
                raise FileGone(f"{self.path}: replaced by another process while it was read: try again")
            yield descriptor

    @contextlib.contextmanager
    def _open(self) -> Iterator[int]:
        """Open to read. Raises FileGone, DamagedFile for what is no regular file, OSError as the system does."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would block
        except FileNotFoundError:
            raise FileGone(f"{self.path}: no such feature file") from None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise DamagedFile(f"{self.path}: not a regular file")
            yield descriptor
        finally:
            os.close(descriptor)
