"""Which faces train, choose and score: no group on two sides, test touched once."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from twofold.data.labels import BASIC
from twofold.data.splits import parse_folds, stratified_group_folds, stratified_group_split
from twofold.data.utils.errors import InputError
from twofold.fuse.features.features import FusedFeatures


@dataclass(frozen=True)
class Partition:
    """Row numbers of a FusedFeatures. extra: training faces without a class, for heads that learn from basics too."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    extra: np.ndarray
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """What a head learns from and is scored by: (N,) class numbers, -1 for none. classes: the names of the learned.

    A zero-shot head learns from basic labels (or nothing) and is scored by compound ones, if there are any; all others
    learn what they are scored by.
    """

    learned: np.ndarray
    scored: np.ndarray
    classes: tuple[str, ...]
    zero_shot: bool = False
    learns: bool = True

    @classmethod
    def of(cls, features: FusedFeatures, *, zero_shot: bool = False, learns: bool = True) -> "Task":
        if zero_shot:
            return cls(features.basic_label, features.label, BASIC, zero_shot=True, learns=learns)
        return cls(features.label, features.label, features.taxonomy.classes)


def partitions(features: FusedFeatures, task: Task, *, folds: int, val_fraction: float, seed: int) -> list[Partition]:
    """One partition by the manifest's splits, or `folds` of them whose test sides together are all labelled faces.

    The folds are those of the manifest's column `fold` where it names as many, else the faces are divided.

    Groups of test leave train and validation, groups of validation leave train; validation is carved from train by
    group where the manifest has none. Stores after the first only train. Raises InputError for an empty side, for a
    class without training faces and for validation faces of fewer than two classes; a zero-shot head may have no test.
    """
    sides = _folded(features, task, folds, seed) if folds else [_as_split(features, task)]
    return [_partition(features, task, side, val_fraction=val_fraction, seed=seed) for side in sides]


def _as_split(features: FusedFeatures, task: Task) -> np.ndarray:
    """(N,) 'train', 'val', 'test' or ''; stores after the first have no part in val and test."""
    side = features.split.copy()
    further = features.store > 0
    side[further & (side != "train") & (side != "")] = ""
    side[further & (features.split == "")] = "train"
    if not (side == "test").any() and not task.zero_shot:
        raise InputError("the manifest has no test faces: split it (`manifest split`), or score by --folds 5")
    return side


def _folded(features: FusedFeatures, task: Task, folds: int, seed: int) -> list[np.ndarray]:
    own = np.flatnonzero((task.scored >= 0) & (features.store == 0))
    if not len(own):
        raise _nothing(features, task)
    fold = np.full(len(features), -1)
    official = parse_folds(features.fold[own], folds=folds)
    fold[own] = official if official is not None else stratified_group_folds(
        _names(task.scored[own]), _names(features.group[own]), folds=folds, seed=seed)
    usable = (features.store == 0) | np.isin(features.split, ("train", ""))
    if official is not None:  # of folds within train alone: the official test faces stay out of it
        usable &= (fold >= 0) | (features.split != "test")
    return [np.where(fold == number, "test", np.where(usable, "train", "")).astype(object) for number in range(folds)]


def _partition(features: FusedFeatures, task: Task, side: np.ndarray, *, val_fraction: float, seed: int) -> Partition:
    learnable, scorable = task.learned >= 0, task.scored >= 0
    if not (learnable | scorable).any():
        raise _nothing(features, task)
    unsplit = int((learnable & (side == "") & (features.store == 0)).sum())  # further stores only train: no fault
    side, notes = _separated(features, task, side, "test")
    if not task.learns:
        test = np.flatnonzero(scorable & (side == "test"))
        return Partition(train=test[:0], val=test[:0], test=test, extra=test[:0], notes=tuple(notes))
    if not (learnable & (side == "train")).any():
        raise InputError(f"the manifest has no {'basic-' if task.zero_shot else ''}labelled train faces: split it "
                         "(`manifest split`), or use --folds 5")
    if not (learnable & (side == "val")).any():
        side, carved = _carved(features, task, side, val_fraction, seed)
        notes = [*notes, f"validation: {carved} faces carved from train by group"]
    side, more = _separated(features, task, side, "val")
    part = Partition(
        train=np.flatnonzero(learnable & (side == "train")), val=np.flatnonzero(learnable & (side == "val")),
        test=np.flatnonzero(scorable & (side == "test")),
        extra=np.flatnonzero(~learnable & (side == "train") & (features.basic.sum(axis=1) > 0))
        if not task.zero_shot else np.zeros(0, np.int64),
        notes=(*notes, *more, *([f"{unsplit} labelled faces without a split: left out"] if unsplit else [])))
    _check(task, part)
    return part


def _carved(features: FusedFeatures, task: Task, side: np.ndarray, fraction: float, seed: int
            ) -> tuple[np.ndarray, int]:
    """Sides with validation taken from the first store's train faces, and how many."""
    side = side.copy()
    own = np.flatnonzero((task.learned >= 0) & (side == "train") & (features.store == 0))
    if not len(own):
        raise InputError("the first store has no labelled train faces to carve validation from: give the store that "
                         "has them first")
    carved = stratified_group_split(_names(task.learned[own]), _names(features.group[own]), fraction=fraction,
                                    seed=seed)
    side[own[carved]] = "val"
    return side, int(carved.sum())


def _separated(features: FusedFeatures, task: Task, side: np.ndarray, held_out: str) -> tuple[np.ndarray, list[str]]:
    """Take from the sides that learn what shares a group or an image file with the side held out."""
    earlier = {"test": ("train", "val"), "val": ("train",)}[held_out]
    keep = side == held_out
    grouped = pd.Index(features.group).isin(features.group[keep])  # numpy compares texts one with all
    same = grouped | np.isin(features.sha256, features.sha256[keep])
    leaked = same & np.isin(side, earlier)
    counted = int((leaked & (task.learned >= 0)).sum())
    side = side.copy()
    side[leaked] = ""
    note = (f"{counted} labelled faces left out of {' and '.join(earlier)}: they share a group or their bytes with "
            f"{held_out}")
    return side, [note] if counted else []


def _check(task: Task, part: Partition) -> None:
    for name, rows in (("train", part.train), ("val", part.val), ("test", part.test)):
        if not len(rows) and not (task.zero_shot and name == "test"):
            raise InputError(f"no labelled {name} faces with features are left: check the splits of the manifest")
    chosen_by = np.unique(task.learned[part.val])
    if len(chosen_by) < 2:
        raise InputError(f"all {len(part.val)} validation faces are {task.classes[chosen_by[0]]}: nothing can be "
                         "chosen by one class; give `val` faces of several classes, or none and a larger "
                         "--val-fraction")
    counts = np.bincount(task.learned[part.train], minlength=len(task.classes))
    empty = [name for name, count in zip(task.classes, counts, strict=True) if not count]
    if empty and not task.zero_shot:  # what a zero-shot head needs depends on its compounds: fit says so
        raise InputError(f"no training faces of {', '.join(empty)}: choose --classes that the data has, or add faces")


def _nothing(features: FusedFeatures, task: Task) -> InputError:
    taxonomy = features.taxonomy
    if task.zero_shot:
        return InputError(f"no face has a {taxonomy.label_words} of {taxonomy.name} to score by: leave out --folds")
    return InputError(f"no face has a {taxonomy.label_words} of {taxonomy.name}: choose other --target or --classes")


def _names(values: np.ndarray) -> list[str]:
    return values.astype(str).tolist()
