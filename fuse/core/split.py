"""Which samples train, validate and test, by group; which ones a run or an encoder has seen."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from twofold.cache.classifier import group_digest
from twofold.data.splits import parse_folds, stratified_group_split
from twofold.data.utils.errors import InputError
from twofold.fuse.core.features import Features
from twofold.fuse.core.streams import training_samples_of
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

    The folds are those of `data.splits.assign_folds`, as for `finetune`, whichever samples have features.
    Groups of test leave train and validation, groups of validation leave train; validation is carved from train by
    group where the manifest has none. Stores after the first only train. Raises InputError for an empty set, and for
    what `Task.check` refuses; a zero-shot head, and one that is only to be trained (not needs_test), may have no test
    set.
    """
    words, learned = task.words, task.learned(features)
    other = "choose other --target or --classes" if task.classes else "choose other --labels"
    if not ((learned >= 0) | (features.label >= 0)).any():
        raise InputError(f"no sample has a {words}: {other}" if task.learns_classes else
                         "no sample has a basic label to train on, or a label to score by: fill the manifest's column "
                         "'basic', or take backbones that bring a classifier of basic emotions along")
    if folds and not ((features.label >= 0) & (features.store == 0)).any():
        raise InputError(f"no sample has a {words}: {other}" if task.learns_classes else
                         f"no sample has a {words} to score by: leave out --folds")
    needs_test = needs_test and task.learns_classes
    sides = _fold_sides(features, task, folds, seed) if folds else [_manifest_side(features, needs_test)]
    splits = [_make_split(features, task, side, val_fraction=val_fraction, seed=seed, needs_test=needs_test)
              for side in sides]
    table = features.manifest.table
    named = len(set(table["fold"]) - {""}) if folds and "fold" in table else 0
    if named not in (0, folds):
        note = f"the manifest names {named} folds, not {folds}: its samples are divided anew"
        splits = [replace(split, notes=(*split.notes, note)) for split in splits]
    scored = np.any([side == "test" for side in sides], axis=0)
    if folds and (count := int(((features.label >= 0) & (features.store == 0) & ~scored).sum())):
        note = f"{count} labelled samples are tested in no fold: they have no {task.parts[0].task.words}, or no fold"
        splits = [replace(split, notes=(*split.notes, note)) for split in splits]
    return splits


def _manifest_side(features: Features, needs_test: bool) -> np.ndarray:
    """(N,) 'train', 'val', 'test' or ''; stores after the first have no part in val and test."""
    side, further = features.split.copy(), features.store > 0
    side[further] = np.where(np.isin(features.split[further], ("train", "")), "train", "")
    if not needs_test and not side.any():  # no splits at all: everything is there to train on
        side[:] = "train"
    if not (side == "test").any() and needs_test:
        raise InputError("the manifest has no test samples: split it (`manifest split`), or score by --folds 5")
    return side


def _fold_sides(features: Features, task: Task, folds: int, seed: int) -> list[np.ndarray]:
    own = np.flatnonzero((features.label >= 0) & (features.store == 0))
    manifest, fold = features.manifest, np.full(len(features), -1)
    assigned = task.assign_folds(manifest, folds=folds, seed=seed)
    fold[own] = assigned[pd.Index(manifest.table["key"]).get_indexer(pd.Index(features.keys[own]))]
    official = "fold" in manifest.table and parse_folds(  # named by the manifest
        manifest.table["fold"].to_numpy(object)[assigned >= 0], folds=folds) is not None
    for c, name in enumerate(task.learned_classes if task.learns_classes and not official else ()):
        groups = set(features.group[features.label == c])
        if len(groups) == 1 and (features.label == c).sum() > 1:
            raise InputError(f"all samples of {name} are of one group ({groups.pop().partition(chr(0))[2]}): the fold "
                             "that tests it has none to train on; leave the class out (--classes FILE.toml), add "
                             "another group of it, or use the manifest's splits (--folds 0)")
    usable = (features.store == 0) | np.isin(features.split, ("train", ""))
    if official:  # of folds within train alone: the official test samples stay out of it
        usable &= (fold >= 0) | (features.split != "test")
    return [np.where(fold == number, "test", np.where(usable, "train", "")).astype(object) for number in range(folds)]


def _make_split(features: Features, task: Task, side: np.ndarray, *, val_fraction: float, seed: int, needs_test: bool
                ) -> Split:
    learned, side, notes = task.learned(features), side.copy(), []
    learnable = learned >= 0
    unsplit = int((learnable & (side == "") & (features.store == 0)).sum())  # further stores only train: no fault

    def labelled(name: str) -> np.ndarray:
        return np.flatnonzero(learnable & (side == name))

    def hold_out(name: str, earlier: tuple[str, ...]) -> None:
        """Take from the earlier sets the samples that share a group or an image file with the set held out."""
        held_out = side == name
        grouped = pd.Index(features.group).isin(features.group[held_out])  # numpy compares texts one with all
        images, _ = features.images(np.flatnonzero(held_out))
        leaked = (grouped | features.holds(images)) & np.isin(side, earlier)
        if count := int((leaked & learnable).sum()):
            notes.append(f"{count} labelled samples left out of {' and '.join(earlier)}: they share a group or their "
                         f"bytes with {name}")
        side[leaked] = ""

    hold_out("test", ("train", "val"))
    test = np.flatnonzero((features.label >= 0) & (side == "test"))
    if not task.trains:
        return Split(train=test[:0], val=test[:0], test=test, extra=test[:0], notes=tuple(notes))
    if not len(labelled("train")):
        if not notes:
            raise InputError(f"the manifest has no {'' if task.learns_classes else 'basic-'}labelled train samples: "
                             "split it (`manifest split`), or use --folds 5")
        groups = len(np.unique(features.group[learnable]))
        raise InputError("no train samples are left: all of them share a group or their bytes with test samples; " + (
            "split the manifest by group (`manifest split`), or cross-validate" if groups > 2 else "training, "
            f"validation and test samples need groups of their own, and there are only {groups} with labels"))
    if not len(labelled("val")):
        own = np.flatnonzero(learnable & (side == "train") & (features.store == 0))
        if not len(own):
            raise InputError("the first store has no labelled train samples to carve validation from: give the store "
                             "that has them first")
        carved = own[stratified_group_split(learned[own].astype(str), features.group[own], fraction=val_fraction,
                                            seed=seed)]
        side[carved] = "val"
        notes.append(f"validation: {len(carved)} samples carved from train by group")
    hold_out("val", ("train",))
    if unsplit:
        notes.append(f"{unsplit} labelled samples without a split: left out")
    extra = ~learnable & (side == "train") & (features.basic.sum(axis=1) > 0) & task.learns_classes
    split = Split(labelled("train"), labelled("val"), test, np.flatnonzero(extra), tuple(notes))
    for name, rows in (("train", split.train), ("val", split.val), *((("test", test),) if needs_test else ())):
        if not len(rows):
            raise InputError(f"no labelled {name} samples with features are left: check the splits of the manifest")
        for part in task.parts[:1] if name == "test" else task.parts:  # the first of several compares heads
            if len(task.parts) > 1 and (part.label(features.label[rows], features.truth[rows]) < 0).all():
                raise InputError(f"no {name} sample has a {part.task.words}: give some, or leave that task out")
    task.check(features, split.train, split.val)
    return split


# seen.csv has one line per image, sorted: the SHA-256 of its image file; the first half of the SHA-256 of its group's
# name, empty for a sample without a group; and one letter per fold for its role there: `l` trained on, `c` validated
# on (epoch, weights, temperature), `s` tested on, `-` none
HEADER = "sha256,group,folds"
LINE = re.compile(rb"[0-9a-f]{64},(?:[0-9a-f]{32})?,[-lcs]+")


@dataclass(frozen=True, eq=False)
class SeenSamples:
    """n images, of units all frames, and their roles in each of F folds: roles (n, F)."""

    sha256: np.ndarray  #: (n,) S64
    group: np.ndarray  #: (n,) S32, empty for a sample without a group
    roles: np.ndarray  #: (n, F) S1

    def unseen(self, features: Features, rows: np.ndarray) -> np.ndarray:
        """(n, F) bool for rows of other features: the fold has seen neither the sample's bytes nor its group.

        Where a fold was tested on this very sample, no other fold counts as not having seen it: so a cross-validated
        run is scored by the same members as when it was made.
        """
        (images, place), own_pairs = features.images(rows), np.char.add(self.sha256, self.group)
        names = [group_digests(features, rows, qualified=qualified) for qualified in (False, True)]

        def of_samples(found: np.ndarray) -> np.ndarray:
            """(n,) bool: samples of which an image is found."""
            return np.bincount(place, found, len(rows)) > 0

        unseen = np.empty((len(rows), self.roles.shape[1]), bool)
        tested = np.empty_like(unseen)
        for fold, role in enumerate(self.roles.T):
            fitted = np.isin(role, (b"l", b"c"))
            groups = np.setdiff1d(self.group[fitted], [b""])
            unseen[:, fold] = ~(of_samples(np.isin(images, self.sha256[fitted])) | np.isin(names[0], groups)
                                | np.isin(names[1], groups))
            tested[:, fold] = of_samples(np.logical_or(*(
                np.isin(np.char.add(images, name[place]), own_pairs[role == b"s"]) for name in names)))
        tested &= unseen
        return np.where(np.any(tested, axis=1, keepdims=True), tested, unseen)


def seen_samples(features: Features, folds: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> SeenSamples:
    """The roles of all samples. folds: the rows of the training, validation and test samples of each."""
    roles = np.full((len(features), len(folds)), b"-", "S1")
    for fold, role in enumerate(folds):
        for letter, rows in zip((b"l", b"c", b"s"), role, strict=True):
            roles[rows, fold] = letter
    rows = np.flatnonzero((roles != b"-").any(axis=1))
    images, place = features.images(rows)
    return SeenSamples(images, group_digests(features, rows)[place], roles[rows[place]])


def group_digests(features: Features, rows: np.ndarray, *, qualified: bool | None = None) -> np.ndarray:
    """(n,) S32: the first half of the SHA-256 of each group's name, so that a run names no one; empty for none.

    qualified: with the name of the dataset before it; None: where several stores have the name.
    """
    shared, names = features.shared_groups, features.group_names[rows]
    texts = [f"{features.datasets[store]}\0{name}" if qualified or (qualified is None and name in shared) else name
             for name, store in zip(names, features.store[rows], strict=True)]
    digests = {text: group_digest(text).hex().encode() for text in set(texts)}
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
    columns = [line.split(b",") for line in lines[:-1]]
    for number, (line, columns_of_line) in enumerate(zip(lines, columns, strict=False), 2):
        if not LINE.fullmatch(line) or len(columns_of_line[2]) != folds:
            raise InputError(f"{source}: line {number} is no seen sample of {folds} folds: train the run again")
    roles = np.frombuffer(b"".join(letters for *_, letters in columns), "S1").reshape(len(columns), folds)
    return SeenSamples(np.array([sha256 for sha256, *_ in columns], "S64"),
                       np.array([group for _, group, _ in columns], "S32"), roles)


def encoder_training_samples(features: Features, streams: Sequence[int] | None = None) -> np.ndarray:
    """(N,) bool: samples whose bytes or group an encoder of these streams (default: all) was fine-tuned with."""
    groups = group_digests(features, np.arange(len(features)), qualified=False)
    seen = np.zeros(len(features), bool)
    for k in range(len(features.streams)) if streams is None else streams:
        for samples in training_samples_of(features.streams[k].files):
            images, people = ([row.tobytes().hex().encode() for row in rows]
                              for rows in (samples.sha256, samples.groups))
            seen |= features.holds(np.array(images, "S64"))
            seen |= (groups != b"") & np.isin(groups, np.array(people, "S32"))
    return seen


def samples_seen(seen: SeenSamples, features: Features) -> np.ndarray:
    """(N,) bool: samples whose bytes or group a fold of a run, or an encoder that is of no fold, was trained or
    validated with."""
    by_run = ~np.all(seen.unseen(features, np.arange(len(features))), axis=1)
    encoders = [k for k, stream in enumerate(features.streams) if not stream.fold_files]
    return np.asarray(by_run) | encoder_training_samples(features, encoders)


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
    left, notes = {"test": split.test, "val": split.val}, list(split.notes)
    for name, words in (("test", "test"), ("val", "validation")):
        rows = left[name]
        clean, count = rows[~seen[rows]], int(seen[rows].sum())
        if not count:
            continue
        names = leaking_encoders(features, rows)
        if name == "test" and not len(clean):
            raise InputError(f"nothing is left to score: the encoder of {names} was fine-tuned with all {len(rows)} "
                             "test samples (the same bytes or group): fine-tune on other samples, or cross-validate "
                             "with one encoder per fold (`finetune --folds K`, then `fuse --folds K`)")
        if name == "val" and len(np.unique(learned[clean])) < 2:
            notes.append(f"the encoder of {names} was fine-tuned or selected with {count} of the {len(rows)} "
                         "validation samples: epoch, temperature and the best single are chosen on features that are "
                         "better than those of new samples")
            continue
        notes.append(f"{count} of {len(rows)} {words} samples left out: the encoder of {names} was fine-tuned with "
                     "them (the same bytes or group)")
        left[name] = clean
    return replace(split, **left, notes=tuple(notes))
