"""A feature file: the embeddings of one backbone and one view, with the recipe that made them.

It is an HDF5 file for other programs. Its user block (bytes in front that HDF5 leaves alone) holds a line
`twofold-features 3 LENGTH SHA256` and LENGTH bytes of JSON: the header, and offset, shape, type and checksum of every
array. Twofold reads plain arrays by that alone: a file from a stranger never meets the HDF5 library.
"""

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import xxhash
from msgspec import Meta

from twofold.cache.classifier import BIAS, GROUPS, SHA256, WEIGHT, BackboneClassifier, ClassifierRecord, read_classifier
from twofold.cache.errors import CacheError, DamagedFile, FileGone
from twofold.cache.recipe import Recipe

FORMAT, FORMAT_VERSION = "twofold-features", 3
MAGIC = f"{FORMAT} {FORMAT_VERSION} ".encode()
SEAL_BYTES = len(MAGIC) + 8 + 1 + 64 + 1  #: of the first line: magic, length of the JSON, its SHA-256
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAX_HEADER = 1 << 20
MAX_TEXT_BYTES = 4096  #: longest key or reason, in UTF-8
MAX_DIM = 1 << 15  #: the largest embedding in use has 4096 numbers
MAX_BYTES = 1 << 60
BLOCK_ROWS = 8192
READ_BYTES = 1 << 19  #: of one read: less costs calls, more leaves the processor's cache before it is checked

FEATURES, CHECKSUMS = "features", "checksums"
TABLES = ("keys", "sha256", "failures/keys", "failures/reasons")
REQUIRED = {FEATURES, CHECKSUMS, *TABLES}
CLASSIFIER = {WEIGHT, BIAS, SHA256, GROUPS}
BAD_KEYS = re.compile(rb"(?:^|\0)(?:/|\0|$)|(?:^|[\0/])\.\.?(?=[/\0]|$)|//|\\")

Count = Annotated[int, Meta(ge=0, le=MAX_BYTES)]


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a feature file says of itself; also the attributes of the HDF5 file. checksum_rows: rows that share a
    checksum; failed: samples without features; software: JSON."""

    format: str = FORMAT
    format_version: int = FORMAT_VERSION
    backbone: str
    view: str
    dim: Annotated[int, Meta(ge=1, le=MAX_DIM)]
    rows: Count
    failed: Count
    checksum_rows: Annotated[int, Meta(ge=1, le=1 << 20)]
    recipe: str
    fingerprint: str
    created: str
    software: str


class StoredArray(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An array in the file. xxh3: 128-bit checksum in hex; empty for the features, whose blocks have their own."""

    offset: Count
    shape: Annotated[tuple[Count, ...], Meta(min_length=1, max_length=2)]
    type: Annotated[str, Meta(pattern=r"^(<f2|<f4|<u8|\|u1|\|S[0-9]{1,4})$")]
    xxh3: str = ""

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.type)

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


class UserBlock(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The JSON in front of the file. hdf5: checksum of HDF5's own tables; size: of the file in bytes."""

    header: Header
    arrays: dict[str, StoredArray]
    classifier: ClassifierRecord | None
    hdf5: str
    size: Count

    def sealed(self) -> bytes:
        """As it is written: one line with length and SHA-256 of what follows, then JSON."""
        text = msgspec.json.format(msgspec.json.encode(self), indent=1)
        return MAGIC + f"{len(text):08d} {hashlib.sha256(text).hexdigest()}\n".encode() + text

    def require_consistent(self, size: int) -> None:
        """Raise DamagedFile unless header, recipe, arrays and the size of the file agree."""
        header, names, recipe = self.header, self.arrays.keys(), Recipe.from_json(self.header.recipe)
        if (recipe.canonical(), recipe.fingerprint) != (header.recipe, header.fingerprint):
            raise DamagedFile("the recipe does not match its fingerprint: do not trust this file")
        if (recipe.backbone, recipe.view["name"]) != (header.backbone, header.view):
            raise DamagedFile("backbone or view is not the recipe's: do not trust this file")
        if self.size != size:
            raise DamagedFile(f"it has {size} of its {self.size} bytes: delete it and extract again")
        if not REQUIRED <= names <= REQUIRED | CLASSIFIER:
            raise DamagedFile(f"it lacks or adds arrays: {', '.join(sorted(names ^ REQUIRED))[:200]}")
        dtype = np.dtype(recipe.dtype).newbyteorder("<").str
        expected = {FEATURES: ((header.rows, header.dim), dtype), "sha256": ((header.rows,), "|S64"),
                    CHECKSUMS: ((-(-header.rows // header.checksum_rows),), "<u8"), "keys": ((header.rows,), "|S"),
                    "failures/keys": ((header.failed,), "|S"), "failures/reasons": ((header.failed,), "|S")}
        for name, array in self.arrays.items():
            shape, kind = expected.get(name, (array.shape, "|u1" if name in (SHA256, GROUPS) else "<f4"))
            if array.shape != shape or not array.type.startswith(kind):
                raise DamagedFile(f"/{name} is {array.shape} of {array.type}, as the format does not store it")
            if array.dtype.kind == "S" and not 1 <= array.dtype.itemsize <= MAX_TEXT_BYTES:
                raise DamagedFile(f"/{name} holds texts of {array.dtype.itemsize} bytes; {MAX_TEXT_BYTES} is the most")
            if array.offset + array.nbytes > size:
                raise DamagedFile(f"/{name} claims {array.nbytes} bytes, more than the file of {size} can hold")


def read_user_block(descriptor: int) -> tuple[bytes, UserBlock]:
    """Read and check the user block of an open file; return its first line, too. Raises DamagedFile, or CacheError for
    a file of another format version, which may be sound."""
    seal = os.pread(descriptor, SEAL_BYTES, 0)
    if seal.startswith(HDF5_SIGNATURE):
        raise DamagedFile("an HDF5 file without Twofold's user block (h5repack and other programs leave it out): "
                          "extract again")
    if not seal.startswith(MAGIC):
        name, _, rest = seal.partition(b" ")
        if name != FORMAT.encode():
            raise DamagedFile("not a whole feature file that Twofold has written")
        number = rest.partition(b" ")[0].decode("ascii", "replace")[:20]
        raise CacheError(f"format version {number!r} is not {FORMAT_VERSION}: update Twofold, or extract again")
    length, _, digest = seal[len(MAGIC):-1].partition(b" ")
    count = int(length) if length.isdigit() else MAX_HEADER + 1
    text = os.pread(descriptor, min(count, MAX_HEADER), SEAL_BYTES)
    if len(text) != count or hashlib.sha256(text).hexdigest().encode() != digest:
        raise DamagedFile("its header was altered or cut off: delete it and extract again")
    try:
        block = msgspec.json.decode(text, type=UserBlock)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise DamagedFile(f"its header has not the schema of a feature file: {str(error)[:200]}") from None
    block.require_consistent(os.fstat(descriptor).st_size)
    return seal, block


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

    def read_rows(self, rows: np.ndarray | None, *, dtype: np.dtype | type | str = np.float32) -> np.ndarray:
        """(M, D) array of `dtype`: the rows at these indices, in the order given; all of them if None."""
        values = np.empty((self.rows if rows is None else len(rows), self.dim), dtype)
        size = self.header.checksum_rows
        if rows is not None:
            order = np.argsort(rows, kind="stable")
            numbers, starts = np.unique(rows[order] // size, return_index=True)
            places = np.split(order, starts[1:])
            for (start, block), place in zip(self.blocks(numbers.tolist()), places, strict=False):
                values[place] = block[rows[place] - start]
        elif values.dtype == np.dtype(self.recipe.dtype):  # straight into place: no byte is copied twice
            content, length = bytes_of(values), size * self.dim * values.itemsize
            span = max(1, READ_BYTES // length)
            with self._block_reader() as read:
                for first in range(0, -(-self.rows // size), span):
                    read(first, content[first * length:(first + span) * length])
        else:
            for start, block in self.blocks():
                values[start:start + len(block)] = block
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

    @contextlib.contextmanager
    def _block_reader(self) -> Iterator[Callable[[int, memoryview], None]]:
        """Yield a function that fills bytes from the start of a block on, and checks each block of them."""
        size, checksums, fingerprint = self.header.checksum_rows, self._table(CHECKSUMS).tolist(), self.fingerprint
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
