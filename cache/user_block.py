"""The user block of a feature file: what stands in front of its HDF5, by which Twofold reads it.

One line `twofold-features 3 LENGTH SHA256`, then LENGTH bytes of JSON: the header, and offset, shape, type and checksum
of every array.
"""

import hashlib
import os
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from twofold.cache.classifier import BIAS, GROUPS, SHA256, WEIGHT, ClassifierRecord
from twofold.cache.errors import CacheError, DamagedFile
from twofold.cache.recipe import Recipe

FORMAT, FORMAT_VERSION = "twofold-features", 3
MAGIC = f"{FORMAT} {FORMAT_VERSION} ".encode()
SEAL_BYTES = len(MAGIC) + 8 + 1 + 64 + 1  #: of the first line: magic, length of the JSON, its SHA-256
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAX_HEADER = 1 << 20
MAX_TEXT_BYTES = 4096  #: longest key or reason, in UTF-8
MAX_DIM = 1 << 20  #: 256 tokens of 4096 numbers
MAX_BYTES = 1 << 60

FEATURES, CHECKSUMS = "features", "checksums"
TABLES = ("keys", "sha256", "failures/keys", "failures/reasons")
REQUIRED = {FEATURES, CHECKSUMS, *TABLES}
CLASSIFIER = {WEIGHT, BIAS, SHA256, GROUPS}

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
    shape: Annotated[tuple[Count, ...], Meta(min_length=1, max_length=3)]
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
        if recipe.pieces and sum(width for _, width in recipe.pieces) != header.dim:
            raise DamagedFile(f"its pieces are not {header.dim} numbers together: do not trust this file")
        if self.size != size:
            raise DamagedFile(f"it has {size} of its {self.size} bytes: delete it and extract again")
        if not REQUIRED <= names <= REQUIRED | CLASSIFIER:
            raise DamagedFile(f"it lacks or adds arrays: {', '.join(sorted(names ^ REQUIRED))[:200]}")
        dtype = np.dtype(recipe.dtype).newbyteorder("<").str
        expected = {FEATURES: (recipe.shape(header.rows, header.dim), dtype), "sha256": ((header.rows,), "|S64"),
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
