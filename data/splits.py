"""Splitting faces, classes in proportion, so that no group (subject, video, near-duplicates) stands on two sides."""

from collections.abc import Sequence

import numpy as np

from data.errors import InputError


def stratified_group_folds(
    labels: Sequence[str], groups: Sequence[str], *, folds: int, seed: int,
) -> np.ndarray:
    """(N,) fold of each face, from 0 to folds - 1; a face without a group (empty) is a group of its own.

    Groups are dealt out greedily, those with the rarest classes first, each to the fold that most lacks its classes.
    Raises InputError for fewer than two folds or fewer groups than folds.
    """
    if folds < 2:
        raise InputError(f"{folds} folds: at least two are needed")
    return _deal(labels, groups, np.full(folds, 1 / folds), seed)


def stratified_group_split(
    labels: Sequence[str], groups: Sequence[str], *, fraction: float, seed: int,
) -> np.ndarray:
    """(N,) bool: True for the faces held out, about `fraction` of each class, whole groups only.

    Raises InputError if `fraction` is not between 0 and 1, or there is only one group.
    """
    if not 0 < fraction < 1:
        raise InputError(f"{fraction} is no fraction to hold out: it must lie between 0 and 1")
    return _deal(labels, groups, np.array([1 - fraction, fraction]), seed) == 1


def _deal(labels: Sequence[str], groups: Sequence[str], shares: np.ndarray, seed: int) -> np.ndarray:
    """The side of each face, for sides that are to hold these shares of every class."""
    _, label_of = np.unique(np.asarray(labels, object).astype(str), return_inverse=True)
    names = [group or f"\0{row}" for row, group in enumerate(groups)]
    _, group_of = np.unique(names, return_inverse=True)
    counts = np.zeros((group_of.max(initial=-1) + 1, label_of.max(initial=-1) + 1))
    np.add.at(counts, (group_of, label_of), 1)
    if len(counts) < len(shares):
        raise InputError(f"{len(counts)} groups of faces cannot be split into {len(shares)} sides")
    totals = counts.sum(axis=0)
    order = np.random.default_rng(seed).permutation(len(counts))
    rarity = (counts / totals).max(axis=1)
    order = order[np.argsort(-rarity[order], kind="stable")]
    lack = shares[:, None] * totals
    side = np.empty(len(counts), int)
    for group in order:
        present = counts[group] > 0
        want = (lack[:, present] / totals[present] / shares[:, None]).mean(axis=1)
        best = np.flatnonzero(want == want.max())
        side[group] = best[np.argmax(lack[best].sum(axis=1) / shares[best])]
        lack[side[group]] -= counts[group]
    return side[group_of]
