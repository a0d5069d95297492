"""Writing a feature file: whole, in one step, on disk space reserved beforehand."""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np

from twofold.cache.atomic import published
from twofold.cache.errors import CacheError
from twofold.cache.format.classifier import OwnClassifier, write_classifier
from twofold.cache.format.index import TABLES, check_keys, digest_of, encoded
from twofold.cache.format.layout import CHUNK_ROWS, FILL, FORMAT, FORMAT_VERSION
from twofold.cache.recipe import Recipe

SMALL_FILE = 1 << 16  #: bytes of a file's header and the trees of its chunks


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

    keys: N unique keys in order; sha256: N hex texts; features: (N, dim) or blocks of rows that add up to it;
    failures: key to reason; classifier: the one that the backbone brought along.
    Raises CacheError for keys that no feature file may hold or rows that do not add up, OSError if the disk is full.
    """
    tables = (encoded(keys), np.asarray(sha256, "S64"), encoded(list(failures)), encoded(list(failures.values())))
    check_keys(tables[0], tables[2], path)
    header = {
        "format": FORMAT, "format_version": FORMAT_VERSION, "backbone": recipe.backbone, "view": recipe.view["name"],
        "dim": dim, "rows": len(keys), "recipe": recipe.canonical(), "fingerprint": recipe.fingerprint,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "software": _software(),
    }
    header["index_sha256"] = digest_of(header, tables)
    blocks = [features] if isinstance(features, np.ndarray) else features
    size = SMALL_FILE + _in_chunks(len(keys)) * dim * np.dtype(recipe.dtype).itemsize + sum(
        _in_chunks(len(table)) * table.itemsize for table in tables)
    size += 4 * _in_chunks(dim + 1) * len(classifier.classes) if classifier else 0
    if classifier and classifier.taught:
        size += sum(_in_chunks(len(rows)) * rows.shape[1] for rows in (classifier.taught.sha256,
                                                                      classifier.taught.groups))
    with _new_file(path, size) as file:
        for name, value in header.items():
            file.attrs[name] = value
        for name, values in zip(TABLES, tables, strict=True):
            _write_texts(file, name, values)
        _write_rows(file, "features", blocks, shape=(len(keys), dim), dtype=recipe.dtype)
        if classifier is not None:
            write_classifier(file, classifier)


def _write_texts(file: h5py.File, name: str, values: np.ndarray) -> None:
    kind = h5py.string_dtype("utf-8", values.itemsize)
    file.create_dataset(name, data=values.astype(kind), dtype=kind, chunks=(CHUNK_ROWS,), maxshape=(None,),
                        fletcher32=True)


def _write_rows(
    file: h5py.File, name: str, blocks: Iterable[np.ndarray], *, shape: tuple[int, int], dtype: str,
) -> None:
    dataset = file.create_dataset(name, shape, dtype=np.dtype(dtype).newbyteorder("<"), chunks=(CHUNK_ROWS, shape[1]),
                                  maxshape=(None, shape[1]), fletcher32=True, fillvalue=FILL)
    row = 0
    for block in blocks:
        if row + len(block) > shape[0]:
            raise CacheError(f"{file.filename}: more rows of {name} than keys")
        dataset[row:row + len(block)] = block
        row += len(block)
    if row != shape[0]:
        raise CacheError(f"{file.filename}: {row} rows of {name} for {shape[0]} keys")


def _in_chunks(rows: int) -> int:
    """Rows that are stored for `rows` rows, the last chunk being a whole one, and one in 64 more for the index."""
    return (-(-rows // CHUNK_ROWS) * CHUNK_ROWS) * 65 // 64


def _new_file(path: Path, size: int) -> h5py.File:
    """An empty HDF5 file whose `size` bytes are reserved on the disk. Raises OSError if they are not to be had.

    HDF5 itself takes a full disk badly: its write cache stays behind and brings the process down at its end.
    """
    h5py.File(path, "w", locking=False).close()
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    return h5py.File(path, "r+", locking=False)


def _software() -> str:
    versions = {name: sys.modules[name].__version__ for name in ("torch", "timm", "torchvision", "PIL", "onnxruntime")
                if name in sys.modules}
    return json.dumps({"python": sys.version.split()[0], "h5py": h5py.__version__, "numpy": np.__version__} | versions)
