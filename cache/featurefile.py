"""FeatureFile v1: the embeddings of one backbone and one view, with the recipe that made them.

The features are guarded by HDF5's fletcher32 (and by checks that every chunk stands where it should); all else, the
keys, image hashes, failures and attributes, by a SHA-256 of its own. What is read is what was written, or an error.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from cache.errors import CacheError, DamagedFile
from cache.files import published
from cache.layout import ATTRIBUTES, CHUNK_ROWS, FEATURE_TYPES, FORMAT, FORMAT_VERSION, MAX_TEXT_BYTES, check_layout
from cache.recipe import Recipe

TEXT_CHUNK_ROWS = 4096
BLOCK_ROWS = 8192
_BAD_KEYS = re.compile(rb"(?:^|\0)(?:/|\0|$)|(?:^|[\0/])\.\.?(?=[/\0]|$)|//|\\")


class FeatureFile:
    """A feature file, opened anew for each read, so that it pickles and works in any process and on read-only mounts.

    The header is read and checked on first use; `CacheError` says why a file is refused, `DamagedFile` (a kind of
    it) that its bytes are not those that were written.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"FeatureFile({str(self.path)!r})"

    def __getstate__(self) -> dict:
        return {"path": self.path}

    # ------------------------------------------------------------------------------------------------ header
    @cached_property
    def header(self) -> dict[str, str | int]:
        """The root attributes, checked against each other and against the recipe."""
        with self._open() as file:
            return _read_header(file)

    @cached_property
    def recipe(self) -> Recipe:
        return Recipe.from_json(self.header["recipe"])

    @property
    def fingerprint(self) -> str:
        return self.header["fingerprint"]

    @property
    def backbone(self) -> str:
        return self.header["backbone"]

    @property
    def view(self) -> str:
        return self.header["view"]

    @property
    def dim(self) -> int:
        return self.header["dim"]

    @property
    def rows(self) -> int:
        return self.header["rows"]

    @property
    def failed(self) -> int:
        """How many faces could not be encoded."""
        return self.header["failed"]

    # ------------------------------------------------------------------------------------------------- index
    @cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
        with self._open() as file:
            header = _read_header(file)
            keys, hashes, failed, reasons = (_texts(file[name]) for name in _INDEX)
        if _digest(header, (keys, hashes, failed, reasons)) != header["index_sha256"]:
            raise DamagedFile(f"{self.path}: keys, hashes or attributes were altered: delete it and extract again")
        _check_keys(keys, failed, self.path)
        failures = dict(zip(_decoded(failed), _decoded(reasons), strict=True))
        return _decoded(keys), hashes, failures

    @property
    def keys(self) -> np.ndarray:
        """(N,) object array of str: the keys in the order of the rows."""
        return self._index[0]

    @property
    def sha256(self) -> np.ndarray:
        """(N,) array of 64-character hex bytes (`S64`): SHA-256 of each image file."""
        return self._index[1]

    @property
    def failures(self) -> dict[str, str]:
        """Key to reason, for faces that could not be encoded."""
        return self._index[2]

    @cached_property
    def position(self) -> dict[str, int]:
        """Key to row."""
        return {key: row for row, key in enumerate(self.keys)}

    # ---------------------------------------------------------------------------------------------- features
    def read(self, keys: Sequence[str] | None = None, *, dtype: np.dtype | type = np.float32) -> np.ndarray:
        """(N, D) array of `dtype`: all rows, or those of `keys` in their order.

        Reads each chunk at most once however scattered the keys are, and holds no second copy.
        Raises KeyError for a key that is not in the file, DamagedFile where a checksum does not hold.
        """
        if keys is None:
            return self.read_rows(None, dtype=dtype)
        return self.read_rows(np.fromiter((self.position[key] for key in keys), np.int64, len(keys)), dtype=dtype)

    def read_rows(self, rows: np.ndarray | None, *, dtype: np.dtype | type = np.float32) -> np.ndarray:
        """(M, D) array of `dtype`: the rows at these positions, in the order given; all of them if None."""
        with self._open() as file:
            _read_header(file)
            dataset = file["features"]
            wanted = dataset.shape[0] if rows is None else len(rows)
            out = np.empty((wanted, dataset.shape[1]), dtype)
            try:
                if rows is None:
                    _read_all(dataset, out)
                else:
                    _gather(dataset, rows, out)
            except OSError as error:
                raise DamagedFile(f"{self.path}: the features do not read back ({_brief(error)})") from None
        return out

    def logits(self) -> tuple[tuple[str, ...], np.ndarray] | None:
        """The backbone's own classes and logits (N, C) float32, in the order of the keys; None if it has none here."""
        with self._open() as file:
            _read_header(file)
            if "logits" not in file:
                return None
            try:
                return _read_classes(file["logits"]), file["logits"][...].astype(np.float32, copy=False)
            except OSError as error:
                raise DamagedFile(f"{self.path}: the logits do not read back ({_brief(error)})") from None

    def blocks(
        self, rows: int = BLOCK_ROWS, *, dtype: np.dtype | type = np.float32,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(keys, features) of `rows` rows at a time, in order: for what exceeds memory."""
        for start in range(0, self.rows, rows):
            stop = min(start + rows, self.rows)
            yield self.keys[start:stop], self.read_rows(np.arange(start, stop), dtype=dtype)

    def check(self) -> None:
        """Read everything back; raises DamagedFile or CacheError at the first thing that is wrong."""
        _ = self._index, self.recipe
        for keys, values in self.blocks():
            bad = ~np.isfinite(values).all(axis=1)
            if bad.any():
                raise CacheError(f"{self.path}: the features of {keys[bad][0]!r} are not finite numbers")

    def _open(self) -> h5py.File:
        try:
            return h5py.File(self.path, "r", locking=False)
        except FileNotFoundError:
            raise CacheError(f"{self.path}: no such feature file") from None
        except (OSError, RuntimeError) as error:
            raise DamagedFile(f"{self.path}: not a whole HDF5 file ({_brief(error)})") from None


@dataclass(frozen=True)
class Classifier:
    """The backbone's own classes, in order, and what makes logits (B, C) of its embeddings (B, D)."""

    classes: tuple[str, ...]
    logits: Callable[[np.ndarray], np.ndarray]


def write_featurefile(
    path: Path, *, recipe: Recipe, dim: int, keys: Sequence[str], sha256: Sequence[str | bytes],
    features: np.ndarray | Iterable[np.ndarray], failures: dict[str, str], classifier: Classifier | None = None,
) -> None:
    """Write a whole feature file and publish it under `path` in one step.

    keys: N unique keys in order; sha256: N hex texts; features: (N, dim) or blocks of rows that add up to it;
    failures: key to reason; classifier: adds `/logits`, made of the features as they are stored.
    Raises CacheError for keys that no feature file may hold or rows that do not add up, OSError if the disk is full.
    """
    tables = (_encoded(keys), np.asarray(sha256, "S64"), _encoded(list(failures)), _encoded(list(failures.values())))
    _check_keys(tables[0], tables[2], path)
    header = {
        "format": FORMAT, "format_version": FORMAT_VERSION, "backbone": recipe.backbone, "view": recipe.view["name"],
        "dim": dim, "rows": len(keys), "recipe": recipe.canonical(), "fingerprint": recipe.fingerprint,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "software": _software(),
    }
    header["index_sha256"] = _digest(header, tables)
    blocks = [features] if isinstance(features, np.ndarray) else features
    with published(path) as temporary, _disk_errors(path), h5py.File(temporary, "w", locking=False) as file:
        for name, value in header.items():
            file.attrs[name] = value
        for name, values in zip(_INDEX, tables, strict=True):
            _write_texts(file, name, values)
        _write_rows(file, "features", blocks, shape=(len(keys), dim), dtype=recipe.dtype)
        if classifier is not None:
            _write_logits(file, classifier)


_INDEX = ("keys", "sha256", "failures/keys", "failures/reasons")


def _read_header(file: h5py.File) -> dict[str, str | int]:
    try:
        check_layout(file)
        header = {name: file.attrs[name] for name in ATTRIBUTES}
        header = {name: value if isinstance(value, str) else int(value) for name, value in header.items()}
        _check_header(header, file["features"])
        header["failed"] = file["failures/keys"].shape[0]
    except CacheError as error:
        raise type(error)(f"{file.filename}: {error}") from None
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise DamagedFile(f"{file.filename}: the header does not read back ({_brief(error)})") from None
    return header


def _check_header(header: dict[str, str | int], features: h5py.Dataset) -> None:
    if header["format"] != FORMAT or header["format_version"] != FORMAT_VERSION:
        raise CacheError(f"format {header['format']!r} version {header['format_version']} is not "
                         f"{FORMAT!r} version {FORMAT_VERSION}: update Twofold, or extract again")
    recipe = Recipe.from_json(header["recipe"])
    if recipe.canonical() != header["recipe"] or recipe.fingerprint != header["fingerprint"]:
        raise CacheError("the recipe does not match its fingerprint: do not trust this file")
    if (recipe.backbone, recipe.view.get("name")) != (header["backbone"], header["view"]):
        raise CacheError("backbone or view is not the recipe's: do not trust this file")
    if features.shape != (header["rows"], header["dim"]):
        raise DamagedFile(f"/features is {features.shape}, not ({header['rows']}, {header['dim']})")
    if not features.id.get_type().equal(FEATURE_TYPES[recipe.dtype]):
        raise DamagedFile(f"/features is not stored as {recipe.dtype}, as the recipe says")


def _check_keys(keys: np.ndarray, failed: np.ndarray, path: Path) -> None:
    everything = np.concatenate([keys.astype(object), failed.astype(object)])
    if len(set(everything.tolist())) != len(everything):
        raise CacheError(f"{path}: a key stands in it twice")
    if len(everything) and _BAD_KEYS.search(b"\0".join(everything.tolist())):
        bad = next(key for key in everything if not key or _BAD_KEYS.search(key))
        raise CacheError(f"{path}: the key {bad.decode(errors='replace')!r} is not a plain relative path")


def _read_classes(logits: h5py.Dataset) -> tuple[str, ...]:
    try:
        classes = tuple(json.loads(logits.attrs["classes"]))
    except (KeyError, TypeError, ValueError):
        classes = ()
    if len(classes) != logits.shape[1] or not all(isinstance(name, str) for name in classes):
        raise DamagedFile(f"{logits.file.filename}: /logits does not say what its classes are")
    return classes


def _digest(header: dict[str, str | int], tables: tuple[np.ndarray, ...]) -> str:
    """SHA-256 over all that fletcher32 does not guard well: attributes, keys, hashes, failures."""
    digest = hashlib.sha256(json.dumps([header[name] for name in ATTRIBUTES[:-1]]).encode())
    for table in tables:
        digest.update(f"{len(table)},{table.itemsize};".encode())
        digest.update(np.ascontiguousarray(table).data.cast("B") if table.size else b"")
    return digest.hexdigest()


def _write_texts(file: h5py.File, name: str, values: np.ndarray) -> None:
    kind = h5py.string_dtype("utf-8", values.itemsize)
    file.create_dataset(name, data=values.astype(kind), dtype=kind, chunks=(TEXT_CHUNK_ROWS,), maxshape=(None,),
                        fletcher32=True)


def _write_rows(
    file: h5py.File, name: str, blocks: Iterable[np.ndarray], *, shape: tuple[int, int], dtype: str,
) -> None:
    dataset = file.create_dataset(name, shape, dtype=np.dtype(dtype).newbyteorder("<"), chunks=(CHUNK_ROWS, shape[1]),
                                  maxshape=(None, shape[1]), fletcher32=True)
    row = 0
    for block in blocks:
        if row + len(block) > shape[0]:
            raise CacheError(f"{file.filename}: more rows of {name} than keys")
        dataset[row:row + len(block)] = block
        row += len(block)
    if row != shape[0]:
        raise CacheError(f"{file.filename}: {row} rows of {name} for {shape[0]} keys")


def _write_logits(file: h5py.File, classifier: Classifier) -> None:
    features = file["features"]
    starts = range(0, len(features), BLOCK_ROWS)
    blocks = (classifier.logits(features[start:start + BLOCK_ROWS].astype(np.float32)) for start in starts)
    _write_rows(file, "logits", blocks, shape=(len(features), len(classifier.classes)), dtype="float32")
    file["logits"].attrs["classes"] = json.dumps(classifier.classes)


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """What HDF5 says of a full disk, as the OSError that it was: HDF5 buries the number in its text."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        number = next((number for number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
                       if f"errno = {number}," in str(error)), None)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from None


def _read_all(dataset: h5py.Dataset, out: np.ndarray) -> None:
    if out.dtype == dataset.dtype:
        if len(out):
            dataset.read_direct(out)
        return
    step = CHUNK_ROWS * 4  # small enough to stay in the processor's cache between HDF5 and the conversion
    buffer = np.empty((min(step, len(out)), out.shape[1]), dataset.dtype)
    for start in range(0, len(out), step):
        stop = min(start + step, len(out))
        dataset.read_direct(buffer, np.s_[start:stop], np.s_[:stop - start])
        out[start:stop] = buffer[:stop - start]


def _gather(dataset: h5py.Dataset, rows: np.ndarray, out: np.ndarray) -> None:
    if not len(rows):
        return
    order = np.argsort(rows, kind="stable")
    chunk_of = rows[order] // CHUNK_ROWS
    starts = np.flatnonzero(np.diff(chunk_of, prepend=-1))
    buffer = np.empty((CHUNK_ROWS, out.shape[1]), dataset.dtype)
    for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
        first = int(chunk_of[start]) * CHUNK_ROWS
        count = min(CHUNK_ROWS, dataset.shape[0] - first)
        dataset.read_direct(buffer, np.s_[first:first + count], np.s_[:count])
        here = order[start:stop]
        out[here] = buffer[rows[here] - first]


def _texts(dataset: h5py.Dataset) -> np.ndarray:
    try:
        return dataset[...].astype(f"S{dataset.dtype.itemsize}")
    except OSError as error:
        raise DamagedFile(f"{dataset.file.filename}: {dataset.name} does not read back ({_brief(error)})") from None


def _encoded(texts: Sequence[str]) -> np.ndarray:
    values = [text.encode("utf-8")[:MAX_TEXT_BYTES] for text in texts]
    return np.array(values, f"S{max((len(value) for value in values), default=1) or 1}")


def _decoded(values: np.ndarray) -> np.ndarray:
    try:
        out = np.empty(len(values), object)
        out[:] = [value.decode("utf-8") for value in values.tolist()]
        return out
    except UnicodeDecodeError:
        raise DamagedFile("a key or reason is not UTF-8") from None


def _software() -> str:
    versions = {name: sys.modules[name].__version__ for name in ("torch", "timm", "torchvision", "PIL", "onnxruntime")
                if name in sys.modules}
    return json.dumps({"python": sys.version.split()[0], "h5py": h5py.__version__, "numpy": np.__version__} | versions)


def _brief(error: Exception) -> str:
    return str(error).split("\n")[0][:200]
