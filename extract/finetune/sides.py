"""Which faces teach, which choose the best epoch, and which are kept away from: nobody looks at test."""

from dataclasses import dataclass, replace

import numpy as np

from twofold.data.labels import load_taxonomy, normalize_label
from twofold.data.manifest import Manifest
from twofold.data.splits import assign_folds, stratified_group_split
from twofold.data.utils.errors import InputError
from twofold.extract.finetune.settings import Settings


@dataclass(frozen=True)
class Sides:
    """Row numbers of a manifest. labels: of each target, (N,) class of each face, -1 for none."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    labels: dict[str, np.ndarray]
    notes: tuple[str, ...] = ()

    def without(self, rows: np.ndarray, why: str) -> "Sides":
        """The same less some rows of train and val; `why` finishes the sentence "N faces left out: ..."."""
        kept = {name: np.setdiff1d(getattr(self, name), rows) for name in ("train", "val")}
        lost = len(self.train) + len(self.val) - sum(map(len, kept.values()))
        notes = (*self.notes, f"{lost} faces left out: {why}") if lost else self.notes
        return replace(self, **kept, notes=notes)


def sides_of(faces: Manifest, settings: Settings, *, fold: int = -1) -> Sides:
    """Train, validation and test by the manifest's splits, or with `fold` as test where `settings.folds` says so.

    Groups of test leave train and validation; validation is carved from train by group where there is none, and its
    groups leave train. A face without any label of the targets has no side but test. Raises InputError.
    """
    labels = labels_of(faces, settings)
    labelled = np.any([label >= 0 for label in labels.values()], axis=0)
    if not labelled.any():
        names = " or ".join(f"{names.label_words} of {names.name}" for names in settings.taxonomies.values())
        raise InputError(f"no face has a {names}: choose other --target or --classes")
    split = faces.table["split"].to_numpy(object)
    groups = np.array([group or f"\0{key}" for group, key in
                       zip(faces.table["group"], faces.table["key"], strict=True)], object)
    notes = []
    if fold >= 0:
        classes = load_taxonomy(settings.fold_classes)
        test = assign_folds(faces, classes, folds=settings.folds, seed=settings.seed) == fold
        side = np.where(test, "test", "train").astype(object)
    elif (split == "").all():
        side = np.full(len(split), "train", object)
        notes.append("the manifest has no splits: every face may teach, none is kept for a test")
    else:
        side = split
        unsplit = int((labelled & (side == "")).sum())
        notes += [f"{unsplit} labelled faces without a split: left out"] if unsplit else []
    test = side == "test"
    shared = np.isin(groups.astype(str), groups[test].astype(str)) & ~test & (side != "") & labelled
    notes += [f"{int(shared.sum())} faces left out: they share a group with test"] if shared.any() else []
    usable = labelled & ~shared
    train, val = (np.flatnonzero(usable & (side == name)) for name in ("train", "val"))
    if not len(train):
        raise InputError("the manifest has no labelled train faces: split it (`manifest split`)")
    if not len(val):
        teachable = np.flatnonzero((side == "train") & ~np.isin(groups, groups[test]))
        val = _carved(faces, settings, train, teachable, groups)
        train = np.setdiff1d(train, val)
        notes.append(f"validation: {len(val)} faces carved from train by group")
    else:
        both = np.isin(groups[train].astype(str), groups[val].astype(str))
        if both.any():
            notes.append(f"{int(both.sum())} faces left out of train: they share a group with validation")
        train = train[~both]
    return Sides(train, val, np.flatnonzero(test), labels, tuple(notes))


def labels_of(faces: Manifest, settings: Settings) -> dict[str, np.ndarray]:
    """Of each target, (N,) the class of each face, -1 for none. Raises InputError without a column of the target."""
    labels = {}
    for target, names in settings.taxonomies.items():
        if target not in faces.table:
            raise InputError(f"the manifest has no column {target!r} of labels: it has "
                             f"{', '.join(faces.table.columns)}")
        number = {name: index for index, name in enumerate(names.classes)}
        labels[target] = np.array([number.get(normalize_label(name), -1) for name in faces.table[target]], np.int64)
    return labels


def check_classes(sides: Sides, settings: Settings) -> Sides:
    """Raises InputError for a class that cannot be learned or a target that cannot be chosen by; may add notes."""
    notes = []
    for target, names in settings.taxonomies.items():
        counts = {side: np.bincount(labels[labels >= 0], minlength=len(names.classes)) for side, labels in
                  ((side, sides.labels[target][getattr(sides, side)]) for side in ("train", "val"))}
        if not counts["val"].sum():
            raise InputError(f"no {target} validation faces are left: add labelled faces of further groups, or a val "
                             "split")
        rare = [f"{name} ({count})" for name, count in zip(names.classes, counts["train"], strict=True) if count < 2]
        if (counts["train"] > 0).sum() < 2:
            raise InputError(f"training faces of {(counts['train'] > 0).sum()} {target} class: two are needed at least")
        if any(name.endswith("(1)") for name in rare):
            raise InputError(f"too few training faces of {', '.join(rare)}: add faces, or choose --classes without it")
        if rare:
            notes.append(f"no training faces of {', '.join(name.split(' ')[0] for name in rare)}: "
                         f"the {target} classifier never says so")
    return replace(sides, notes=(*sides.notes, *notes))


def _carved(faces: Manifest, settings: Settings, train: np.ndarray, teachable: np.ndarray, groups: np.ndarray
            ) -> np.ndarray:
    """Rows of train for validation, whole groups, in proportion. teachable: all rows that share no group with test.

    Of the faces that `fuse` learns from they are those that it carves itself: it must not choose a head by faces whose
    features the encoder knows by heart. Raises InputError where the faces cannot be split.
    """
    classes = load_taxonomy(settings.fold_classes)
    number = {name: str(place) for place, name in enumerate(classes.classes)}
    column = faces.table[classes.target] if classes.target in faces.table else [""] * len(faces)
    label = np.array([number.get(normalize_label(name), "") for name in column], object)
    fused = teachable[label[teachable] != ""]
    chosen = fused[:0]
    if len(np.unique(groups[fused])) > 1:
        chosen = fused[stratified_group_split(label[fused].tolist(), groups[fused].tolist(),
                                              fraction=settings.val_fraction, seed=settings.seed)]
    else:
        fused = chosen
    follow, rest = train[np.isin(groups[train], groups[chosen])], train[~np.isin(groups[train], groups[fused])]
    if not len(rest):
        return follow
    carved = stratified_group_split(_strata(faces, settings)[rest], groups[rest], fraction=settings.val_fraction,
                                    seed=settings.seed)
    return np.union1d(follow, rest[carved])


def _strata(faces: Manifest, settings: Settings) -> np.ndarray:
    """What is to be in proportion on both sides: a label of one's own, the compound label, else the basic one."""
    columns = dict.fromkeys([*(target for target in settings.targets if target != "basic"), "compound", "basic"])
    return np.array([next(filter(None, labels), "") for labels in
                     zip(*(faces.table[name] for name in columns), strict=True)], object)
