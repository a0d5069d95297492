"""Manifests into one, and one manifest into splits or folds."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from twofold.data.labels import NON_LABEL_COLUMNS
from twofold.data.manifest import SPLITS, Manifest, build_manifest
from twofold.data.splits import stratified_group_folds, stratified_group_split
from twofold.data.utils.errors import InputError


def merge(parts: Mapping[str, Manifest]) -> Manifest:
    """One manifest of several by name: `NAME/` stands before their keys and groups, the column `dataset` says which.

    Their roots stay apart: `extract --root NAME=DIR` for each. Raises InputError for a name that cannot stand in a key.
    """
    tables = []
    for name, faces in parts.items():
        if not name or name in (".", "..") or "/" in name or "=" in name or "\\" in name:
            raise InputError(f"{name!r} cannot name a dataset: give NAME=FACES.csv with a plain word")
        groups = faces.table["group"]
        tables.append(faces.table.assign(key=f"{name}/" + faces.table["key"], dataset=name,
                                         group=groups.where(groups == "", f"{name}/" + groups)))
    if not tables:
        raise InputError("nothing to merge: give NAME=FACES.csv, twice or more")
    return build_manifest(pd.concat(tables, ignore_index=True), source="merged manifest")


def merge_by_key(parts: Mapping[str, Manifest]) -> Manifest:
    """One manifest of several of the same root, by key: rows of the first, then what each later one adds.

    Where two tell of one face, an empty cell takes the other's value. Raises InputError naming the face and the column
    where they contradict each other.
    """
    table = pd.concat([faces.table.assign(source=name) for name, faces in parts.items()], ignore_index=True).fillna("")
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
                             + (f" (and so of {more:,} more faces)" if more else ""))
        columns[name] = values.set_index("key")[name].reindex(keys).fillna("").to_numpy(object)
    return build_manifest(pd.DataFrame({"key": keys.to_numpy(object)} | columns), source="united manifest")


def resplit(
    faces: Manifest, *, val: float, test: float, target: str, seed: int, only: str | None = None,
) -> Manifest:
    """The manifest split anew, each class of `target` in proportion and whole groups only.

    `target` is a column of labels (compound, basic or one of the user's own), or auto: compound where there are any.
    val and test are shares of the faces split; with `only`, those of that split are divided and the others stay.
    A group that then stands on both sides of `only` is noted. Raises InputError for shares that leave nothing.
    """
    if val < 0 or test < 0 or not 0 < val + test < 1:
        raise InputError(f"shares of {val} for val and {test} for test leave nothing to split: their sum lies "
                         f"between 0 and 1")
    rows = _rows(faces, only)
    labels, groups = _columns(faces, rows, target)
    split = np.full(len(rows), "train", object)
    outside = stratified_group_split(labels, groups, fraction=val + test, seed=seed)
    split[outside] = "val" if val else "test"
    if val and test:
        inner = stratified_group_split(labels[outside], groups[outside], fraction=test / (val + test), seed=seed + 1)
        split[np.flatnonzero(outside)[inner]] = "test"
    sides = faces.table["split"].to_numpy(object).copy()
    sides[rows] = split
    table = faces.table.assign(split=sides)
    return Manifest(table, (*faces.notes, *_notes(table)))


def rename_splits(faces: Manifest, renames: Sequence[str]) -> Manifest:
    """The manifest with its splits renamed by OLD=NEW texts, such as val=test; empty stands for no split.

    Raises InputError for a text that is otherwise, a split without faces, or two splits that would become one.
    """
    splits, present = {}, set(faces.table["split"])
    for text in renames:
        old, mark, new = text.partition("=")
        if not mark or old not in SPLITS or new not in SPLITS or old in splits:
            raise InputError(f"--rename {text!r} is not OLD=NEW of {', '.join(filter(None, SPLITS))} or empty, each "
                             "OLD once")
        if old not in present:
            raise InputError(f"--rename {text!r}: no face stands in {old or 'no split'}")
        splits[old] = new
    after = [splits.get(split, split) for split in sorted(present)]
    if len(set(after)) < len(after):
        raise InputError(f"--rename {' '.join(renames)} would make two splits one: rename the other one too")
    return build_manifest(faces.table.assign(split=faces.table["split"].replace(splits)), source="manifest",
                    notes=faces.notes)


def drop_leaking_samples(faces: Manifest, only: str) -> Manifest:
    """The manifest without the faces of the split `only` whose group stands in another split too, counted in a note."""
    table = faces.table
    elsewhere = table.loc[(table["split"] != only) & (table["group"] != ""), "group"]
    leaks = ((table["split"] == only) & table["group"].isin(elsewhere)).to_numpy()
    kept = faces.select(~leaks)
    note = f"{leaks.sum():,} faces of {only} are left out: their groups stand in other splits too"
    return Manifest(kept.table, (*faces.notes, note) if leaks.any() else faces.notes)


def assign_fold_column(faces: Manifest, *, folds: int, target: str, seed: int, only: str | None = None) -> Manifest:
    """The manifest with a column `fold`, 0 to folds - 1 (empty outside `only`), made as `resplit` does."""
    rows = _rows(faces, only)
    labels, groups = _columns(faces, rows, target)
    fold_of = np.full(len(faces), "", object)
    fold_of[rows] = stratified_group_folds(labels, groups, folds=folds, seed=seed).astype(str)
    return Manifest(faces.table.assign(fold=fold_of), (*faces.notes, *(_notes(faces.table) if only else ())))


def _rows(faces: Manifest, only: str | None) -> np.ndarray:
    rows = np.arange(len(faces)) if only is None else np.flatnonzero(faces.table["split"] == only)
    if not len(rows):
        raise InputError(f"no faces to split{f' in {only}' if only else ''}")
    return rows


def _columns(faces: Manifest, rows: np.ndarray, target: str) -> tuple[np.ndarray, np.ndarray]:
    table = faces.table.iloc[rows]
    if target == "auto":
        target = "compound" if (table["compound"] != "").any() else "basic"
    if target not in table.columns or target in NON_LABEL_COLUMNS:
        own = [name for name in table.columns if name not in (*NON_LABEL_COLUMNS, "basic", "compound")]
        raise InputError(f"unknown target {target!r}: choose from {', '.join(('auto', 'compound', 'basic', *own))}")
    return table[target].to_numpy(object), table["group"].to_numpy(object)


def _notes(table: pd.DataFrame) -> tuple[str, ...]:
    """Groups on two sides, which can remain when only a part was split."""
    sides = table[table["group"] != ""].groupby("group")["split"].nunique()
    crossing = sides[sides > 1]
    return (f"{len(crossing):,} groups stand in several splits (the first is {crossing.index[0]})",) if len(
        crossing) else ()
