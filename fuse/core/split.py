"""Which samples train, validate and test, by group; which ones a run or an encoder has seen."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from twofold.cache.classifier import group_digest
from twofold.data.splits import parse_folds, stratified_group_folds, stratified_group_split
from twofold.data.utils.errors import InputError
from twofold.fuse.core.features import Features, training_samples_of
from twofold.fuse.core.task import Task


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers of Features. extra: training samples without a class, for heads that learn from basics, too."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    extra: np.ndarray
    notes: tuple[str, ...] = ()


def make_splits(features: Features, task: Task, *, folds: int, val_fraction: float, seed: int, needs_test: bool = True
                ) -> list[Split]:
    """One split as the manifest has it, or `folds` of them whose test sets together are all labelled samples.

    The folds are those of the manifest's column `fold` where it names as many, else the samples are divided.
    Groups of test leave train and validation, groups of validation leave train; validation is carved from train by
    group where the manifest has none. Stores after the first only train. Raises InputError for an empty set, for a
    class without training samples and for validation samples of fewer than two classes; a zero-shot head, and one that
    is only to be trained (not needs_test), may have no test set.
    """
    if not ((task.learned(features) >= 0) | (task.scored(features) >= 0)).any():
        raise _no_labels(features, task, folds=0)
    needs_test = needs_test and task.learns_classes
    sides = _fold_sides(features, task, folds, seed) if folds else [_manifest_side(features, needs_test)]
    splits = [_make_split(features, task, side, val_fraction=val_fraction, seed=seed, needs_test=needs_test)
              for side in sides]
    named = len(set(features.fold.tolist()) - {""}) if folds else 0
    if named not in (0, folds):
        note = f"the manifest names {named} folds, not {folds}: its samples are divided anew"
        splits = [replace(split, notes=(*split.notes, note)) for split in splits]
    return splits


def _manifest_side(features: Features, needs_test: bool) -> np.ndarray:
    """(N,) 'train', 'val', 'test' or ''; stores after the first have no part in val and test."""
    side, further = features.split.copy(), features.store > 0
    side[further & (side != "train") & (side != "")] = ""
    side[further & (features.split == "")] = "train"
    if not needs_test and not side.any():  # no splits at all: everything is there to train on
        side[:] = "train"
    if not (side == "test").any() and needs_test:
        raise InputError("the manifest has no test samples: split it (`manifest split`), or score by --folds 5")
    return side


def _fold_sides(features: Features, task: Task, folds: int, seed: int) -> list[np.ndarray]:
    own = np.flatnonzero((task.scored(features) >= 0) & (features.store == 0))
    if not len(own):
        raise _no_labels(features, task, folds=folds)
    fold = np.full(len(features), -1)
    official = parse_folds(features.fold[own], folds=folds)
    fold[own] = official if official is not None else stratified_group_folds(
        _texts(task.scored(features)[own]), _texts(features.group[own]), folds=folds, seed=seed)
    for c, name in enumerate(task.learned_classes if task.learns_classes and official is None else ()):
        groups = set(features.group[features.label == c])
        if len(groups) == 1 and (features.label == c).sum() > 1:
            raise InputError(f"all samples of {name} are of one group ({groups.pop().partition(chr(0))[2]}): the fold "
                             "that tests it has none to train on; leave the class out (--classes FILE.toml), add "
                             "another group of it, or use the manifest's splits (--folds 0)")
    usable = (features.store == 0) | np.isin(features.split, ("train", ""))
    if official is not None:  # of folds within train alone: the official test samples stay out of it
        usable &= (fold >= 0) | (features.split != "test")
    return [np.where(fold == number, "test", np.where(usable, "train", "")).astype(object) for number in range(folds)]


def _make_split(features: Features, task: Task, side: np.ndarray, *, val_fraction: float, seed: int, needs_test: bool
                ) -> Split:
    learnable, scorable = task.learned(features) >= 0, task.scored(features) >= 0
    unsplit = int((learnable & (side == "") & (features.store == 0)).sum())  # further stores only train: no fault
    side, notes = _separate(features, learnable, side, "test")
    test = np.flatnonzero(scorable & (side == "test"))
    if not task.trains:
        return Split(train=test[:0], val=test[:0], test=test, extra=test[:0], notes=tuple(notes))
    if notes and not (learnable & (side == "train")).any():
        raise InputError("no train samples are left: all of them share a group or their bytes with test samples; "
                         "split the manifest by group (`manifest split`), or cross-validate with more groups")
    if not (learnable & (side == "train")).any():
        raise InputError(f"the manifest has no {'' if task.learns_classes else 'basic-'}labelled train samples: split "
                         "it (`manifest split`), or use --folds 5")
    if not (learnable & (side == "val")).any():
        side, carved = _carve_validation(features, task, side, val_fraction, seed)
        notes.append(f"validation: {carved} samples carved from train by group")
    side, more = _separate(features, learnable, side, "val")
    notes += [*more, *([f"{unsplit} labelled samples without a split: left out"] if unsplit else [])]
    extra = ~learnable & (side == "train") & (features.basic.sum(axis=1) > 0)
    split = Split(train=np.flatnonzero(learnable & (side == "train")), val=np.flatnonzero(learnable & (side == "val")),
                  test=test, extra=np.flatnonzero(extra & task.learns_classes), notes=tuple(notes))
    _check(task, split, task.learned(features), needs_test)
    return split


def _carve_validation(features: Features, task: Task, side: np.ndarray, fraction: float, seed: int
                      ) -> tuple[np.ndarray, int]:
    """Sides with validation taken from the first store's train samples, and how many."""
    side, learned = side.copy(), task.learned(features)
    own = np.flatnonzero((learned >= 0) & (side == "train") & (features.store == 0))
    if not len(own):
        raise InputError("the first store has no labelled train samples to carve validation from: give the store that "
                         "has them first")
    carved = stratified_group_split(_texts(learned[own]), _texts(features.group[own]), fraction=fraction, seed=seed)
    side[own[carved]] = "val"
    return side, int(carved.sum())


def _separate(features: Features, learnable: np.ndarray, side: np.ndarray, held_out: str
              ) -> tuple[np.ndarray, list[str]]:
    """Take from the earlier sets the samples that share a group or an image file with the set held out."""
    earlier = {"test": ("train", "val"), "val": ("train",)}[held_out]
    keep = side == held_out
    grouped = pd.Index(features.group).isin(features.group[keep])  # numpy compares texts one with all
    leaked = (grouped | np.isin(features.sha256, features.sha256[keep])) & np.isin(side, earlier)
    count = int((leaked & learnable).sum())
    side = np.where(leaked, "", side)
    return side, [f"{count} labelled samples left out of {' and '.join(earlier)}: they share a group or their bytes "
                  f"with {held_out}"] if count else []


def _check(task: Task, split: Split, learned: np.ndarray, needs_test: bool) -> None:
    classes = task.learned_classes
    for name, rows in (("train", split.train), ("val", split.val), ("test", split.test)):
        if not len(rows) and (needs_test or name != "test"):
            raise InputError(f"no labelled {name} samples with features are left: check the splits of the manifest")
    validated = np.unique(learned[split.val])
    if len(validated) < 2:
        raise InputError(f"all {len(split.val)} validation samples are {classes[validated[0]]}: nothing can be "
                         "chosen by one class; give `val` samples of several classes, or none and a larger "
                         "--val-fraction")
    counts = np.bincount(learned[split.train], minlength=len(classes))
    empty = [name for name, count in zip(classes, counts, strict=True) if not count]
    if empty and task.learns_classes:  # what a zero-shot head needs depends on its compounds: its fit says so
        raise InputError(f"no training samples of {', '.join(empty)}: choose --classes that the data has, or add "
                         "samples")


def _no_labels(features: Features, task: Task, *, folds: int) -> InputError:
    taxonomy = features.taxonomy
    if task.learns_classes:
        return InputError(f"no sample has a {taxonomy.label_words} of {taxonomy.name}: choose other --target or "
                          "--classes")
    if folds:
        return InputError(f"no sample has a {taxonomy.label_words} of {taxonomy.name} to score by: leave out --folds")
    return InputError("no sample has a basic label to train on, or a label to score by: fill the manifest's column "
                      "'basic', or take backbones that bring a classifier of basic emotions along")


def _texts(values: np.ndarray) -> list[str]:
    return values.astype(str).tolist()


# seen.csv has one line per sample, sorted: the SHA-256 of its image file; the first half of the SHA-256 of its group's
# name, empty for a sample without a group; and one letter per fold for its role there: `l` trained on, `c` validated
# on (epoch, weights, temperature), `s` tested on, `-` none
HEADER = "sha256,group,folds"
LINE = re.compile(rb"[0-9a-f]{64},(?:[0-9a-f]{32})?,[-lcs]+")


@dataclass(frozen=True, eq=False)
class SeenSamples:
    """n samples and their roles in each of F folds: roles (n, F)."""

    sha256: np.ndarray  #: (n,) S64
    group: np.ndarray  #: (n,) S32, empty for a sample without a group
    roles: np.ndarray  #: (n, F) S1

    def fitted_on(self, fold: int) -> np.ndarray:
        """(n,) bool: the training and validation samples of a fold."""
        return np.isin(self.roles[:, fold], (b"l", b"c"))

    def unseen(self, features: Features, rows: np.ndarray) -> np.ndarray:
        """(n, F) bool for rows of other features: the fold has seen neither the sample's bytes nor its group.

        Where a fold was tested on this very sample, no other fold counts as not having seen it: so a cross-validated
        run is scored by the same members as when it was made.
        """
        sha256, own_pairs = features.sha256[rows], np.char.add(self.sha256, self.group)
        names = [group_digests(features, rows, qualified=qualified) for qualified in (False, True)]
        unseen = np.empty((len(rows), self.roles.shape[1]), bool)
        tested = np.empty_like(unseen)
        for fold in range(unseen.shape[1]):
            fitted = self.fitted_on(fold)
            unseen[:, fold] = ~np.isin(sha256, self.sha256[fitted])
            fitted_groups = np.setdiff1d(self.group[fitted], [b""])
            unseen[:, fold] &= ~(np.isin(names[0], fitted_groups) | np.isin(names[1], fitted_groups))
            pairs = own_pairs[self.roles[:, fold] == b"s"]
            tested[:, fold] = np.logical_or(*(np.isin(np.char.add(sha256, name), pairs) for name in names))
        tested &= unseen
        return np.where(np.any(tested, axis=1, keepdims=True), tested, unseen)


def seen_samples(features: Features, folds: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> SeenSamples:
    """The roles of all samples. folds: the rows of the training, validation and test samples of each."""
    roles = np.full((len(features), len(folds)), b"-", "S1")
    for fold, role in enumerate(folds):
        for letter, rows in zip((b"l", b"c", b"s"), role, strict=True):
            roles[rows, fold] = letter
    rows = np.flatnonzero((roles != b"-").any(axis=1))
    return SeenSamples(features.sha256[rows].astype("S64"), group_digests(features, rows), roles[rows])


def group_digests(features: Features, rows: np.ndarray, *, qualified: bool | None = None) -> np.ndarray:
    """(n,) S32: the first half of the SHA-256 of each group's name, so that a run names no one; empty for none.

    qualified: with the name of the dataset before it; None: where several stores have the name.
    """
    shared, names = features.shared_groups, features.group_names[rows]
    digests: dict[str, bytes] = {}
    texts = [f"{features.datasets[store]}\0{name}" if qualified or (qualified is None and name in shared) else name
             for name, store in zip(names, features.store[rows], strict=True)]
    for text in set(texts):
        digests[text] = group_digest(text).hex().encode()
    return np.array([digests[text] if grouped else b"" for text, grouped in
                     zip(texts, features.grouped[rows], strict=True)], "S32")


def format_seen(seen: SeenSamples) -> str:
    """The content of `seen.csv`."""
    letters = [row.tobytes() for row in np.ascontiguousarray(seen.roles)]
    lines = sorted({b",".join(line) for line in zip(seen.sha256.tolist(), seen.group.tolist(), letters, strict=True)})
    return b"\n".join([HEADER.encode(), *lines, b""]).decode("ascii")


def parse_seen(content: bytes, *, folds: int, source: str) -> SeenSamples:
    """Parse the content of `seen.csv`. Raises InputError for a malformed line; source: the name of the file."""
    header, *lines = content.split(b"\n")
    if header != HEADER.encode() or lines[-1:] != [b""]:
        raise InputError(f"{source}: not a list of seen samples, or cut short: train the run again")
    lines = lines[:-1]
    for number, line in enumerate(lines, 2):
        if not LINE.fullmatch(line) or len(line.rpartition(b",")[2]) != folds:
            raise InputError(f"{source}: line {number} is no seen sample of {folds} folds: train the run again")
    columns = [line.split(b",") for line in lines]
    roles = np.frombuffer(b"".join(letters for *_, letters in columns), "S1").reshape(len(lines), folds)
    return SeenSamples(np.array([sha256 for sha256, *_ in columns], "S64"),
                       np.array([group for _, group, _ in columns], "S32"), roles)


def encoder_training_samples(features: Features, streams: Sequence[int] | None = None) -> np.ndarray:
    """(N,) bool: samples whose bytes or group an encoder of these streams (default: all) was fine-tuned with."""
    names = features.sha256.astype("S64")
    groups = group_digests(features, np.arange(len(features)), qualified=False)
    seen = np.zeros(len(features), bool)
    for k in range(len(features.streams)) if streams is None else streams:
        for samples in training_samples_of(features.streams[k].files):
            seen |= np.isin(names, _hex(samples.sha256, "S64"))
            seen |= (groups != b"") & np.isin(groups, _hex(samples.groups, "S32"))
    return seen


def leaking_encoders(features: Features, rows: np.ndarray) -> str:
    """Names of the streams whose encoders were fine-tuned with some of these rows."""
    names = [stream.name for k, stream in enumerate(features.streams)
             if encoder_training_samples(features, [k])[rows].any()]
    return " and ".join(names)


def drop_encoder_training_samples(features: Features, split: Split, learned: np.ndarray) -> Split:
    """The split without validation and test samples that an encoder was fine-tuned with; notes say how many.

    Where validation would be left without two classes (N,) `learned`, it stays, and a note says so. Raises InputError
    if no test sample is left.
    """
    seen = encoder_training_samples(features)
    val, test, notes = split.val, split.test, list(split.notes)
    if seen[test].any():
        names = leaking_encoders(features, test)
        if seen[test].all():
            raise InputError(f"nothing is left to score: the encoder of {names} was fine-tuned with all {len(test)} "
                             "test samples (the same bytes or group): fine-tune on other samples, or cross-validate "
                             "with one encoder per fold (`finetune --folds K`, then `fuse --folds K`)")
        notes.append(f"{seen[test].sum()} of {len(test)} test samples left out: the encoder of {names} was fine-tuned "
                     "with them (the same bytes or group)")
    if seen[val].any():
        names, count = leaking_encoders(features, val), int(seen[val].sum())
        if len(np.unique(learned[val[~seen[val]]])) > 1:
            notes.append(f"{count} of {len(val)} validation samples left out: the encoder of {names} was fine-tuned "
                         "with them (the same bytes or group)")
            val = val[~seen[val]]
        else:
            notes.append(f"the encoder of {names} was fine-tuned or selected with {count} of the {len(val)} validation "
                         "samples: epoch, temperature and the best single are chosen on features that are better than "
                         "those of new samples")
    return replace(split, val=val, test=test[~seen[test]], notes=tuple(notes))


def _hex(rows: np.ndarray, kind: str) -> np.ndarray:
    """(n, B) uint8 as (n,) texts of 2 B hex digits."""
    return np.array([row.tobytes().hex().encode() for row in rows], kind)
