"""Write a feature file: whole, in one step, on disk space that is reserved beforehand.

h5py lays out the HDF5 file (contiguous arrays, nothing of variable length, no filter); the bytes are written at the
offsets that it chose, and these offsets into the user block in front (see `user_block`).
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import h5py
import msgspec
import numpy as np
import xxhash

from twofold.cache.classifier import BackboneClassifier
from twofold.cache.errors import CacheError
from twofold.cache.feature_file import block_checksum, bytes_of, check_keys, checksum_of_rest, first_non_finite_row
from twofold.cache.recipe import Recipe
from twofold.cache.user_block import (
    CHECKSUMS,
    FEATURES,
    MAX_BYTES,
    MAX_TEXT_BYTES,
    Header,
    StoredArray,
    UserBlock,
)

CHECKSUM_ROWS = 256  #: rows that share a checksum
CHECKSUM_BYTES = 1 << 19  #: that share one where rows have pieces: they are long, and training reads few at a time
SMALL_FILE = 1 << 16  #: bytes of HDF5's own tables


def write_feature_file(
    path: Path, *, recipe: Recipe, dim: int, keys: Sequence[str], sha256: Sequence[str | bytes],
    features: np.ndarray | Iterable[np.ndarray], failures: dict[str, str],
    classifier: BackboneClassifier | None = None,
) -> None:
    """Write a whole feature file to `path`, by rule a temporary name that the caller publishes.

    keys: N unique keys in order; sha256: N hex texts; features: (N, dim) or blocks of rows that add up to it, finite;
    failures: key to reason; classifier: the backbone's own.
    Raises CacheError for keys that no feature file may hold or rows that do not add up, OSError if the disk is full.
    """
    reasons = [reason.encode()[:MAX_TEXT_BYTES].decode("utf-8", "ignore") for reason in failures.values()]
    tables = {"keys": _encoded(keys), "sha256": np.asarray(sha256, "S64"),
              "failures/keys": _encoded(list(failures)), "failures/reasons": _encoded(reasons)}
    check_keys(tables["keys"], tables["failures/keys"])
    tables |= classifier.arrays(dim) if classifier else {}
    dtype, shape = np.dtype(recipe.dtype).newbyteorder("<"), recipe.shape(len(keys), dim)
    together = max(1, min(CHECKSUM_ROWS, CHECKSUM_BYTES // (dim * dtype.itemsize))) if recipe.pieces else CHECKSUM_ROWS
    tables[CHECKSUMS] = np.zeros(-(-len(keys) // together), "<u8")
    versions = {name: sys.modules[name].__version__ for name in ("torch", "timm", "torchvision", "PIL", "onnxruntime")
                if name in sys.modules}
    software = {"python": sys.version.split()[0], "h5py": h5py.__version__, "numpy": np.__version__} | versions
    header = Header(
        backbone=recipe.backbone, view=recipe.view["name"], dim=dim, rows=len(keys), failed=len(failures),
        checksum_rows=together, recipe=recipe.canonical(), fingerprint=recipe.fingerprint,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), software=json.dumps(software))
    arrays = {name: StoredArray(MAX_BYTES, values.shape, values.dtype.str, "0" * 32)
              for name, values in tables.items()} | {FEATURES: StoredArray(MAX_BYTES, shape, dtype.str)}
    block = UserBlock(header=header, arrays=arrays, classifier=classifier.record() if classifier else None,
                      hdf5="0" * 32, size=MAX_BYTES)
    start = 1 << (len(block.sealed()) - 1).bit_length()  # HDF5's user block is a power of two
    offsets = _lay_out(path, block, start=start)
    with path.open("r+b", buffering=0) as file:
        descriptor, offset = file.fileno(), offsets[FEATURES]
        for number, rows in enumerate(_full_blocks(features, len(keys), dim, dtype, size=together)):
            if (wrong := first_non_finite_row(rows)) is not None:
                raise CacheError(f"the features of {keys[number * together + wrong]!r} are not finite numbers")
            content = bytes_of(rows)
            tables[CHECKSUMS][number] = block_checksum(content, recipe.fingerprint, number)
            offset = _write_at(descriptor, content, offset)
        arrays = {FEATURES: StoredArray(offsets[FEATURES], shape, dtype.str)}
        for name, values in tables.items():
            content = bytes_of(np.ascontiguousarray(values))
            arrays[name] = StoredArray(offsets[name], values.shape, values.dtype.str,
                                       xxhash.xxh3_128_hexdigest(content))
            _write_at(descriptor, content, offsets[name])
        size = os.fstat(descriptor).st_size
        rest = checksum_of_rest(descriptor, arrays.values(), start=start, size=size)
        _write_at(descriptor, msgspec.structs.replace(block, arrays=arrays, hdf5=rest, size=size).sealed(), 0)


def _lay_out(path: Path, block: UserBlock, *, start: int) -> dict[str, int]:
    """Create the HDF5 file with these attributes and arrays, without values; return the offset of each array. Raises
    OSError if the disk has no space: HDF5 itself handles a full disk badly, its write cache stays behind and crashes
    the process at its end."""
    h5py.File(path, "w", locking=False, userblock_size=start).close()
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            size = sum(array.nbytes for array in block.arrays.values())
            os.posix_fallocate(file.fileno(), 0, start + SMALL_FILE + size)
    storage = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    storage.set_layout(h5py.h5d.CONTIGUOUS)
    storage.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    storage.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    groups = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    groups.set_create_intermediate_group(1)
    offsets = {}
    with h5py.File(path, "r+", locking=False, alignment_threshold=1, alignment_interval=64) as file:
        pieces = Recipe.from_json(block.header.recipe).pieces
        _set_attributes(file, msgspec.to_builtins(block.header) | ({"pieces": json.dumps(pieces)} if pieces else {}))
        for name, array in block.arrays.items():
            kind = h5py.string_dtype("utf-8", array.dtype.itemsize) if array.dtype.kind == "S" else array.dtype
            dataset = h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(kind, logical=True),
                                      h5py.h5s.create_simple(array.shape), dcpl=storage, lcpl=groups)
            offsets[name] = dataset.get_offset() if array.nbytes else 0
        if block.classifier:
            attributes = msgspec.to_builtins(block.classifier)
            _set_attributes(file.require_group("classifier"), attributes | {
                "classes": json.dumps(attributes["classes"])})
    return offsets


def _set_attributes(group: h5py.Group, attributes: dict[str, str | int]) -> None:
    """Texts of fixed length: in HDF5's heap for texts of any length one wrong bit makes readers hang."""
    for name, value in attributes.items():
        if isinstance(value, int):
            group.attrs[name] = value
        else:
            content = value.encode() or b"\0"
            group.attrs.create(name, content, dtype=h5py.string_dtype("utf-8", len(content)))


def _full_blocks(features: np.ndarray | Iterable[np.ndarray], total: int, dim: int, dtype: np.dtype, *, size: int
                 ) -> Iterator[np.ndarray]:
    """The same rows as stored, in blocks of `size` that share a checksum; the array is reused. Raises CacheError unless
    they are `total` rows of `dim`."""
    block, count, seen = np.empty((size, dim), dtype), 0, 0
    for rows in [features] if isinstance(features, np.ndarray) else features:
        if rows.ndim != 2 or rows.shape[1] != dim:
            raise CacheError(f"features of shape {rows.shape}, not rows of {dim}")
        start, seen = 0, seen + len(rows)
        while start < len(rows) and seen <= total:
            taken = rows[start:start + size - count]
            with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused
                block[count:count + len(taken)] = taken
            start, count = start + len(taken), count + len(taken)
            if count == size:
                yield block
                count = 0
    if seen != total:
        raise CacheError(f"{seen} rows of features for {total} keys")
    if count:
        yield block[:count]


def _write_at(descriptor: int, content: bytes | memoryview, offset: int) -> int:
    """Write all bytes; return the offset behind them."""
    buffer = memoryview(content)
    while len(buffer):
        count = os.pwrite(descriptor, buffer, offset)
        buffer, offset = buffer[count:], offset + count
    return offset


def _encoded(texts: Sequence[str]) -> np.ndarray:
    """(N,) UTF-8 bytes of fixed length. Raises CacheError for a text that is too long: cut, a key would be another."""
    values = [text.encode("utf-8") for text in texts]
    if long := next((value for value in values if len(value) > MAX_TEXT_BYTES), None):
        raise CacheError(f"the key {long[:60].decode(errors='ignore') + '...'!r} has {len(long)} bytes; "
                         f"{MAX_TEXT_BYTES} is the most: give the file a shorter path")
    return np.array(values, f"S{max(map(len, values), default=1) or 1}")
