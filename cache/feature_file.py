"""A feature file: the embeddings of one backbone and one view, with the recipe that made them.

It is an HDF5 file for other programs. Twofold reads plain arrays by its user block alone (see `user_block`): a file
from a stranger never meets the HDF5 library.
"""

import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import xxhash

from twofold.cache.classifier import BackboneClassifier, read_classifier
from twofold.cache.errors import CacheError, DamagedFile, FileGone
from twofold.cache.recipe import Recipe
from twofold.cache.user_block import (
    CHECKSUMS,
    CLASSIFIER,
    FEATURES,
    HDF5_SIGNATURE,
    MAX_HEADER,
    SEAL_BYTES,
    TABLES,
    Header,
    StoredArray,
    UserBlock,
    read_user_block,
)

BLOCK_ROWS, BLOCK_VALUES = 8192, 1 << 24  #: that are in memory at once at most, where a file is read in blocks
READ_BYTES = 1 << 19  #: of one read: less costs calls, more leaves the processor's cache before it is checked
BAD_KEYS = re.compile(rb"(?:^|\0)(?:/|\0|$)|(?:^|[\0/])\.\.?(?=[/\0]|$)|//|\\")


class FeatureFile:
    """A feature file, opened anew for each read, so that it pickles and works in any process and on read-only mounts.
    Raises CacheError for a file that cannot be used, DamagedFile (a kind of it) if its bytes are not those that were
    written, OSError if it cannot be read just now."""

    def __init__(self, path: Path | str):
        self.path = Path(path)

    def __getstate__(self) -> dict:
        return {"path": self.path}

    @cached_property
    def _opened(self) -> tuple[bytes, UserBlock]:
        with self._open(again=False) as descriptor, self._named():
            return read_user_block(descriptor)

    @property
    def header(self) -> Header:
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
        return self.header.failed

    @cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
        keys, hashes, failed, reasons = (self._table(name) for name in TABLES)
        with self._named():
            check_keys(keys, failed)
        try:
            keys, failed, reasons = (np.array([text.decode() for text in texts.tolist()], object)
                                     for texts in (keys, failed, reasons))
        except UnicodeDecodeError:
            raise DamagedFile(f"{self.path}: a key or reason is not UTF-8") from None
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
        arrays = {name: self._table(name) for name in CLASSIFIER & self._opened[1].arrays.keys()}
        with self._named():
            return read_classifier(self._opened[1].classifier, arrays, self.dim)

    def read(self, keys: Sequence[str] | None = None, *, dtype: np.dtype | type | str = np.float32) -> np.ndarray:
        """(N, D) array of `dtype`: all rows, or those of `keys` in their order; each block is read at most once. Raises
        KeyError for a key that is not in the file, DamagedFile where a checksum does not match."""
        rows = None if keys is None else np.fromiter((self.position[key] for key in keys), np.int64, len(keys))
        return self.read_rows(rows, dtype=dtype)

    def read_rows(self, rows: np.ndarray | None, *, dtype: np.dtype | type | str = np.float32,
                  columns: slice = slice(None)) -> np.ndarray:
        """(M, D) array of `dtype`: the rows at these indices, in the order given, all of them if None; of them these
        columns. Reads the blocks that hold them, no more: a batch of a large file costs what its rows do."""
        width, size = len(range(self.dim)[columns]), self.header.checksum_rows
        values = np.empty((self.rows if rows is None else len(rows), width), dtype)
        if rows is not None:
            order = np.argsort(rows, kind="stable")
            numbers, starts = np.unique(rows[order] // size, return_index=True)
            places = np.split(order, starts[1:])
            for (start, block), place in zip(self.blocks(numbers.tolist()), places, strict=False):
                values[place] = block[rows[place] - start, columns]
        elif width == self.dim and values.dtype == np.dtype(self.recipe.dtype):  # no byte is copied twice
            content, length = bytes_of(values), size * self.dim * values.itemsize
            span = max(1, READ_BYTES // length)
            with self._block_reader() as read:
                for first in range(0, -(-self.rows // size), span):
                    read(first, content[first * length:(first + span) * length])
        else:
            for start, block in self.blocks():
                values[start:start + len(block)] = block[:, columns]
        return values

    def blocks(self, numbers: Iterable[int] | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (index of first row, verified rows as stored) of all checksum blocks, or these; the array is reused."""
        size = self.header.checksum_rows
        buffer = np.empty((min(size, self.rows), self.dim), self._opened[1].arrays[FEATURES].dtype)
        with self._block_reader() as read:
            for number in range(-(-self.rows // size)) if numbers is None else numbers:
                rows = buffer[:min(size, self.rows - number * size)]
                read(number, bytes_of(rows))
                yield number * size, rows

    def is_current(self) -> bool:
        """True if the file that was read is still in its place. Raises OSError if that cannot be told."""
        with contextlib.suppress(FileGone), self._open():
            return True
        return False

    def check(self) -> None:
        """Read everything back. Raises DamagedFile or CacheError at the first thing that is wrong."""
        _ = self._index, self.recipe, self.classifier
        for start, rows in self.blocks():
            if (row := first_non_finite_row(rows)) is not None:
                raise DamagedFile(f"{self.path}: the features of {self.keys[start + row]!r} are not finite numbers: "
                                  "delete it and extract again")
        block = self._opened[1]
        with self._open() as descriptor:
            start = 512  # where HDF5 looks for its signature, too: here, and at each power of two
            while start < block.size and os.pread(descriptor, 4, start) != HDF5_SIGNATURE[:4]:
                start *= 2
            if checksum_of_rest(descriptor, block.arrays.values(), start=start, size=block.size) != block.hdf5:
                raise DamagedFile(f"{self.path}: HDF5's own tables were altered, other programs cannot read it: delete "
                                  "it and extract again")

    def _table(self, name: str) -> np.ndarray:
        """Any array but the features, whole."""
        array = self._opened[1].arrays[name]
        values = np.empty(array.shape, array.dtype)
        with self._open() as descriptor:
            self._read_into(descriptor, bytes_of(values), array.offset, name)
        if xxhash.xxh3_128_hexdigest(bytes_of(values)) != array.xxh3:
            raise DamagedFile(f"{self.path}: the checksum of /{name} does not match: delete it and extract again")
        return values

    @cached_property
    def _checksums(self) -> list[int]:
        return self._table(CHECKSUMS).tolist()

    @contextlib.contextmanager
    def _block_reader(self) -> Iterator[Callable[[int, memoryview], None]]:
        """Yield a function that fills bytes from the start of a block on, and checks each block of them."""
        size, checksums, fingerprint = self.header.checksum_rows, self._checksums, self.fingerprint
        array = self._opened[1].arrays[FEATURES]
        length = size * self.dim * array.dtype.itemsize

        def read(first: int, content: memoryview) -> None:
            self._read_into(descriptor, content, array.offset + first * length, FEATURES)
            for number, start in enumerate(range(0, len(content), length), first):
                if block_checksum(content[start:start + length], fingerprint, number) != checksums[number]:
                    last = min((number + 1) * size, self.rows) - 1
                    raise DamagedFile(f"{self.path}: the features do not read back (the checksum of rows "
                                      f"{number * size} to {last} does not match): delete it and extract again")

        with self._open() as descriptor:
            yield read

    def _read_into(self, descriptor: int, content: memoryview, offset: int, name: str) -> None:
        while len(content):
            if not (count := os.preadv(descriptor, [content], offset)):
                raise DamagedFile(f"{self.path}: cut off in /{name}: delete it and extract again")
            content, offset = content[count:], offset + count

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Begin the sentence of each error with this file's path."""
        try:
            yield
        except CacheError as error:
            raise type(error)(f"{self.path}: {error}") from None

    @contextlib.contextmanager
    def _open(self, *, again: bool = True) -> Iterator[int]:
        """Open the file whose header was read, `again`, or whatever file is there. Raises FileGone, also if another has
        taken its place, DamagedFile for what is no regular file, OSError."""
        seal, block = self._opened if again else (b"", None)
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would block
        except FileNotFoundError:
            if self.path.is_symlink():
                raise CacheError(f"{self.path}: a link to nothing: fetch it first (DVC, git-annex)") from None
            raise FileGone(f"{self.path}: no such feature file") from None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise DamagedFile(f"{self.path}: not a regular file")
            if block and (os.fstat(descriptor).st_size, os.pread(descriptor, SEAL_BYTES, 0)) != (block.size, seal):
                raise FileGone(f"{self.path}: replaced by another process while it was read: try again")
            yield descriptor
        finally:
            os.close(descriptor)


def block_rows(dim: int, most: int = BLOCK_ROWS) -> int:
    """Rows of `dim` numbers that are in memory at once where a file is read in blocks: at most `most`."""
    return max(1, min(most, BLOCK_VALUES // dim))


def block_checksum(content: memoryview, fingerprint: str, number: int) -> int:
    """XXH3 of a block of rows; the same bytes in another place, or under another recipe, have another checksum."""
    seed = (int(fingerprint, 16) + number * 0x9E3779B97F4A7C15) % (1 << 64)
    return xxhash.xxh3_64_intdigest(content, seed=seed)


def checksum_of_rest(descriptor: int, arrays: Iterable[StoredArray], *, start: int, size: int) -> str:
    """XXH3 in hex of the bytes from `start` on that are in no array: the tables by which HDF5 finds its way."""
    digest = xxhash.xxh3_128()
    spans = sorted((array.offset, array.offset + array.nbytes) for array in arrays if array.nbytes)
    for offset, end in [*spans, (size, size)]:
        while start < offset and (content := os.pread(descriptor, min(offset - start, MAX_HEADER), start)):
            digest.update(content)
            start += len(content)
        start = max(start, end)
    return digest.hexdigest()


def bytes_of(values: np.ndarray) -> memoryview:
    """The bytes of a contiguous array, without a copy."""
    return values.reshape(-1).view(np.uint8).data if values.size else memoryview(b"")


def first_non_finite_row(rows: np.ndarray) -> int | None:
    """Index of the first row of (N, D) with an infinity or a NaN; None if all numbers are finite."""
    exponent = 0x7C00  # the bits of a float16 that are all set in infinities and NaNs, and in nothing else
    if rows.dtype == np.float16 and rows.size and (rows.view(np.uint16) & 0x7FFF).max() < exponent:
        return None  # numpy's isfinite would convert each float16, which takes ten times as long
    finite = np.isfinite(rows).all(axis=1)
    return None if finite.all() else int(finite.argmin())


def check_keys(keys: np.ndarray, failed: np.ndarray) -> None:
    """Raise DamagedFile unless all keys (encoded) are different plain paths that cannot leave their root."""
    everything = [*keys.tolist(), *failed.tolist()]
    if len(set(everything)) != len(everything):
        raise DamagedFile("it has a key twice")
    if everything and BAD_KEYS.search(b"\0".join(everything)):
        bad = next(key for key in everything if not key or BAD_KEYS.search(key))
        raise DamagedFile(f"the key {bad.decode(errors='replace')[:200]!r} is not a plain relative path")
