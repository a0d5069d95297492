"""Features of several backbones side by side, joined by key with the manifest: the one way from stores to a head."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from twofold.cache.feature_file import FeatureFile, block_rows, first_non_finite_row
from twofold.cache.recipe import differences
from twofold.cache.store import Store
from twofold.data.labels import BASIC, Taxonomy, basic_emotions
from twofold.data.manifest import Manifest, read_manifest
from twofold.data.utils.errors import InputError
from twofold.data.utils.keys import NO_FACE_SUFFIX
from twofold.fuse.core.settings import most_frames
from twofold.fuse.core.streams import (
    PRECISION,
    Stream,
    candidates,
    describe_differences,
    find_file,
    fold_files,
    recipe_of,
    stream_marks,
)
from twofold.fuse.core.task import Task
from twofold.fuse.core.units import pool_frames, units_of

VIEWS = ("original", "flip", "crop_left", "crop_centre", "crop_right", "enhanced1", "enhanced2")


@dataclass(frozen=True)
class Features:
    """N samples that every stream has, in manifest order, the first store's first. All arrays have N rows.

    label, truth, train_target: as `Targets` has them. basic: (N, 8) shares of the basic emotions in BASIC's order, for
    a compound its pair, half each, else the basic label, else zeros. basic_label: the basic label alone, -1 if none.
    group: samples that must stay on one side of a split, by store and name; grouped: False for a sample that is only
    its own group. datasets: name of each store, which qualifies a group name that several stores have.
    manifest: of the first store, with samples that have no features, too.
    row: (N, K) place of the sample in each stream's file; of a unit, that of its first frame. frames: where samples are
    units, (N,) the places (T, K) of all frames of each, in time. matrix: (N, D) float32 once loaded, else None; where
    the frames are kept in order (N, T D), frame after frame, nan beyond the end of a unit.
    """

    task: Task
    streams: tuple[Stream, ...]
    keys: np.ndarray
    store: np.ndarray
    split: np.ndarray
    group: np.ndarray
    grouped: np.ndarray
    label: np.ndarray
    truth: np.ndarray
    train_target: np.ndarray
    basic: np.ndarray
    basic_label: np.ndarray
    sha256: np.ndarray
    row: np.ndarray
    manifest: Manifest
    notes: tuple[str, ...]
    datasets: tuple[str, ...] = ("",)
    matrix: np.ndarray | None = None
    frames: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def taxonomy(self) -> Taxonomy:
        return self.task.taxonomy

    @property
    def dim(self) -> int:
        return sum(stream.dim for stream in self.streams)

    @property
    def most_frames(self) -> int:
        """Of the longest unit, where frames are kept in order; 0 where each sample is one row."""
        most = most_frames(self.streams[0].pool)
        return min(most, max(map(len, self.frames))) if most and self.frames is not None else 0

    @property
    def width(self) -> int:
        """Columns of a sample: `dim`, of the longest unit that of all frames."""
        return self.dim * max(self.most_frames, 1)

    @property
    def group_names(self) -> np.ndarray:
        """(N,) the name of each group in its manifest; of a sample without one its key."""
        return np.array([group.partition("\0")[2] for group in self.group], object)

    @property
    def shared_groups(self) -> frozenset[str]:
        """Names of groups that several stores have."""
        pairs = set(zip(self.group_names[self.grouped], self.store[self.grouped], strict=True))
        return frozenset(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)

    def read(self, rows: np.ndarray, streams: Sequence[int] | None = None) -> np.ndarray:
        """(n, D of these streams) float32, their features side by side, of these rows. streams: all, unless given.
        Where frames are kept in order (n, T D), as `matrix` has them, T at least that of the longest of these rows.

        Raises InputError for features that are not finite.
        """
        streams = range(len(self.streams)) if streams is None else streams
        if self.matrix is not None:
            if list(streams) == list(range(len(self.streams))):
                return self.matrix[rows]
            starts = np.cumsum([0, *(stream.dim for stream in self.streams)])
            columns = np.concatenate([np.arange(starts[k], starts[k + 1]) for k in streams])
            frames = np.arange(self.matrix.shape[1] // self.dim)[:, None] * self.dim
            return self.matrix[np.ix_(rows, (frames + columns).ravel())]
        if self.frames is None and len(streams) == len(self.streams[streams[0]].files) == 1:  # nothing is copied twice
            stream = self.streams[streams[0]]
            return _finite_rows(stream.files[0], self.row[rows, streams[0]], stream.columns(stream.files[0]))
        length = 1 if self.frames is None else min(self.most_frames or 1, max(map(len, self.frames[rows]), default=1))
        block = np.full((len(rows), length, sum(self.streams[k].dim for k in streams)), np.nan, np.float32)
        start = 0
        for k in streams:
            stream = self.streams[k]
            for number, file in enumerate(stream.files):
                here = np.flatnonzero(self.store[rows] == number)
                if self.frames is None:
                    block[here, 0, start:start + stream.dim] = _finite_rows(file, self.row[rows[here], k],
                                                                            stream.columns(file))
                    continue
                for row, values in zip(here, self._pooled(rows[here], k, file), strict=True):
                    block[row, :len(values), start:start + stream.dim] = values
            start += stream.dim
        return block.reshape(len(rows), length * block.shape[2])

    def read_frames(self, rows: np.ndarray, streams: Sequence[int]) -> np.ndarray:
        """As `read`, but a frame a row (m, D) where frames are kept in order."""
        block = self.read(rows, streams)
        if not self.most_frames:
            return block
        frames = block.reshape(-1, sum(self.streams[k].dim for k in streams))
        return frames[~np.isnan(frames[:, 0])]

    def _pooled(self, rows: np.ndarray, k: int, file: FeatureFile) -> Iterator[np.ndarray]:
        """Of each unit of one store (1, D of the stream), or the frames that are kept (T, D). Units are read one after
        the other, at most `block_rows` frames at a time, or one unit."""
        assert self.frames is not None
        places = [places[:, k] for places in self.frames[rows]]
        block = np.cumsum([len(each) for each in places]) // block_rows(file.dim)
        for number in np.unique(block):
            units = [places[unit] for unit in np.flatnonzero(block == number)]
            values = _finite_rows(file, np.concatenate(units), self.streams[k].columns(file))
            for each in np.split(values, np.cumsum([len(unit) for unit in units])[:-1]):
                yield np.atleast_2d(pool_frames(each, self.streams[k].pool))

    def images(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(m,) S64, the SHA-256 of all images of these samples, and (m,) the place of each one's sample among them."""
        if self.frames is None:
            return self.sha256[rows].astype("S64"), np.arange(len(rows))
        files = self.streams[0].files
        each = [files[self.store[row]].sha256[self.frames[row][:, 0]] for row in rows]
        return np.concatenate([np.empty(0, "S64"), *each]), np.repeat(
            np.arange(len(rows)), np.array([*map(len, each)], int))

    def holds(self, images: np.ndarray) -> np.ndarray:
        """(N,) bool: samples of which an image is among these SHA-256 (S64)."""
        own, place = self.images(np.arange(len(self)))
        return np.bincount(place, np.isin(own, images), len(self)) > 0

    def loaded(self) -> "Features":
        """The same with all features in memory, 4 x N x `width` bytes."""
        return replace(self, matrix=self.read(np.arange(len(self))))


def join(
    stores: Sequence[Store], *, backbones: Sequence[str], views: Sequence[str], task: Task, folds: int = 0,
    unit: str = "", pool: Sequence[str] = (),
) -> Features:
    """The features of these backbones and views of all stores, joined as `join_streams` does.

    backbones: names, NAME@FINGERPRINT or NAME@PIECE; none = all of the first store. The stores must agree on each
    recipe. The order in which they are named means nothing: streams stand by view, then by name, so that seeds draw the
    same.
    folds: of the cross-validation that they are for, whose fold-wise encoders are wanted then. unit: the column whose
    units are the samples, with the statistics `pool` of their rows; empty: each row is a sample.
    Raises CacheError for a backbone that a store lacks or has twice, InputError if nothing is left or recipes differ.
    """
    names = list(backbones) or stores[0].backbones(views[0])
    if not names:
        damaged = "".join(f"; {reason}" for reason in list(stores[0].readable()[1].values())[:1])
        raise InputError(f"{stores[0].path}: no feature files of the view {views[0]!r} to fuse{damaged} (`cache ls` "
                         "shows what there is)")
    streams: dict[str, Stream] = {}
    for view, backbone in itertools.product(views, names):
        of_folds = fold_files(stores[0], backbone, view, folds=folds) if len(stores) == 1 else ()
        chosen = candidates(stores[0], backbone, view)[:1] if of_folds else [
            find_file(store, backbone, view) for store in stores]
        recipe, files = recipe_of(chosen[0]), of_folds[:1] or tuple(file for file, _ in chosen)
        for store, other in zip(stores[1:], chosen[1:], strict=True):
            difference = differences(recipe, recipe_of(other))
            if set(difference) - PRECISION:
                raise InputError(f"{store.path}: {backbone} ({view}) was made otherwise than in {stores[0].path}: "
                                 + describe_differences(difference))
        stream = Stream(recipe.backbone, view, files, of_folds, pool=tuple(pool) if unit else (), piece=chosen[0][1])
        if stream.recipe.fingerprint in streams:
            raise InputError(f"{stream.name} is asked for twice")
        streams[stream.recipe.fingerprint] = stream
    ranked = sorted(streams.values(), key=lambda stream: (  # the paper's head predicts from the first view
        VIEWS.index(stream.view) if stream.view in VIEWS else len(VIEWS), stream.view, stream.backbone,
        stream.recipe.fingerprint))
    marks = stream_marks([(stream.backbone, stream.view, stream.recipe) for stream in ranked])
    return join_streams(stores, [replace(stream, mark=mark) for stream, mark in zip(ranked, marks, strict=True)],
                        task=task, unit=unit)


def join_streams(stores: Sequence[Store], streams: Sequence[Stream], *, task: Task, unit: str = "") -> Features:
    """Join the files of the streams by key with each store's manifest, and the stores one after the other.

    What only one side has is left out and counted in `notes`. Raises InputError if nothing of a store is left.
    """
    joined = [_join_store(number, store, streams, task, unit) for number, store in enumerate(stores)]
    columns = {name: np.concatenate([each[name] for each, *_ in joined]) for name in joined[0][0]}
    features = Features(task=task, streams=tuple(streams), **columns, manifest=joined[0][2],
                        notes=tuple(note for _, notes, _ in joined for note in notes),
                        datasets=tuple(store.path.resolve().name for store in stores))
    if not (shared := features.shared_groups):
        return features
    return replace(features, notes=(*features.notes, f"{len(shared)} group names are in several stores, e.g. "
                                                     f"{min(shared)}: taken for different groups, one per store"))


def join_folds(stores: Sequence[Store], features: Features, *, folds: int, unit: str = "") -> tuple[Features, ...]:
    """The same samples as the encoders of each fold give them; nothing where no encoder is fine-tuned one a fold.

    Raises InputError if the files of the folds hold different samples.
    """
    if not any(stream.fold_files for stream in features.streams):
        return ()
    joined = tuple(join_streams(stores, [
        replace(stream, files=(stream.fold_files[fold],), fold_files=()) if stream.fold_files else stream
        for stream in features.streams], task=features.task, unit=unit) for fold in range(folds))
    for other in joined:
        if not (np.array_equal(other.keys, features.keys) and np.array_equal(other.sha256, features.sha256)):
            raise InputError(f"{stores[0].path}: the encoders of the folds have features of different samples: extract "
                             "what is missing")
    return joined


def _join_store(number: int, store: Store, streams: Sequence[Stream], task: Task, unit: str
                ) -> tuple[dict[str, np.ndarray], list[str], Manifest]:
    """Columns of `Features` for one store, what is to be said about it, and its manifest, that of its units."""
    manifest, notes = read_manifest(store.manifest_path), []
    keys = manifest.table["key"].to_numpy(object)
    places = np.full((len(keys), len(streams)), -1)
    faceless = manifest.table["key"].str.endswith(NO_FACE_SUFFIX).to_numpy(bool) & bool(unit)
    for k, (stream, file) in enumerate((stream, stream.files[number]) for stream in streams):
        places[:, k] = pd.Index(file.keys).get_indexer(pd.Index(keys))
        name, lacking = f"{store.path.name}'s {stream.name}", keys[(places[:, k] < 0) & ~faceless]
        if len(lacking):
            failed = sum(key in file.failures for key in lacking)
            notes.append(f"{len(lacking)} samples left out: not in {name} ({failed} recorded as failed), e.g. "
                         f"{lacking[0]}")
        if surplus := file.rows - int((places[:, k] >= 0).sum()):
            notes.append(f"{surplus} rows of {name} are not in the manifest: left out")
    digests, frames = streams[0].files[number].sha256, {}
    for k, stream in enumerate(streams):
        both = np.flatnonzero((places[:, 0] >= 0) & (places[:, k] >= 0))
        other = both[digests[places[both, 0]] != stream.files[number].sha256[places[both, k]]]
        if len(other):
            notes.append(f"{len(other)} samples left out: {streams[0].name} and {stream.name} were made from different "
                         f"images of them, e.g. {keys[other[0]]} (`extract --recheck`, of both)")
            places[other, k] = -1
    present = np.asarray((places >= 0).all(axis=1))
    if not present.any():
        raise InputError(f"{store.path}: no sample of its manifest has features of all of "
                         f"{', '.join(stream.name for stream in streams)}: extract them for the same images")
    if unit:
        manifest, parts = units_of(manifest, unit, labels=(task.taxonomy.target, *task.outputs),
                                   source=str(store.manifest_path))
        keys, notes = manifest.table["key"].to_numpy(object), [*notes, *manifest.notes]
        each = [places[part[present[part]]] for part in parts]
        frames = {"frames": _object_array(each)}
        places = np.stack([part[0] if len(part) else np.full(len(streams), -1) for part in each])
        present = np.array([len(part) > 0 for part in each])
    table, targets = manifest.table, task.encode(manifest)
    group = table["group"].to_numpy(object)
    columns = {
        "keys": keys, "store": np.full(len(keys), number), "split": table["split"].to_numpy(object),
        "group": np.array([f"{number}\0{name or key}" for name, key in zip(group, keys, strict=True)], object),
        "grouped": group != "", "row": places, "label": targets.label, "truth": targets.truth,
        "train_target": targets.train_target, **_basics(table, targets.label, task.taxonomy.basics), **frames,
    }
    columns = {name: values[present] for name, values in columns.items()}
    columns["sha256"] = digests[columns["row"][:, 0]] if not unit else np.array([
        hashlib.sha256(digests[part[:, 0]].tobytes()).hexdigest() for part in columns["frames"]], digests.dtype)
    return columns, [*notes, *targets.notes], manifest


def _object_array(values: Sequence[np.ndarray]) -> np.ndarray:
    """(N,) of arrays of any shape."""
    array = np.empty(len(values), object)
    for place, value in enumerate(values):
        array[place] = value
    return array


def _finite_rows(file: FeatureFile, places: np.ndarray, columns: slice) -> np.ndarray:
    """These columns of the rows of a file. Raises InputError for one that is not finite."""
    values = file.read_rows(places, columns=columns)
    if (wrong := first_non_finite_row(values)) is not None:
        raise InputError(f"{file.path}: the features of {file.keys[places[wrong]]!r} are not finite numbers: see "
                         "`cache verify`")
    return values


def _basics(table: pd.DataFrame, label: np.ndarray, parts: Sequence[tuple[str, ...]]) -> dict[str, np.ndarray]:
    """The columns basic_label and basic of `Features`. parts: the basic emotions of each class."""
    basic_label = np.array([BASIC.index(name) if name else -1 for name in table["basic"]], np.int64)
    rows = list(zip(table["basic"], table["compound"], np.where(label < len(parts), label, -1).tolist(), strict=True))
    shares = {}
    for basic, compound, c in set(rows):  # the compound's pair, or that of the class, says more than the basic label
        pair = basic_emotions(compound) or (parts[c] if c >= 0 and len(parts[c]) == 2 else ())
        pair = pair or ((basic,) if basic else ())
        shares[basic, compound, c] = np.array([(name in pair) / max(len(pair), 1) for name in BASIC], np.float32)
    return {"basic_label": basic_label, "basic": np.stack([shares[row] for row in rows])}
