"""Feature files of version 2: an HDF5 file for everybody else, whose user block tells us all that we need.

The user block (bytes in front of the file that HDF5 leaves alone) holds the header as JSON, sealed by its SHA-256,
with the place and the checksum of every array. So we read and map plain arrays at known places, and no file that a
stranger sent, or a disk has spoilt, is ever interpreted by the HDF5 library.
"""

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import xxhash

from twofold.cache.errors import CacheError, DamagedFile, FileGone
from twofold.cache.format.classifier import BIAS, GROUPS, SHA256, WEIGHT, OwnClassifier, classifier_from
from twofold.cache.format.header import BLOCK_OF_CHECKSUM, FORMAT, MAX_TEXT_BYTES, Header, require_agreement
from twofold.cache.format.index import TABLES

MAGIC = f"{FORMAT} 2 ".encode()
SEAL = len(MAGIC) + 8 + 1 + 64 + 1  #: bytes of the first line: magic, length of the JSON, its SHA-256
MAX_HEADER = 1 << 20
SPAN = 4  #: blocks of one read: with fewer the calls cost, with more the bytes leave the processor's cache unchecked
CHECKSUMS = "checksums"
REQUIRED = {"features", CHECKSUMS, *TABLES}
OPTIONAL = {WEIGHT, BIAS, SHA256, GROUPS}


@dataclass(frozen=True)
class Array:
    """Where an array stands in the file; xxh3: 128-bit checksum in hex, empty for the features, which have blocks."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype
    xxh3: str

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize

    def record(self) -> list:
        return [self.offset, list(self.shape), self.dtype.str, self.xxh3]


def sealed(header: dict, arrays: dict[str, Array], classifier: dict | None, *, hdf5: str, size: int) -> bytes:
    """The user block: one line with the length and SHA-256 of what follows, then JSON.

    hdf5: checksum of HDF5's own tables, see `checksum_of_rest`; size: of the whole file.
    """
    text = json.dumps({"header": header, "classifier": classifier, "hdf5": hdf5, "bytes": size,
                       "arrays": {name: array.record() for name, array in arrays.items()}}, indent=1).encode("ascii")
    return MAGIC + f"{len(text):08d} {hashlib.sha256(text).hexdigest()}\n".encode() + text


def checksum_of_rest(descriptor: int, arrays: Iterable[Array], *, start: int, size: int) -> str:
    """XXH3 in hex of the bytes from `start` on that are in no array: what HDF5 needs to find its way."""
    digest = xxhash.xxh3_128()
    for offset, end in sorted([(array.offset, array.offset + array.bytes) for array in arrays if array.bytes]
                              + [(size, size)]):
        while start < offset:
            content = os.pread(descriptor, min(offset - start, MAX_HEADER), start)
            if not content:
                break
            digest.update(content)
            start += len(content)
        start = max(start, end)
    return digest.hexdigest()


def block_seed(fingerprint: int, block: int) -> int:
    """Binds a block's checksum to its place and to the recipe: elsewhere the same bytes have another."""
    return (fingerprint + block * 0x9E3779B97F4A7C15) % (1 << 64)


class Version2:
    """An open door to one file: header and places are checked, the file is opened anew for each read."""

    def __init__(self, path: Path):
        self.path = path
        with self._file() as descriptor:
            self.size = os.fstat(descriptor).st_size
            self._seal, text = _user_block(descriptor, path)
            try:
                record = json.loads(text)
                self.header: Header = record["header"] | {"index_sha256": self._seal.decode()[-65:-1]}
                require_agreement(self.header)
                self._classifier, self._hdf5 = record["classifier"], record["hdf5"]
                if record["bytes"] != self.size:
                    raise DamagedFile(f"it has {self.size} of its {str(record['bytes'])[:20]} bytes")
                self.arrays = {name: _array(place) for name, place in record["arrays"].items()}
                self._require_places()
            except CacheError as error:
                raise type(error)(f"{path}: {error}") from None
            except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError):
                raise DamagedFile(f"{path}: its header is not one") from None

    @cached_property
    def _checksums(self) -> np.ndarray:
        return self.table(CHECKSUMS)

    def table(self, name: str) -> np.ndarray:
        """An array but for the features, whole. Raises DamagedFile if its checksum does not hold."""
        array = self.arrays[name]
        values = np.empty(array.shape, array.dtype)
        with self._same_file() as descriptor:
            self._read_into(descriptor, values, array.offset, name)
        if xxhash.xxh3_128_hexdigest(bytes_of(values)) != array.xxh3:
            raise DamagedFile(f"{self.path}: the checksum of /{name} does not hold: delete it and extract again")
        return values

    def tables(self) -> tuple[np.ndarray, ...]:
        """Keys, image hashes, keys and reasons of failures, all encoded."""
        return tuple(self.table(name) for name in TABLES)

    def classifier(self) -> OwnClassifier | None:
        try:
            arrays = {name: self.table(name) for name in OPTIONAL & set(self.arrays)}
            return classifier_from(self._classifier, arrays, self.header["dim"])
        except DamagedFile as error:
            raise DamagedFile(f"{self.path}: {str(error).removeprefix(f'{self.path}: ')}") from None

    def check_rest(self) -> None:
        """Raise DamagedFile unless what others read the file by is what was written; we do not need it."""
        start = 1 << (SEAL - 1).bit_length()
        with self._same_file() as descriptor:
            while start < self.size and os.pread(descriptor, 4, start) != b"\x89HDF":
                start *= 2
            if checksum_of_rest(descriptor, self.arrays.values(), start=start, size=self.size) != self._hdf5:
                raise DamagedFile(f"{self.path}: HDF5's own tables were altered: no other program will read it: delete "
                                  "it and extract again")

    def blocks(self, numbers: Iterator[int] | range | list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """(number, rows as stored) of each block that is asked for; the array is used again for the next."""
        array, checksums = self.arrays["features"], self._checksums
        spare = np.empty((BLOCK_OF_CHECKSUM, *array.shape[1:]), array.dtype)
        with self._same_file() as descriptor:
            for number in numbers:
                rows = spare[:min(BLOCK_OF_CHECKSUM, array.shape[0] - number * BLOCK_OF_CHECKSUM)]
                self._read_span(descriptor, number, rows, checksums)
                yield number, rows

    def read_all(self, out: np.ndarray) -> None:
        """Fill `out` (N, D), of the stored type, with all rows: no byte is copied twice."""
        checksums = self._checksums
        with self._same_file() as descriptor:
            for first in range(0, len(checksums), SPAN):
                rows = out[first * BLOCK_OF_CHECKSUM:(first + SPAN) * BLOCK_OF_CHECKSUM]
                self._read_span(descriptor, first, rows, checksums)

    def mapped(self) -> np.ndarray:
        """(N, D) as stored, read-only, each row read from the disk when it is touched; nothing is verified."""
        array = self.arrays["features"]
        with self._same_file() as descriptor, os.fdopen(os.dup(descriptor), "rb") as file:
            return np.memmap(file, array.dtype, "r", array.offset, array.shape)

    def is_current(self) -> bool:
        try:
            with self._same_file():
                return True
        except FileGone:
            return False

    def _read_span(self, descriptor: int, first: int, rows: np.ndarray, checksums: np.ndarray) -> None:
        """Fill `rows` from the start of block `first` on, and check each block of them."""
        seed, length = int(self.header["fingerprint"], 16), BLOCK_OF_CHECKSUM * rows.strides[0]
        self._read_into(descriptor, rows, self.arrays["features"].offset + first * length, "features")
        content = bytes_of(rows)
        for number, start in enumerate(range(0, len(content), length), first):
            digest = xxhash.xxh3_64_intdigest(content[start:start + length], seed=block_seed(seed, number))
            if digest != checksums[number]:
                row = number * BLOCK_OF_CHECKSUM
                raise DamagedFile(f"{self.path}: the features do not read back (the checksum of rows {row} to "
                                  f"{min(row + BLOCK_OF_CHECKSUM, self.header['rows']) - 1} does not hold): delete it "
                                  "and extract again")

    def _read_into(self, descriptor: int, values: np.ndarray, offset: int, name: str) -> None:
        buffer = bytes_of(values)
        while len(buffer):
            count = os.preadv(descriptor, [buffer], offset)
            if not count:
                raise DamagedFile(f"{self.path}: cut off in /{name}: delete it and extract again")
            buffer, offset = buffer[count:], offset + count

    def _require_places(self) -> None:
        names, rows, failed = set(self.arrays), self.header["rows"], self.header["failed"]
        if not REQUIRED <= names <= REQUIRED | OPTIONAL:
            raise DamagedFile(f"it lacks or adds arrays: {', '.join(sorted(names ^ REQUIRED))[:200]}")
        dtype = json.loads(self.header["recipe"])["dtype"]
        expected = {"features": ((rows, self.header["dim"]), np.dtype(dtype).newbyteorder("<")),
                    CHECKSUMS: ((-(-rows // BLOCK_OF_CHECKSUM),), np.dtype("<u8")),
                    "keys": ((rows,), None), "sha256": ((rows,), np.dtype("S64")),
                    "failures/keys": ((failed,), None), "failures/reasons": ((failed,), None)}
        for name, array in self.arrays.items():
            shape, kind = expected.get(name, (array.shape, np.dtype("u1" if "taught" in name else "<f4")))
            if array.shape != shape or (array.dtype != kind if kind else array.dtype.kind != "S"):
                raise DamagedFile(f"/{name} is {array.shape} of {array.dtype}, as the format does not store it")
            if array.dtype.itemsize > MAX_TEXT_BYTES or min(array.shape, default=1) < 0:
                raise DamagedFile(f"/{name} holds texts of {array.dtype.itemsize} bytes; {MAX_TEXT_BYTES} is the most")
            if array.offset < 0 or array.offset + array.bytes > self.size:
                raise DamagedFile(f"/{name} claims {array.bytes} bytes, more than the file of {self.size} can hold")

    @contextlib.contextmanager
    def _same_file(self) -> Iterator[int]:
        """The file that was checked, opened. Raises FileGone if another has taken its place."""
        with self._file() as descriptor:
            if os.fstat(descriptor).st_size != self.size or os.pread(descriptor, SEAL, 0) != self._seal:
                raise FileGone(f"{self.path}: replaced by another process while it was read: try again")
            yield descriptor

    @contextlib.contextmanager
    def _file(self) -> Iterator[int]:
        descriptor = open_plain(self.path)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def open_plain(path: Path) -> int:
    """A descriptor to read from. Raises FileGone, DamagedFile for what is no plain file, OSError as the system does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would wait for its writer
    except FileNotFoundError:
        raise FileGone(f"{path}: no such feature file") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DamagedFile(f"{path}: not a file")
    return descriptor


def _user_block(descriptor: int, path: Path) -> tuple[bytes, bytes]:
    """The sealing line, and the JSON that it seals."""
    seal = os.pread(descriptor, SEAL, 0)
    length, _, digest = seal[len(MAGIC):-1].partition(b" ")
    count = int(length) if length.isdigit() else MAX_HEADER + 1
    text = os.pread(descriptor, min(count, MAX_HEADER), SEAL)
    if len(text) != count or hashlib.sha256(text).hexdigest().encode() != digest:
        raise DamagedFile(f"{path}: keys, hashes or attributes were altered: its header does not hold: delete it and "
                          "extract again")
    return seal, text


def _array(place: list) -> Array:
    offset, shape, kind, xxh3 = place
    numbers = [offset, *shape]
    if any(type(number) is not int for number in numbers) or len(shape) > 2 or not isinstance(kind, str):
        raise DamagedFile("an array's place is not made of whole numbers")
    if kind not in ("<f2", "<f4", "<u8", "|u1") and not (kind.startswith("|S") and kind[2:].isdigit()):
        raise DamagedFile(f"an array of {kind[:20]!r}, which the format does not store")
    return Array(offset, tuple(shape), np.dtype(kind), xxh3)


def bytes_of(values: np.ndarray) -> memoryview:
    """An array's bytes, where they are."""
    return values.reshape(-1).view(np.uint8).data if values.size else memoryview(b"")
