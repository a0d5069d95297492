"""The layout of a feature file, for its reader and its writer: user block, arrays, keys, checksums.

A feature file is an HDF5 file for other programs. Its user block (bytes in front that HDF5 leaves alone) holds a line
`twofold-features 3 LENGTH SHA256` and LENGTH bytes of JSON: the header, and offset, shape, type and checksum of every
array. Twofold reads plain arrays by that alone: a file from a stranger never meets the HDF5 library.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import xxhash
from msgspec import Meta

from twofold.cache.classifier import BIAS, GROUPS, SHA256, WEIGHT, ClassifierRecord
from twofold.cache.errors import CacheError, DamagedFile
from twofold.cache.recipe import Recipe

FORMAT = "twofold-features"
FORMAT_VERSION = 3
MAGIC = f"{FORMAT} {FORMAT_VERSION} ".encode()
SEAL_BYTES = len(MAGIC) + 8 + 1 + 64 + 1  #: of the first line: magic, length of the JSON, its SHA-256
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAX_HEADER = 1 << 20
MAX_TEXT_BYTES = 4096  #: longest key or reason, in UTF-8
MAX_DIM = 1 << 15  #: the largest embedding in use has 4096 numbers
MAX_ROWS = 1 << 36
MAX_BYTES = 1 << 60

FEATURES, CHECKSUMS = "features", "checksums"
TABLES = ("keys", "sha256", "failures/keys", "failures/reasons")
REQUIRED = {FEATURES, CHECKSUMS, *TABLES}
CLASSIFIER = {WEIGHT, BIAS, SHA256, GROUPS}
BAD_KEYS = re.compile(rb"(?:^|\0)(?:/|\0|$)|(?:^|[\0/])\.\.?(?=[/\0]|$)|//|\\")

Count = Annotated[int, Meta(ge=0, le=MAX_ROWS)]
Bytes = Annotated[int, Meta(ge=0, le=MAX_BYTES)]


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a feature file says of itself; also the attributes of the HDF5 file.

    checksum_rows: rows that share a checksum; failed: samples without features; software: JSON.
    """

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

    offset: Bytes
    shape: Annotated[tuple[Bytes, ...], Meta(min_length=1, max_length=2)]
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
    size: Bytes

    def sealed(self) -> bytes:
        """The user block as it is written: one line with length and SHA-256 of what follows, then JSON."""
        text = msgspec.json.format(msgspec.json.encode(self), indent=1)
        return MAGIC + f"{len(text):08d} {hashlib.sha256(text).hexdigest()}\n".encode() + text


def read_user_block(descriptor: int, path: Path) -> tuple[bytes, UserBlock]:
    """Read and check the user block of an open file; return its first line, too.

    Raises DamagedFile, or CacheError for a file of another format version, which may be sound.
    """
    seal = os.pread(descriptor, SEAL_BYTES, 0)
    if not seal.startswith(MAGIC):
        raise _foreign(seal, path)
    length, _, digest = seal[len(MAGIC):-1].partition(b" ")
    count = int(length) if length.isdigit() else MAX_HEADER + 1
    text = os.pread(descriptor, min(count, MAX_HEADER), SEAL_BYTES)
    if len(text) != count or hashlib.sha256(text).hexdigest().encode() != digest:
        raise DamagedFile(f"{path}: its header was altered or cut off: delete it and extract again")
    try:
        block = msgspec.json.decode(text, type=UserBlock)
        _require_consistent(block, os.fstat(descriptor).st_size)
    except CacheError as error:
        raise type(error)(f"{path}: {error}") from None
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise DamagedFile(f"{path}: its header has not the schema of a feature file: {str(error)[:200]}") from None
    return seal, block


def _foreign(start: bytes, path: Path) -> CacheError:
    if start.startswith(HDF5_SIGNATURE):
        return DamagedFile(f"{path}: an HDF5 file without Twofold's user block (h5repack and other programs leave it "
                           "out): extract again")
    name, _, rest = start.partition(b" ")
    if name == FORMAT.encode():
        number = rest.partition(b" ")[0].decode("ascii", "replace")
        return CacheError(f"{path}: format version {number[:20]!r} is not {FORMAT_VERSION}: update Twofold, or extract "
                          "again")
    return DamagedFile(f"{path}: not a whole feature file that Twofold has written")


def _require_consistent(block: UserBlock, size: int) -> None:
    """Raise DamagedFile unless header, recipe, arrays and file size agree."""
    header, names = block.header, block.arrays.keys()
    recipe = Recipe.from_json(header.recipe)
    if recipe.canonical() != header.recipe or recipe.fingerprint != header.fingerprint:
        raise DamagedFile("the recipe does not match its fingerprint: do not trust this file")
    if (recipe.backbone, recipe.view["name"]) != (header.backbone, header.view):
        raise DamagedFile("backbone or view is not the recipe's: do not trust this file")
    if block.size != size:
        raise DamagedFile(f"it has {size} of its {block.size} bytes: delete it and extract again")
    if not names >= REQUIRED or not names <= REQUIRED | CLASSIFIER:
        raise DamagedFile(f"it lacks or adds arrays: {', '.join(sorted(names ^ REQUIRED))[:200]}")
    dtype = np.dtype(recipe.dtype).newbyteorder("<").str
    expected = {FEATURES: ((header.rows, header.dim), dtype), "sha256": ((header.rows,), "|S64"),
                CHECKSUMS: ((-(-header.rows // header.checksum_rows),), "<u8"), "keys": ((header.rows,), "|S"),
                "failures/keys": ((header.failed,), "|S"), "failures/reasons": ((header.failed,), "|S")}
    for name, array in block.arrays.items():
        shape, kind = expected.get(name, (array.shape, "|u1" if name in (SHA256, GROUPS) else "<f4"))
        if array.shape != shape or not array.type.startswith(kind):
            raise DamagedFile(f"/{name} is {array.shape} of {array.type}, as the format does not store it")
        if array.dtype.kind == "S" and not 1 <= array.dtype.itemsize <= MAX_TEXT_BYTES:
            raise DamagedFile(f"/{name} holds texts of {array.dtype.itemsize} bytes; {MAX_TEXT_BYTES} is the most")
        if array.offset + array.nbytes > size:
            raise DamagedFile(f"/{name} claims {array.nbytes} bytes, more than the file of {size} can hold")


def block_seed(fingerprint: str, block: int) -> int:
    """Seed of a block's checksum: the same bytes in another place, or under another recipe, have another checksum."""
    return (int(fingerprint, 16) + block * 0x9E3779B97F4A7C15) % (1 << 64)


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


def check_keys(keys: np.ndarray, failed: np.ndarray, path: Path) -> None:
    """Raise DamagedFile unless all keys (encoded) are different plain paths that cannot leave their root."""
    everything = [*keys.tolist(), *failed.tolist()]
    if len(set(everything)) != len(everything):
        raise DamagedFile(f"{path}: it has a key twice")
    if everything and BAD_KEYS.search(b"\0".join(everything)):
        bad = next(key for key in everything if not key or BAD_KEYS.search(key))
        raise DamagedFile(f"{path}: the key {bad.decode(errors='replace')[:200]!r} is not a plain relative path")


def encode_keys(keys: Sequence[str]) -> np.ndarray:
    """(N,) UTF-8 bytes of fixed length. Raises CacheError for a key that is too long: cut, it would be another."""
    values = [key.encode("utf-8") for key in keys]
    if long := next((value for value in values if len(value) > MAX_TEXT_BYTES), None):
        raise CacheError(f"the key {long[:60].decode(errors='ignore') + '...'!r} has {len(long)} bytes; "
                         f"{MAX_TEXT_BYTES} is the most: give the file a shorter path")
    return np.array(values, f"S{max(map(len, values), default=1) or 1}")


def encode_reasons(reasons: Iterable[str]) -> np.ndarray:
    """(N,) UTF-8 bytes of fixed length; a longer text is cut between characters."""
    return encode_keys([reason.encode()[:MAX_TEXT_BYTES].decode("utf-8", "ignore") for reason in reasons])


def decode_texts(values: np.ndarray, path: Path) -> np.ndarray:
    """(N,) object array of str. Raises DamagedFile if they are not UTF-8."""
    try:
        texts = np.empty(len(values), object)
        texts[:] = [value.decode("utf-8") for value in values.tolist()]
        return texts
    except UnicodeDecodeError:
        raise DamagedFile(f"{path}: a key or reason is not UTF-8") from None
