"""Writing a feature file: whole, in one step, on disk space reserved beforehand.

h5py lays out the file (arrays without a gap, nothing of variable length, no filter); the bytes themselves are written
at the places that it chose, and what we need to find them again into the user block in front (see `version2`).
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import xxhash

from twofold.cache.atomic import published
from twofold.cache.errors import CacheError
from twofold.cache.format.classifier import OwnClassifier, classifier_arrays, classifier_record
from twofold.cache.format.finite import first_not_finite
from twofold.cache.format.header import BLOCK_OF_CHECKSUM, FORMAT, FORMAT_VERSION
from twofold.cache.format.index import check_keys, encoded_keys, encoded_reasons
from twofold.cache.format.version2 import CHECKSUMS, Array, block_seed, bytes_of, checksum_of_rest, sealed
from twofold.cache.recipe import Recipe

SMALL_FILE = 1 << 16  #: bytes of HDF5's own tables


def write_featurefile(
    path: Path, *, recipe: Recipe, dim: int, keys: Sequence[str], sha256: Sequence[str | bytes],
    features: np.ndarray | Iterable[np.ndarray], failures: dict[str, str], classifier: OwnClassifier | None = None,
) -> None:
    """Write a whole feature file and publish it under `path` in one step; as `fill_featurefile`."""
    with published(path) as temporary:
        fill_featurefile(temporary, recipe=recipe, dim=dim, keys=keys, sha256=sha256, features=features,
                         failures=failures, classifier=classifier)


def fill_featurefile(
    path: Path, *, recipe: Recipe, dim: int, keys: Sequence[str], sha256: Sequence[str | bytes],
    features: np.ndarray | Iterable[np.ndarray], failures: dict[str, str], classifier: OwnClassifier | None = None,
) -> None:
    """Write a whole feature file to `path`, a temporary name that nobody reads yet.

    keys: N unique keys in order; sha256: N hex texts; features: (N, dim) or blocks of rows that add up to it, finite;
    failures: key to reason; classifier: the one that the backbone brought along.
    Raises CacheError for keys that no feature file may hold or rows that do not add up, OSError if the disk is full.
    """
    tables = {"keys": encoded_keys(keys), "sha256": np.asarray(sha256, "S64"),
              "failures/keys": encoded_keys(list(failures)), "failures/reasons": encoded_reasons([*failures.values()])}
    check_keys(tables["keys"], tables["failures/keys"], path)
    tables |= classifier_arrays(classifier, dim)
    header = {
        "format": FORMAT, "format_version": FORMAT_VERSION, "backbone": recipe.backbone, "view": recipe.view["name"],
        "dim": dim, "rows": len(keys), "failed": len(failures), "recipe": recipe.canonical(),
        "fingerprint": recipe.fingerprint, "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "software": _software(),
    }
    record, dtype = classifier_record(classifier), np.dtype(recipe.dtype).newbyteorder("<")
    checksums = np.zeros(-(-len(keys) // BLOCK_OF_CHECKSUM), "<u8")
    arrays = {name: Array(1 << 60, values.shape, values.dtype, "0" * 32)
              for name, values in (tables | {CHECKSUMS: checksums}).items()}
    arrays["features"] = Array(1 << 60, (len(keys), dim), dtype, "")
    room = len(sealed(header, arrays, record, hdf5="0" * 32, size=1 << 60))
    user_block = 1 << (room - 1).bit_length()
    arrays = _lay_out(path, header, arrays, record, user_block=user_block)
    with path.open("r+b", buffering=0) as file:
        _write_features(file.fileno(), arrays["features"], _full_blocks(features, dim, dtype, path), checksums, keys,
                        recipe.fingerprint)
        for name, values in (tables | {CHECKSUMS: checksums}).items():
            content = np.ascontiguousarray(values).tobytes()
            arrays[name] = Array(arrays[name].offset, values.shape, values.dtype, xxhash.xxh3_128_hexdigest(content))
            _write_at(file.fileno(), content, arrays[name].offset)
        size = os.fstat(file.fileno()).st_size
        rest = checksum_of_rest(file.fileno(), arrays.values(), start=user_block, size=size)
        _write_at(file.fileno(), sealed(header, arrays, record, hdf5=rest, size=size), 0)


def _lay_out(
    path: Path, header: dict[str, str | int], arrays: dict[str, Array], classifier: dict | None, *, user_block: int,
) -> dict[str, Array]:
    """An HDF5 file of these attributes and arrays, without their values; returns where each array stands.

    Raises OSError if its space is not to be had: HDF5 itself takes a full disk badly, its write cache stays behind and
    brings the process down at its end.
    """
    h5py.File(path, "w", locking=False, userblock_size=user_block).close()
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            size = sum(array.bytes for array in arrays.values())
            os.posix_fallocate(file.fileno(), 0, user_block + SMALL_FILE + size)
    how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    how.set_layout(h5py.h5d.CONTIGUOUS)
    how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    how.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    groups = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    groups.set_create_intermediate_group(1)
    offsets = {}
    with h5py.File(path, "r+", locking=False, alignment_threshold=1, alignment_interval=64) as file:
        for name, value in header.items():
            _set_attribute(file, name, value)
        for name, array in arrays.items():
            kind = h5py.string_dtype("utf-8", array.dtype.itemsize) if array.dtype.kind == "S" else array.dtype
            dataset = h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(kind, logical=True),
                                      h5py.h5s.create_simple(array.shape), dcpl=how, lcpl=groups)
            offsets[name] = dataset.get_offset() if array.bytes else 0
        for name, value in (classifier or {}).items():
            _set_attribute(file.require_group("classifier"), name, json.dumps(value) if name == "classes" else value)
    return {name: Array(offsets[name], array.shape, array.dtype, array.xxh3) for name, array in arrays.items()}


def _set_attribute(place: h5py.Group, name: str, value: str | int) -> None:
    """Texts of fixed length: HDF5's heap for those of any length is where one wrong bit makes readers hang."""
    if isinstance(value, int):
        place.attrs[name] = value
    else:
        content = value.encode() or b"\0"
        place.attrs.create(name, content, dtype=h5py.string_dtype("utf-8", len(content)))


def _write_features(
    descriptor: int, array: Array, blocks: Iterator[np.ndarray], checksums: np.ndarray, keys: Sequence[str],
    fingerprint: str,
) -> None:
    """Write the blocks one behind the other and fill in their checksums."""
    row, seed = 0, int(fingerprint, 16)
    for number, rows in enumerate(blocks):
        if row + len(rows) > len(keys):
            raise CacheError(f"more rows of features than {len(keys)} keys")
        if (wrong := first_not_finite(rows)) is not None:
            raise CacheError(f"the features of {keys[row + wrong]!r} are not finite numbers")
        content = bytes_of(rows)
        checksums[number] = xxhash.xxh3_64_intdigest(content, seed=block_seed(seed, number))
        _write_at(descriptor, content, array.offset + row * rows.strides[0])
        row += len(rows)
    if row != len(keys):
        raise CacheError(f"{row} rows of features for {len(keys)} keys")


def _full_blocks(
    features: np.ndarray | Iterable[np.ndarray], dim: int, dtype: np.dtype, path: Path,
) -> Iterator[np.ndarray]:
    """The same rows as stored, in blocks that share a checksum; the array is used again for the next."""
    block, count = np.empty((BLOCK_OF_CHECKSUM, dim), dtype), 0
    for rows in [features] if isinstance(features, np.ndarray) else features:
        if rows.ndim != 2 or rows.shape[1] != dim:
            raise CacheError(f"{path}: features of shape {rows.shape}, not rows of {dim}")
        start = 0
        while start < len(rows):
            taken = rows[start:start + BLOCK_OF_CHECKSUM - count]
            with np.errstate(over="ignore"):  # what does not fit is found not to be finite
                block[count:count + len(taken)] = taken
            start, count = start + len(taken), count + len(taken)
            if count == BLOCK_OF_CHECKSUM:
                yield block
                count = 0
    if count:
        yield block[:count]


def _write_at(descriptor: int, content: bytes | memoryview, offset: int) -> None:
    buffer = memoryview(content)
    while len(buffer):
        count = os.pwrite(descriptor, buffer, offset)
        buffer, offset = buffer[count:], offset + count


def _software() -> str:
    versions = {name: sys.modules[name].__version__ for name in ("torch", "timm", "torchvision", "PIL", "onnxruntime")
                if name in sys.modules}
    return json.dumps({"python": sys.version.split()[0], "h5py": h5py.__version__, "numpy": np.__version__} | versions)
