"""Merge manifests, and divide one into splits or folds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from twofold.data.labels import NON_LABEL_COLUMNS
from twofold.data.manifest import SPLITS, Manifest, build_manifest
from twofold.data.splits import stratified_group_folds, stratified_group_split
from twofold.data.utils.errors import InputError


def merge(parts: Mapping[str, Manifest]) -> Manifest:
    """One manifest of several by name: `NAME/` is put before their keys and groups, the column `dataset` says which.

    Their roots stay apart: `extract --root NAME=DIR` for each. Raises InputError for a name that cannot stand in a key.
    """
    tables = []
    for name, samples in parts.items():
        if not name or name in (".", "..") or "/" in name or "=" in name or "\\" in name:
            raise InputError(f"{name!r} cannot name a dataset: give NAME=FACES.csv with a plain word")
        table = samples.table
        groups = table["group"].where(table["group"] == "", f"{name}/" + table["group"])
        tables.append(table.assign(key=f"{name}/" + table["key"], dataset=name, group=groups))
    return build_manifest(pd.concat(tables, ignore_index=True), source="merged manifest")


def merge_by_key(parts: Mapping[str, Manifest]) -> Manifest:
    """One manifest of several of the same root, by key: rows of the first, then what each later one adds.

    Where two have the same key, an empty cell takes the other's value. Raises InputError naming the key and the column
    where they contradict each other.
    """
    table = pd.concat([samples.table.assign(source=name) for name, samples in parts.items()], ignore_index=True)
    table = table.fillna("")
    keys = table["key"].drop_duplicates()
    columns = {}
    for name in table.columns.drop(["key", "source"]):
        values = table.loc[table[name] != "", ["key", name, "source"]].drop_duplicates(["key", name])
        disputed = values[values["key"].duplicated(keep=False)]
        if len(disputed):
            (_, first), (_, second) = list(disputed[disputed["key"] == disputed["key"].iloc[0]].iterrows())[:2]
            more = disputed["key"].nunique() - 1
            raise InputError(f"{first['source']} and {second['source']} contradict each other: {name!r} of "
                             f"{first['key']!r} is {first[name]!r} in one and {second[name]!r} in the other"
                             + (f" (and so of {more:,} more samples)" if more else ""))
        columns[name] = values.set_index("key")[name].reindex(keys).fillna("").to_numpy(object)
    return build_manifest(pd.DataFrame({"key": keys.to_numpy(object)} | columns), source="united manifest")


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
    return Manifest(samples.select(~leaks).table, (*samples.notes, note) if leaks.any() else samples.notes)


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
    table = samples.table.iloc[rows]
    if target == "auto":
        target = "compound" if (table["compound"] != "").any() else "basic"
    if target not in table.columns or target in NON_LABEL_COLUMNS:
        own = [name for name in table.columns if name not in (*NON_LABEL_COLUMNS, "basic", "compound")]
        raise InputError(f"unknown target {target!r}: choose from {', '.join(('auto', 'compound', 'basic', *own))}")
    return rows, table[target].to_numpy(object), table["group"].to_numpy(object)


def _with_leaks_noted(samples: Manifest) -> Manifest:
    """With a note on groups in several splits, which can remain when only one split was divided."""
    splits = samples.table[samples.table["group"] != ""].groupby("group")["split"].nunique()
    crossing = splits.index[splits > 1]
    note = f"{len(crossing):,} groups are in several splits (the first is {crossing[0]})" if len(crossing) else ""
    return replace(samples, notes=(*samples.notes, note)) if note else samples
