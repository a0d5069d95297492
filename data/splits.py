"""Split samples with class proportions kept, so that no group (subject, video, near-duplicates) is on two sides."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from twofold.data.labels import NON_LABEL_COLUMNS, Taxonomy, label_column, normalize_label
from twofold.data.manifest import SPLITS, Manifest
from twofold.data.targets import default_task, largest_shares
from twofold.data.utils.errors import InputError

Texts = Sequence[str] | np.ndarray  #: one per sample


def stratified_group_folds(labels: Texts, groups: Texts, *, folds: int, seed: int) -> np.ndarray:
    """(N,) fold of each sample, from 0 to folds - 1; a sample without a group (empty) is a group of its own.

    Greedily: groups with the rarest classes first, each to the fold that most lacks its classes; those of one sample
    fill up the rest. Raises InputError for fewer than two folds or fewer groups than folds.
    """
    if folds < 2:
        raise InputError(f"{folds} folds: at least two are needed")
    _require_groups(groups, folds, "take fewer folds")
    return _assign(labels, groups, np.full(folds, 1 / folds), seed)


def stratified_group_split(labels: Texts, groups: Texts, *, fraction: float, seed: int) -> np.ndarray:
    """(N,) bool: True for the samples held out, about `fraction` of each class, whole groups only.

    Raises InputError if `fraction` is not between 0 and 1, or there is only one group.
    """
    if not 0 < fraction < 1:
        raise InputError(f"{fraction} is no fraction to hold out: it must lie between 0 and 1")
    _require_groups(groups, 2, "take only one of val and test, or none")
    return _assign(labels, groups, np.array([1 - fraction, fraction]), seed) == 1


def _require_groups(groups: Texts, parts: int, remedy: str) -> None:
    """Raises InputError for fewer groups than parts; a sample without a group is one of its own."""
    named = [group for group in groups if group]
    count = len(groups) - len(named) + len(set(named))
    if count < parts:
        raise InputError(f"{count} groups of samples cannot be split into {parts} subsets, for none may be on two "
                         f"sides: {f'{remedy}, or ' if count > 1 else ''}name smaller groups in the column group, or "
                         "leave it empty")


def _assign(labels: Texts, groups: Texts, fractions: np.ndarray, seed: int) -> np.ndarray:
    """(N,) the subset of each sample, for subsets that are to hold these fractions of every class."""
    _, label_of = np.unique(np.asarray(labels, object).astype(str), return_inverse=True)
    names = [group or f"\0{row}" for row, group in enumerate(groups)]
    _, group_of = np.unique(names, return_inverse=True)
    sizes = np.bincount(group_of)
    rng = np.random.default_rng(seed)
    lack = fractions[:, None] * np.bincount(label_of)
    subset = np.empty(len(sizes), int)
    large = np.flatnonzero(sizes > 1)
    position = np.searchsorted(large, group_of)
    inside = np.flatnonzero(sizes[group_of] > 1)
    counts = np.zeros((len(large), lack.shape[1]))
    np.add.at(counts, (position[inside], label_of[inside]), 1)
    subset[large] = _assign_groups(counts, lack, fractions, rng)
    single = np.flatnonzero(sizes[group_of] == 1)
    for label in np.argsort(np.bincount(label_of[single], minlength=lack.shape[1]), kind="stable"):
        rows = rng.permutation(single[label_of[single] == label])
        subset[group_of[rows]] = np.repeat(np.arange(len(fractions)), _quotas(lack, label, len(rows), fractions))
    return subset[group_of]


def _assign_groups(counts: np.ndarray, lack: np.ndarray, fractions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(G,) the subset of each group of several samples, the one that most lacks its classes; updates `lack`."""
    totals = np.maximum(lack.sum(axis=0), 1)
    order = rng.permutation(len(counts))
    rarity = (counts / totals).max(axis=1, initial=0)
    subset = np.empty(len(counts), int)
    for group in order[np.argsort(-rarity[order], kind="stable")]:
        present = counts[group] > 0
        want = (lack[:, present] / totals[present] / fractions[:, None]).mean(axis=1)
        best = np.flatnonzero(want == want.max())
        subset[group] = best[np.argmax(lack[best].sum(axis=1) / fractions[best])]
        lack[subset[group]] -= counts[group]
    return subset


def _quotas(lack: np.ndarray, label: int, count: int, fractions: np.ndarray) -> np.ndarray:
    """(subsets,) how many of `count` single samples of a class go to each subset; updates `lack`."""
    want = np.clip(lack[:, label], 0, None)
    want = (want if want.sum() else fractions) * count / (want.sum() or fractions.sum())
    quotas = np.floor(want).astype(int)
    left = np.lexsort((-lack.sum(axis=1) / fractions, -(want - quotas).round(9)))[:count - quotas.sum()]
    quotas[left] += 1
    lack[:, label] -= quotas
    return quotas


def assign_folds(manifest: Manifest, classes: Taxonomy, *, folds: int, seed: int) -> np.ndarray:
    """(N,) the fold, from 0, that tests each sample with a label in `classes`, hard or soft; -1 for the others.

    `fuse --folds` and `finetune --folds` must agree on it: it is the manifest's column `fold` where that names as many
    folds, else a stratified group split, and never depends on which samples have features. Raises InputError.
    """
    number = {name: str(index) for index, name in enumerate(classes.classes)}
    strata = pd.Series(_strata(manifest, classes.target, classes.classes)).map(number)
    table = manifest.table[strata.notna()]
    named = parse_folds(table["fold"].to_numpy(object), folds=folds) if "fold" in table else None
    fold = np.full(len(manifest), -1)
    fold[table.index] = named if named is not None else stratified_group_folds(
        strata[table.index].to_numpy(object),
        table["group"].where(table["group"] != "", table["key"]).to_numpy(object), folds=folds, seed=seed)
    return fold


def _strata(manifest: Manifest, target: str, classes: Sequence[str]) -> np.ndarray:
    """(N,) the class by which each sample is divided: its hard label, else that of its largest share; empty: none."""
    soft = default_task(manifest, classes) == "distribution"
    shares = largest_shares(manifest, classes if soft else ())
    if target not in manifest.table.columns:
        return shares
    hard = manifest.table[target].map(normalize_label)
    return np.where(hard.isin(classes), hard, shares)


def parse_folds(column: np.ndarray, *, folds: int) -> np.ndarray | None:
    """(N,) folds from 0 of a manifest's column `fold`, as `manifest split --folds` writes it; -1 where it is empty.

    None if the column does not name that many folds.
    """
    names = sorted(set(column.tolist()) - {""}, key=lambda name: (not name.isdecimal(), len(name), name))
    number = {name: fold for fold, name in enumerate(names)}
    return np.array([number.get(name, -1) for name in column], np.int64) if len(names) == folds else None


def resplit(
    samples: Manifest, *, val: float, test: float, target: str, seed: int, only: str | None = None,
) -> Manifest:
    """The manifest split anew, each class of `target` in proportion and whole groups only.

    `target` is a column of labels (compound, basic or one of the user's own), or auto: compound where there are any.
    val and test are fractions of the samples divided; with `only`, those of that split are divided and the others stay.
    A group that is then in two splits is noted. Raises InputError for fractions that leave nothing.
    """
    if val < 0 or test < 0 or not 0 < val + test < 1:
        raise InputError(f"{val} for val and {test} for test leave nothing to split: their sum lies between 0 and 1")
    rows, labels, groups = _selection(samples, only, target)
    split = np.full(len(rows), "train", object)
    outside = stratified_group_split(labels, groups, fraction=val + test, seed=seed)
    split[outside] = "val" if val else "test"
    if val and test:
        inner = stratified_group_split(labels[outside], groups[outside], fraction=test / (val + test), seed=seed + 1)
        split[np.flatnonzero(outside)[inner]] = "test"
    splits = samples.table["split"].to_numpy(object, copy=True)
    splits[rows] = split
    return _with_leaks_noted(replace(samples, table=samples.table.assign(split=splits)))


def rename_splits(samples: Manifest, renames: Sequence[str]) -> Manifest:
    """The manifest with its splits renamed by OLD=NEW texts, such as val=test; empty stands for no split.

    Raises InputError for a text that is otherwise, a split without samples, or two splits that would become one.
    """
    splits, present = {}, set(samples.table["split"])
    for text in renames:
        old, mark, new = text.partition("=")
        if not mark or old not in SPLITS or new not in SPLITS or old in splits:
            raise InputError(f"--rename {text!r} is not OLD=NEW of {', '.join(filter(None, SPLITS))} or empty, each "
                             "OLD once")
        if old not in present:
            raise InputError(f"--rename {text!r}: no sample is in {old or 'no split'}")
        splits[old] = new
    if len({splits.get(split, split) for split in present}) < len(present):
        raise InputError(f"--rename {' '.join(renames)} would make two splits one: rename the other one too")
    return replace(samples, table=samples.table.assign(split=samples.table["split"].replace(splits)))


def drop_leaking_samples(samples: Manifest, only: str) -> Manifest:
    """The manifest without the samples of the split `only` whose group is in another split too, counted in a note."""
    inside, groups = samples.table["split"] == only, samples.table["group"]
    leaks = inside & groups.isin(groups[~inside & (groups != "")])
    note = f"{leaks.sum():,} samples of {only} are left out: their groups are in other splits too"
    return Manifest(samples.select(~leaks.to_numpy()).table, (*samples.notes, note) if leaks.any() else samples.notes)


def assign_fold_column(samples: Manifest, *, folds: int, target: str, seed: int, only: str | None = None) -> Manifest:
    """The manifest with a column `fold`, 0 to folds - 1 (empty outside `only`), made as `resplit` does."""
    rows, labels, groups = _selection(samples, only, target)
    fold_of = np.full(len(samples), "", object)
    fold_of[rows] = stratified_group_folds(labels, groups, folds=folds, seed=seed).astype(str)
    folded = replace(samples, table=samples.table.assign(fold=fold_of))
    return _with_leaks_noted(folded) if only else folded


def _selection(samples: Manifest, only: str | None, target: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows to divide, their labels and their groups."""
    rows = np.arange(len(samples)) if only is None else np.flatnonzero(samples.table["split"] == only)
    if not len(rows):
        raise InputError(f"no samples to split{f' in {only}' if only else ''}")
    chosen = replace(samples, table=samples.table.iloc[rows].reset_index(drop=True))
    table, soft = chosen.table, {name: label_column(name) for name in samples.soft_classes}
    if target == "auto":
        target = "compound" if (table["compound"] != "").any() or "compound" in soft.values() else "basic"
    if target not in table.columns or target in NON_LABEL_COLUMNS:
        own = [name for name in table.columns if name not in (*NON_LABEL_COLUMNS, "basic", "compound")]
        raise InputError(f"unknown target {target!r}: choose from {', '.join(('auto', 'compound', 'basic', *own))}")
    shares = largest_shares(chosen, [name for name, column in soft.items() if column == target])
    labels = table[target].where(table[target] != "", shares)
    return rows, labels.to_numpy(object), table["group"].to_numpy(object)


def _with_leaks_noted(samples: Manifest) -> Manifest:
    """With a note on groups in several splits, which can remain when only one split was divided."""
    splits = samples.table[samples.table["group"] != ""].groupby("group")["split"].nunique()
    crossing = splits.index[splits > 1]
    note = f"{len(crossing):,} groups are in several splits (the first is {crossing[0]})" if len(crossing) else ""
    return replace(samples, notes=(*samples.notes, note)) if note else samples
