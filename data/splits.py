"""Split samples with class proportions kept, so that no group (subject, video, near-duplicates) is on two sides."""

from collections.abc import Sequence

import numpy as np

from twofold.data.labels import Taxonomy
from twofold.data.manifest import Manifest
from twofold.data.utils.errors import InputError

Texts = Sequence[str] | np.ndarray  #: one a face


def stratified_group_folds(
    labels: Texts, groups: Texts, *, folds: int, seed: int,
) -> np.ndarray:
    """(N,) fold of each face, from 0 to folds - 1; a face without a group (empty) is a group of its own.

    Groups are dealt out greedily, those with the rarest classes first, each to the fold that most lacks its classes;
    faces alone fill up what each fold then lacks.
    Raises InputError for fewer than two folds or fewer groups than folds.
    """
    if folds < 2:
        raise InputError(f"{folds} folds: at least two are needed")
    return _deal(labels, groups, np.full(folds, 1 / folds), seed)


def stratified_group_split(
    labels: Texts, groups: Texts, *, fraction: float, seed: int,
) -> np.ndarray:
    """(N,) bool: True for the faces held out, about `fraction` of each class, whole groups only.

    Raises InputError if `fraction` is not between 0 and 1, or there is only one group.
    """
    if not 0 < fraction < 1:
        raise InputError(f"{fraction} is no fraction to hold out: it must lie between 0 and 1")
    return _deal(labels, groups, np.array([1 - fraction, fraction]), seed) == 1


def _deal(labels: Texts, groups: Texts, shares: np.ndarray, seed: int) -> np.ndarray:
    """The side of each face, for sides that are to hold these shares of every class."""
    _, label_of = np.unique(np.asarray(labels, object).astype(str), return_inverse=True)
    names = [group or f"\0{row}" for row, group in enumerate(groups)]
    _, group_of = np.unique(names, return_inverse=True)
    sizes = np.bincount(group_of)
    if len(sizes) < len(shares):
        raise InputError(f"{len(sizes)} groups of faces cannot be split into {len(shares)} sides")
    draw = np.random.default_rng(seed)
    lack = shares[:, None] * np.bincount(label_of)
    side = np.empty(len(sizes), int)
    several = np.flatnonzero(sizes > 1)
    place = np.searchsorted(several, group_of)
    inside = np.flatnonzero(sizes[group_of] > 1)
    counts = np.zeros((len(several), lack.shape[1]))
    np.add.at(counts, (place[inside], label_of[inside]), 1)
    side[several] = _deal_groups(counts, lack, shares, draw)
    alone = np.flatnonzero(sizes[group_of] == 1)
    for label in np.argsort(np.bincount(label_of[alone], minlength=lack.shape[1]), kind="stable"):
        rows = draw.permutation(alone[label_of[alone] == label])
        side[group_of[rows]] = np.repeat(np.arange(len(shares)), _seats(lack, label, len(rows), shares))
    return side[group_of]


def _deal_groups(counts: np.ndarray, lack: np.ndarray, shares: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """(G,) the side of each group of several faces, each to the side that most lacks its classes; updates `lack`."""
    totals = np.maximum(lack.sum(axis=0), 1)
    order = draw.permutation(len(counts))
    rarity = (counts / totals).max(axis=1, initial=0)
    side = np.empty(len(counts), int)
    for group in order[np.argsort(-rarity[order], kind="stable")]:
        present = counts[group] > 0
        want = (lack[:, present] / totals[present] / shares[:, None]).mean(axis=1)
        best = np.flatnonzero(want == want.max())
        side[group] = best[np.argmax(lack[best].sum(axis=1) / shares[best])]
        lack[side[group]] -= counts[group]
    return side


def _seats(lack: np.ndarray, label: int, count: int, shares: np.ndarray) -> np.ndarray:
    """(sides,) how many of `count` single faces of a class go to each side; updates `lack`."""
    want = np.clip(lack[:, label], 0, None)
    want = (want if want.sum() else shares) * count / (want.sum() or shares.sum())
    seats = np.floor(want).astype(int)
    left = np.lexsort((-lack.sum(axis=1) / shares, -(want - seats).round(9)))[:count - seats.sum()]
    seats[left] += 1
    lack[:, label] -= seats
    return seats


def assign_folds(faces: Manifest, classes: Taxonomy, *, folds: int, seed: int) -> np.ndarray:
    """(N,) the fold, from 0, that tests each face with a label in `classes`; -1 for the others.

    Those of the manifest's column `fold` where it has as many, else the faces are divided. Depends on keys, labels,
    groups and that column alone, never on which faces have features. Raises InputError for fewer than
    two folds or fewer groups than folds.
    """
    number = {name: str(index) for index, name in enumerate(classes.classes)}
    labels = [number.get(name, "") for name in faces.table[classes.target]]
    groups = [group or key for group, key in zip(faces.table["group"], faces.table["key"], strict=True)]
    labelled = np.flatnonzero([bool(label) for label in labels])
    fold = np.full(len(faces), -1)
    column = faces.table["fold"].to_numpy(object)[labelled] if "fold" in faces.table.columns else None
    folds_there = None if column is None else parse_folds(column, folds=folds)
    fold[labelled] = folds_there if folds_there is not None else stratified_group_folds(
        [labels[row] for row in labelled], [groups[row] for row in labelled], folds=folds, seed=seed)
    return fold


def parse_folds(column: np.ndarray, *, folds: int) -> np.ndarray | None:
    """(N,) folds from 0 by the names in a manifest's column `fold`, as `manifest split --folds` writes it; -1: none.

    None if the column does not name that many.
    """
    names = sorted(set(column.tolist()) - {""}, key=lambda name: (not name.isdecimal(), len(name), name))
    if len(names) != folds:
        return None
    number = {name: place for place, name in enumerate(names)}
    return np.array([number.get(name, -1) for name in column], np.int64)
