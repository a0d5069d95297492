"""The features of several backbones side by side, joined by key, with the labels of the manifest."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from twofold.cache.format.featurefile import FeatureFile
from twofold.cache.recipe import Recipe, differences
from twofold.cache.store import Store
from twofold.data.errors import InputError
from twofold.data.labels import BASIC, Taxonomy, pair
from twofold.data.manifest import Manifest, read_manifest

COPIES = 2.5  #: the joined matrix, the standardised training rows of the widest head, and what is passing through


@dataclass(frozen=True)
class Stream:
    """One backbone and view: its columns of the joined features. files: one for each store, in order."""

    name: str  #: the backbone, with the view unless it is the original
    backbone: str
    view: str
    recipe: Recipe
    dim: int
    files: tuple[FeatureFile, ...]


@dataclass(frozen=True)
class FusedFeatures:
    """N faces that every stream has, in manifest order, the first store's first. All arrays have N rows.

    label: class in the taxonomy, -1 if none. basic: (N, 8) shares of the basic emotions in BASIC's order, for a
    compound its pair, half each, else the basic label, else zeros. basic_label: the basic label alone, -1 if none.
    row: (N, K) place of the face in each stream's file. matrix: (N, D) float32 once loaded, else None.
    """

    taxonomy: Taxonomy
    streams: tuple[Stream, ...]
    keys: np.ndarray
    store: np.ndarray
    split: np.ndarray
    group: np.ndarray
    label: np.ndarray
    basic: np.ndarray
    basic_label: np.ndarray
    sha256: np.ndarray
    row: np.ndarray
    notes: tuple[str, ...]
    matrix: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def dim(self) -> int:
        return sum(stream.dim for stream in self.streams)

    def columns(self, streams: Sequence[int]) -> np.ndarray:
        """Columns of `matrix` that these streams take, in their order."""
        starts = np.cumsum([0, *(stream.dim for stream in self.streams)])
        return np.concatenate([np.arange(starts[k], starts[k + 1]) for k in streams])

    def read(self, rows: np.ndarray, streams: Sequence[int]) -> np.ndarray:
        """(n, D of these streams) float32, the streams' features side by side, of these rows."""
        if self.matrix is not None:
            if len(streams) == len(self.streams):
                return self.matrix[rows]
            return self.matrix[np.ix_(rows, self.columns(streams))]
        out = np.empty((len(rows), sum(self.streams[k].dim for k in streams)), np.float32)
        start = 0
        for k in streams:
            self._fill(out[:, start:start + self.streams[k].dim], rows, k)
            start += self.streams[k].dim
        return out

    def loaded(self) -> "FusedFeatures":
        """The same with all features in memory, 4 N D bytes."""
        return replace(self, matrix=self.read(np.arange(len(self)), range(len(self.streams))))

    def _fill(self, out: np.ndarray, rows: np.ndarray, k: int) -> None:
        for number, file in enumerate(self.streams[k].files):
            here = np.flatnonzero(self.store[rows] == number)
            if len(here):
                out[here] = file.read_rows(self.row[rows[here], k])


def join(
    stores: Sequence[Store], *, backbones: Sequence[str], views: Sequence[str], taxonomy: Taxonomy,
) -> FusedFeatures:
    """Join the feature files of each store by key with its manifest, and the stores one after the other.

    backbones: names or NAME@FINGERPRINT; none = all of the first store. The stores must agree on each recipe.
    What only one side has is left out and counted in `notes`. Raises CacheError for a backbone that a store lacks
    or has twice, InputError if nothing is left or recipes differ.
    """
    names = list(backbones) or stores[0].backbones(views[0])
    if not names:
        bad = "".join(f"; {reason}" for reason in list(stores[0].readable()[1].values())[:1])
        raise InputError(f"{stores[0].path}: no feature files of the view {views[0]!r} to fuse{bad} (`cache ls` shows "
                         "what there is)")
    streams = tuple(_stream(stores, backbone, view) for view in views for backbone in names)
    _check_different(streams)
    parts = [_join_one(number, store, streams, taxonomy) for number, store in enumerate(stores)]
    columns = {name: np.concatenate([part[name] for part, _ in parts]) for name in parts[0][0]}
    notes = tuple(note for _, some in parts for note in some)
    return FusedFeatures(taxonomy=taxonomy, streams=streams, notes=notes, **columns)


def _stream(stores: Sequence[Store], backbone: str, view: str) -> Stream:
    files = tuple(store.find(backbone, view) for store in stores)
    for store, file in zip(stores[1:], files[1:], strict=True):
        apart = differences(files[0].recipe, file.recipe)
        if set(apart) - {"precision", "dtype"}:
            raise InputError(f"{store.path}: {backbone} ({view}) was made otherwise than in {stores[0].path}: "
                             + spelled(apart))
    name = backbone if view == "original" else f"{backbone} ({view})"
    return Stream(name, files[0].backbone, view, files[0].recipe, files[0].dim, files)


def spelled(apart: dict[str, tuple[object, object]]) -> str:
    """Differences of two recipes in words."""
    return "; ".join(f"{name} {_short(a)} there, {_short(b)} here" for name, (a, b) in apart.items())


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:20]}..."


def _check_different(streams: tuple[Stream, ...]) -> None:
    prints = [stream.recipe.fingerprint for stream in streams]
    for number, stream in enumerate(streams):
        if stream.recipe.fingerprint in prints[:number]:
            raise InputError(f"{stream.name} is asked for twice")


def _join_one(
    number: int, store: Store, streams: tuple[Stream, ...], taxonomy: Taxonomy,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Columns of `FusedFeatures` for one store, and what is to be said about it."""
    manifest = read_manifest(store.manifest_path)
    keys = np.array(manifest.keys, object)
    files = [stream.files[number] for stream in streams]
    places = np.column_stack([pd.Index(file.keys).get_indexer(keys) for file in files])
    have = (places >= 0).all(axis=1)
    notes = _missing(store, streams, places, files, keys)
    if not have.any():
        raise InputError(f"{store.path}: no face of its manifest has features of all of "
                         f"{', '.join(stream.name for stream in streams)}: extract them for the same faces")
    labels, faults = _labels(manifest, taxonomy)
    group = manifest.table["group"].to_numpy(object)
    columns = {
        "keys": keys, "store": np.full(len(keys), number), "split": manifest.table["split"].to_numpy(object),
        "group": np.array([f"{number}\0{name or key}" for name, key in zip(group, keys, strict=True)], object),
        **labels, "row": places,
    }
    columns = {name: values[have] for name, values in columns.items()}
    columns["sha256"] = files[0].sha256[columns["row"][:, 0]]
    return columns, notes + faults


def _missing(store: Store, streams, places: np.ndarray, files: Sequence[FeatureFile], keys: np.ndarray) -> list[str]:
    notes = []
    for k, (stream, file) in enumerate(zip(streams, files, strict=True)):
        lacking = places[:, k] < 0
        if lacking.any():
            failed = sum(key in file.failures for key in keys[lacking])
            notes.append(f"{lacking.sum()} faces left out: not in {store.path.name}'s {stream.name} "
                         f"({failed} recorded as failed), e.g. {keys[lacking][0]}")
        surplus = file.rows - int((~lacking).sum())
        if surplus:
            notes.append(f"{surplus} rows of {store.path.name}'s {stream.name} are not in the manifest: left out")
    return notes


def _labels(manifest: Manifest, taxonomy: Taxonomy) -> tuple[dict[str, np.ndarray], list[str]]:
    basic, compound = (manifest.table[name].to_numpy(object) for name in ("basic", "compound"))
    column = basic if taxonomy.target == "basic" else compound
    number = {name: index for index, name in enumerate(taxonomy.classes)}
    label = np.array([number.get(name, -1) for name in column], np.int64)
    outside = sum(bool(name) for name in column[label < 0])
    notes = [f"{outside} faces with a {taxonomy.target} label outside {taxonomy.name}"] if outside else []
    unlabelled = int((column == "").sum())
    if unlabelled:
        notes.append(f"{unlabelled} faces without a {taxonomy.target} label")
    basic_label = np.array([BASIC.index(name) if name else -1 for name in basic], np.int64)
    shares = {name: _shares(*name) for name in set(zip(basic, compound, strict=True))}
    return {"label": label, "basic_label": basic_label,
            "basic": np.stack([shares[name] for name in zip(basic, compound, strict=True)])}, notes


def _shares(basic: str, compound: str) -> np.ndarray:
    """(8,) the compound's pair, half each, before the basic label: it says more."""
    out = np.zeros(len(BASIC), np.float32)
    for name in pair(compound) if compound else [basic] * bool(basic):
        out[BASIC.index(name)] = 0.5 if compound else 1.0
    return out


def fits(features: FusedFeatures, limit_gb: float) -> bool:
    """True if all features may be held as float32 in `limit_gb` gigabytes; 0 means half of the memory that is free."""
    limit = limit_gb * 1e9 if limit_gb else 0.5 * available()
    return COPIES * 4 * len(features) * features.dim <= limit


def available() -> float:
    """Bytes of memory that are free or can be freed; on systems that do not say, 4 GB."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 4e9
