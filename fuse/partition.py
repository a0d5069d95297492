"""Which faces train, choose and score: no group on two sides, test touched once."""

from dataclasses import dataclass

import numpy as np

from twofold.data.errors import InputError
from twofold.data.splits import stratified_group_folds, stratified_group_split
from twofold.fuse.features import FusedFeatures


@dataclass(frozen=True)
class Partition:
    """Row numbers of a FusedFeatures. extra: training faces without a class, for heads that learn from basics too."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    extra: np.ndarray
    notes: tuple[str, ...] = ()


def partitions(features: FusedFeatures, *, folds: int, val_fraction: float, seed: int) -> list[Partition]:
    """One partition by the manifest's splits, or `folds` of them whose test sides together are all labelled faces.

    Groups of test leave train and validation, groups of validation leave train; validation is carved from train by
    group where the manifest has none. Stores after the first only train. Raises InputError for an empty split and
    for a class without training faces.
    """
    sides = _folded(features, folds, seed) if folds else [_as_split(features)]
    return [_partition(features, side, val_fraction=val_fraction, seed=seed) for side in sides]


def _as_split(features: FusedFeatures) -> np.ndarray:
    """(N,) 'train', 'val', 'test' or ''; stores after the first have no part in val and test."""
    side = features.split.copy()
    further = features.store > 0
    side[further & (side != "train") & (side != "")] = ""
    side[further & (features.split == "")] = "train"
    if not (side == "test").any():
        raise InputError("the manifest has no test faces: split it (`manifest split`), or score by --folds 5")
    return side


def _folded(features: FusedFeatures, folds: int, seed: int) -> list[np.ndarray]:
    own = np.flatnonzero((features.label >= 0) & (features.store == 0))
    if not len(own):
        raise _nothing(features)
    fold = np.full(len(features), -1)
    fold[own] = stratified_group_folds(_names(features.label[own]), _names(features.group[own]), folds=folds, seed=seed)
    usable = (features.store == 0) | np.isin(features.split, ("train", ""))
    return [np.where(fold == number, "test", np.where(usable, "train", "")).astype(object) for number in range(folds)]


def _partition(features: FusedFeatures, side: np.ndarray, *, val_fraction: float, seed: int) -> Partition:
    labelled = features.label >= 0
    if not labelled.any():
        raise _nothing(features)
    unsplit = int((labelled & (side == "")).sum())
    side, notes = _separated(features, side, "test")
    if not (labelled & (side == "train")).any():
        raise InputError("the manifest has no labelled train faces: split it (`manifest split`), or use --folds 5")
    if not (labelled & (side == "val")).any():
        side = side.copy()
        own = np.flatnonzero(labelled & (side == "train") & (features.store == 0))
        carved = stratified_group_split(_names(features.label[own]), _names(features.group[own]),
                                        fraction=val_fraction, seed=seed)
        side[own[carved]] = "val"
        notes = [*notes, f"validation: {carved.sum()} faces carved from train by group"]
    side, more = _separated(features, side, "val")
    chosen = {name: np.flatnonzero(labelled & (side == name)) for name in ("train", "val", "test")}
    extra = np.flatnonzero(~labelled & (side == "train") & (features.basic.sum(axis=1) > 0))
    _check(features, chosen)
    more = [*more, *([f"{unsplit} labelled faces without a split: left out"] if unsplit else [])]
    return Partition(**chosen, extra=extra, notes=(*notes, *more))


def _separated(features: FusedFeatures, side: np.ndarray, held_out: str) -> tuple[np.ndarray, list[str]]:
    """Take from the sides that learn what shares a group or an image file with the side held out."""
    earlier = {"test": ("train", "val"), "val": ("train",)}[held_out]
    keep = side == held_out
    same = np.isin(features.group, features.group[keep]) | np.isin(features.sha256, features.sha256[keep])
    leaked = same & np.isin(side, earlier)
    counted = int((leaked & (features.label >= 0)).sum())
    side = side.copy()
    side[leaked] = ""
    note = (f"{counted} labelled faces left out of {' and '.join(earlier)}: they share a group or their bytes with "
            f"{held_out}")
    return side, [note] if counted else []


def _names(values: np.ndarray) -> list[str]:
    return values.astype(str).tolist()


def _check(features: FusedFeatures, chosen: dict[str, np.ndarray]) -> None:
    for name, rows in chosen.items():
        if not len(rows):
            raise InputError(f"no labelled {name} faces with features are left: check the splits of the manifest")
    counts = np.bincount(features.label[chosen["train"]], minlength=len(features.taxonomy.classes))
    empty = [name for name, count in zip(features.taxonomy.classes, counts, strict=True) if not count]
    if empty:
        raise InputError(f"no training faces of {', '.join(empty)}: choose --classes that the data has, or add faces")


def _nothing(features: FusedFeatures) -> InputError:
    names = features.taxonomy
    return InputError(f"no face has a {names.target} label of {names.name}: choose other --target or --classes")
