"""Joining feature files by key with the manifest: the one way from stores to `FusedFeatures`."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from twofold.cache.format.featurefile import FeatureFile
from twofold.cache.recipe import Recipe, differences
from twofold.cache.store import Store
from twofold.data.labels import BASIC, Taxonomy, normalize_label
from twofold.data.labels import basic_emotions as parts_of
from twofold.data.manifest import Manifest, read_manifest
from twofold.data.utils.errors import InputError
from twofold.fuse.features.features import FusedFeatures, Stream, marks
from twofold.fuse.runs.taught import fold_files

VIEWS = ("original", "flip", "enhanced1", "enhanced2")
PRECISION = {"precision", "dtype"}  #: of a recipe: what may differ between files whose features are the same


def join(
    stores: Sequence[Store], *, backbones: Sequence[str], views: Sequence[str], taxonomy: Taxonomy, folds: int = 0,
) -> FusedFeatures:
    """The features of these backbones and views of all stores, joined as `join_streams` does.

    backbones: names or NAME@FINGERPRINT; none = all of the first store. The stores must agree on each recipe. The
    order in which they are named means nothing: streams stand by view, then by name, so that seeds draw the same.
    folds: of the cross-validation that they are for, whose fold-wise encoders are wanted then.
    Raises CacheError for a backbone that a store lacks or has twice, InputError if nothing is left or recipes differ.
    """
    names = list(backbones) or stores[0].backbones(views[0])
    if not names:
        damaged = "".join(f"; {reason}" for reason in list(stores[0].readable()[1].values())[:1])
        raise InputError(f"{stores[0].path}: no feature files of the view {views[0]!r} to fuse{damaged} (`cache ls` "
                         "shows what there is)")
    streams = [_stream_of_name(stores, backbone, view, folds) for view in views for backbone in names]
    _check_different(streams)
    streams.sort(key=lambda stream: (_rank(stream.view), stream.backbone, stream.recipe.fingerprint))
    names = marks([(stream.backbone, stream.view, stream.recipe) for stream in streams])
    streams = [replace(stream, mark=mark) for stream, mark in zip(streams, names, strict=True)]
    return join_streams(stores, streams, taxonomy=taxonomy)


def join_streams(stores: Sequence[Store], streams: Sequence[Stream], *, taxonomy: Taxonomy) -> FusedFeatures:
    """Join the files of the streams by key with each store's manifest, and the stores one after the other.

    What only one side has is left out and counted in `notes`. Raises InputError if nothing of a store is left.
    """
    joined = [_join_store(number, store, streams, taxonomy) for number, store in enumerate(stores)]
    columns = {name: np.concatenate([each[name] for each, _ in joined]) for name in joined[0][0]}
    notes = tuple(note for _, notes in joined for note in notes)
    return FusedFeatures(taxonomy=taxonomy, streams=tuple(streams), notes=notes, **columns)


def stream_of_recipe(store: Store, backbone: str, view: str, recipe: Recipe, *, source: str) -> Stream:
    """The stream of a store with this recipe, or with one that differs in precision alone.

    source: what is named as having asked for the recipe. Raises InputError for any other difference, CacheError if the
    store has no such backbone.
    """
    files = [file for file in store.readable()[0] if (file.backbone, file.view) == (backbone, view)]
    if not files:
        store.find(backbone, view)  # raises, naming what the store has
    file = min(files, key=lambda file: _distance(recipe, file))
    difference = differences(recipe, file.recipe)
    if set(difference) - PRECISION:
        raise InputError(f"{file.path}: {backbone} was extracted otherwise than what {source} was trained on (there, "
                         f"here): {spelled(difference)}; extract it as the run wants it")
    return Stream(backbone, view, file.recipe, file.dim, (file,))


def spelled(difference: dict[str, tuple[object, object]]) -> str:
    """Differences of two recipes in words."""
    return "; ".join(f"{name} {_short(a)} there, {_short(b)} here" for name, (a, b) in difference.items())


def _distance(recipe: Recipe, file: FeatureFile) -> tuple[bool, int]:
    difference = differences(recipe, file.recipe)
    return bool(set(difference) - PRECISION), len(difference)


def join_folds(stores: Sequence[Store], features: FusedFeatures, *, folds: int) -> tuple[FusedFeatures, ...]:
    """The same faces as the encoders of each fold give them; nothing where no encoder is fine-tuned one a fold.

    Raises InputError if the files of the folds hold different faces.
    """
    if not any(stream.fold_files for stream in features.streams):
        return ()
    joined = tuple(join_streams(stores, [stream.of_fold(fold) for stream in features.streams],
                                taxonomy=features.taxonomy) for fold in range(folds))
    for other in joined:
        if not (np.array_equal(other.keys, features.keys) and np.array_equal(other.sha256, features.sha256)):
            raise InputError(f"{stores[0].path}: the encoders of the folds have features of different faces: extract "
                             "what is missing")
    return joined


def _stream_of_name(stores: Sequence[Store], backbone: str, view: str, folds: int) -> Stream:
    of_folds = fold_files(stores[0], backbone, view, folds=folds) if len(stores) == 1 else ()
    files = of_folds[:1] or tuple(store.find(backbone, view) for store in stores)
    for store, file in zip(stores[1:], files[1:], strict=True):
        difference = differences(files[0].recipe, file.recipe)
        if set(difference) - PRECISION:
            raise InputError(f"{store.path}: {backbone} ({view}) was made otherwise than in {stores[0].path}: "
                             + spelled(difference))
    return Stream(files[0].backbone, view, files[0].recipe, files[0].dim, files, of_folds)


def _rank(view: str) -> tuple[int, str]:
    """The original first: the paper's head predicts from the first view."""
    return VIEWS.index(view) if view in VIEWS else len(VIEWS), view


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:20]}..."


def _check_different(streams: Sequence[Stream]) -> None:
    prints = [stream.recipe.fingerprint for stream in streams]
    for number, stream in enumerate(streams):
        if stream.recipe.fingerprint in prints[:number]:
            raise InputError(f"{stream.name} is asked for twice")


def _join_store(
    number: int, store: Store, streams: Sequence[Stream], taxonomy: Taxonomy,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Columns of `FusedFeatures` for one store, and what is to be said about it."""
    manifest = read_manifest(store.manifest_path)
    keys = np.array(manifest.keys, object)
    files = [stream.files[number] for stream in streams]
    places = np.column_stack([pd.Index(file.keys).get_indexer(pd.Index(keys)) for file in files])
    present = (places >= 0).all(axis=1)
    notes = _missing(store, streams, places, files, keys)
    if not present.any():
        raise InputError(f"{store.path}: no face of its manifest has features of all of "
                         f"{', '.join(stream.name for stream in streams)}: extract them for the same faces")
    labels, faults = _labels(manifest, taxonomy)
    group = manifest.table["group"].to_numpy(object)
    fold = manifest.table["fold"].to_numpy(object) if "fold" in manifest.table else np.full(len(keys), "", object)
    columns = {
        "keys": keys, "fold": fold, "store": np.full(len(keys), number),
        "split": manifest.table["split"].to_numpy(object),
        "group": np.array([f"{number}\0{name or key}" for name, key in zip(group, keys, strict=True)], object),
        **labels, "row": places,
    }
    columns = {name: values[present] for name, values in columns.items()}
    columns["sha256"] = files[0].sha256[columns["row"][:, 0]]
    return columns, notes + faults


def _missing(store: Store, streams: Sequence[Stream], places: np.ndarray, files: Sequence[FeatureFile],
             keys: np.ndarray) -> list[str]:
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
    own = taxonomy.target in manifest.table.columns  # a store to predict on need not have a column of one's own
    column = manifest.table[taxonomy.target].to_numpy(object) if own else np.full(len(basic), "", object)
    number = {name: index for index, name in enumerate(taxonomy.classes)}
    places = {name: number.get(normalize_label(name), -1) for name in set(column)}
    label = np.array([places[name] for name in column], np.int64)
    outside = sum(bool(name) for name in column[label < 0])
    notes = [f"{outside} faces with a {taxonomy.label_words} outside {taxonomy.name}"] if outside else []
    unlabelled = int((column == "").sum())
    if unlabelled:
        notes.append(f"{unlabelled} faces without a {taxonomy.label_words}")
    basic_label = np.array([BASIC.index(name) if name else -1 for name in basic], np.int64)
    rows = list(zip(basic, compound, label.tolist(), strict=True))
    shares = {row: _shares(*row[:2], taxonomy.basics[row[2]] if row[2] >= 0 else ()) for row in set(rows)}
    return {"label": label, "basic_label": basic_label, "basic": np.stack([shares[row] for row in rows])}, notes


def _shares(basic: str, compound: str, parts: tuple[str, ...]) -> np.ndarray:
    """(8,) the compound's pair, or that of the face's class, half each, before the basic label: it says more."""
    shares = np.zeros(len(BASIC), np.float32)
    pair = parts_of(compound) or (parts if len(parts) == 2 else ())
    if pair:
        shares[[BASIC.index(name) for name in pair]] = 0.5
    elif basic:
        shares[BASIC.index(basic)] = 1.0
    return shares
