"""The verb `cache export`: all chosen feature files of a store joined by key, as one .npz or .parquet file.

Samples are read a block at a time, so that memory does not grow with the store.
"""

import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from twofold.cache.errors import CacheError
from twofold.cache.feature_file import FeatureFile, block_rows, bytes_of
from twofold.cache.store import Store
from twofold.data.manifest import read_manifest
from twofold.data.utils.outputs import OutputKind
from twofold.data.utils.terminal import Summary

BLOCK = 4096  #: samples in memory at once
#: columns of numbers: those of `crop`, soft labels, action units, valence and arousal
NUMBERS = re.compile(r"(frame|track|time|score|sharpness|scale|padded|valence|arousal|(p|au)_.+)")
RESERVED = {"keys", "streams", "recipes", "left_out", "left_out_reasons"}  #: names of other arrays of an archive
MARK, LEFT_OUT = b"twofold-recipes", b"twofold-left-out"  #: entries of Parquet metadata, as JSON


@dataclass(frozen=True, eq=False)
class Export:
    """Samples that every file has. labels: each manifest column but the key, a text for each sample ('' for none), or a
    float64 (NaN for none) where a column of `NUMBERS` has nothing else; left_out: key to reason of the samples that
    some file lacks."""

    keys: list[str]
    labels: dict[str, np.ndarray]
    files: tuple[FeatureFile, ...]
    left_out: dict[str, str]

    @property
    def streams(self) -> dict[str, FeatureFile]:
        """Each file by a name that file systems and zip archives accept: its own without the suffix."""
        return {file.path.name.removesuffix(".h5"): file for file in self.files}

    def report(self, out: Path) -> Summary:
        """What was written to `out`."""
        untrained = [name for name, file in self.streams.items() if file.recipe.untrained]
        key, reason = next(iter(self.left_out.items()), ("", ""))
        left_out = f"; {len(self.left_out):,} samples left out (the first is {key}: {reason})" if key else ""
        return Summary(
            values={"out": str(out), "samples": len(self.keys), "left_out": len(self.left_out),
             "streams": {name: file.dim for name, file in self.streams.items()}, "untrained": untrained},
            lines=[f"{out}: {len(self.keys):,} samples{left_out}", *(
                f"  {name}  {file.dim}-d{' * UNTRAINED' if name in untrained else ''}"
                for name, file in self.streams.items())])


def join_files(store: Store, *, backbones: Sequence[str], view: str) -> Export:
    """Join the files of these backbones (none: all files of the view); samples of a store without a manifest have no
    labels. Raises CacheError if there is no such file, or no sample that all files have."""
    files = tuple(store.find(name, view) for name in backbones) if backbones else tuple(store.files_of(view))
    if not files:
        raise CacheError(f"{store.path}: no feature files of view {view!r} to export")
    table = read_manifest(store.manifest_path).table if store.manifest_path.exists() else {}
    listed = list(table["key"]) if "key" in table else list(dict.fromkeys(
        key for file in files for key in (*file.keys, *file.failures)))
    lacking = {key: next((file for file in files if key not in file.position), None) for key in listed}
    rows = [row for row, key in enumerate(listed) if lacking[key] is None]
    if not rows:
        raise CacheError(f"{store.path}: no sample that all {len(files)} files have: choose among them with "
                         "--backbones")
    labels = {str(name): _values(str(name), [*map(str, table[name].iloc[rows])]) for name in table if name != "key"}
    export = Export([listed[row] for row in rows], labels, files,
                    {key: file.failures.get(key, f"not in {file.path.name}") for key, file in lacking.items() if file})
    if taken := labels.keys() & (RESERVED | {*export.streams}):
        raise CacheError(f"{store.manifest_path}: an export cannot hold a column {min(taken)!r}: rename it")
    return export


def _values(name: str, texts: list[str]) -> np.ndarray:
    """A column as `Export.labels` has it."""
    if NUMBERS.fullmatch(name) and any(texts):
        with suppress(ValueError):
            return np.array([text or "nan" for text in texts], np.float64)
    return np.array(texts)


def export_format(out: Path) -> tuple[OutputKind, Callable[[Path, Export], None]]:
    """The kind of file that the suffix of `out` names, and its writer. Raises CacheError for another suffix."""
    if out.suffix == ".npz":
        return OutputKind("an archive of `cache export`", is_own_npz), write_npz
    if out.suffix == ".parquet":
        return OutputKind("a table of `cache export`", is_own_parquet), write_parquet
    raise CacheError(f"{out}: an export is NAME.npz or NAME.parquet")


def write_npz(path: Path, export: Export) -> None:
    """Write `keys`, a text array for each label column, `streams`, `recipes` (JSON), keys and reasons of what is left
    out, and the features in the stored type under the name of each stream, (N, D), or (N, L, D) where they are of L
    equal pieces; `np.load(path)` needs no pickles."""
    texts = {"keys": export.keys, **export.labels, "streams": [*export.streams],
             "recipes": [file.recipe.canonical() for file in export.files],
             "left_out": [*export.left_out], "left_out_reasons": [*export.left_out.values()]}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        def write(name: str, shape: tuple[int, ...], dtype: np.dtype, blocks: Iterable[np.ndarray]) -> None:
            """An array in NumPy's own format (version 1), given as blocks along its first axis."""
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array_header_1_0(member, {"descr": npy.dtype_to_descr(dtype), "fortran_order": False,
                                                    "shape": shape})
                for block in blocks:
                    member.write(bytes_of(np.ascontiguousarray(block, dtype)))

        for name, values in texts.items():
            values = np.asarray(values) if len(values) else np.zeros(0, "<U1")
            write(name, (len(values),), values.dtype, _blocks(values))
        for name, file in export.streams.items():
            dtype = np.dtype(file.recipe.dtype)
            write(name, file.recipe.shape(len(export.keys), file.dim), dtype,
                  (file.read(keys, dtype=dtype) for keys in _blocks(export.keys, block_rows(file.dim, BLOCK))))


def _blocks(values: Any, count: int = 0) -> Iterator[Any]:
    """At most `count` of them at a time, by default `BLOCK`."""
    count = count or BLOCK
    return (values[start:start + count] for start in range(0, len(values), count))


def is_own_npz(path: Path) -> bool:
    """True for an archive that `write_npz` wrote."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return {"keys.npy", "streams.npy", "recipes.npy"} <= set(archive.namelist())


def write_parquet(path: Path, export: Export) -> None:
    """Write columns `key`, the labels (null for none; numbers as int64 where all are whole, else as double) and a list
    of float32 for each stream; a row group per block. float32, since few readers know Parquet's halves; zstd takes
    back most of what that costs."""
    parquet = _pyarrow_parquet()
    import pyarrow as pa

    types = {name: pa.string() if values.dtype.kind == "U" else
             pa.int64() if (values[~np.isnan(values)] % 1 == 0).all() else pa.float64()
             for name, values in export.labels.items()}
    recipes = {name: json.loads(file.recipe.canonical()) for name, file in export.streams.items()}
    schema = pa.schema(
        [pa.field("key", pa.string(), nullable=False), *(pa.field(*column) for column in types.items()),
         *(pa.field(name, pa.list_(pa.float32(), file.dim)) for name, file in export.streams.items())],
        metadata={MARK: json.dumps(recipes, indent=2, sort_keys=True), LEFT_OUT: json.dumps(export.left_out)})
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        count = block_rows(max(file.dim for file in export.files), BLOCK)
        for keys, *labels in zip(*(_blocks(each, count) for each in (export.keys, *export.labels.values())),
                                 strict=True):
            features = [pa.FixedSizeListArray.from_arrays(pa.array(file.read(keys, dtype="float32").ravel()), file.dim)
                        for file in export.files]
            columns = [pa.array(column, kind, mask=column == "" if kind == pa.string() else np.isnan(column))
                       for column, kind in zip(labels, types.values(), strict=True)]
            writer.write_batch(pa.record_batch([pa.array(keys, pa.string()), *columns, *features], schema=schema))


def is_own_parquet(path: Path) -> bool:
    """True for a file that `write_parquet` wrote. Raises CacheError without pyarrow."""
    return MARK in (_pyarrow_parquet().read_metadata(path).metadata or {})


def _pyarrow_parquet() -> Any:
    try:
        from pyarrow import parquet
    except ImportError:
        raise CacheError("a Parquet file needs the package pyarrow: pip install 'twofold[parquet]'") from None
    return parquet
