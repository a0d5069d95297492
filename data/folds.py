"""Which fold each labelled face of a manifest is tested in: `fuse --folds` and `finetune --folds` must agree on it."""

import numpy as np

from twofold.data.labels import Taxonomy
from twofold.data.manifest import Manifest
from twofold.data.splits import stratified_group_folds


def folds_of(faces: Manifest, classes: Taxonomy, *, folds: int, seed: int) -> np.ndarray:
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
    folds_there = None if column is None else named_folds(column, folds=folds)
    fold[labelled] = folds_there if folds_there is not None else stratified_group_folds(
        [labels[row] for row in labelled], [groups[row] for row in labelled], folds=folds, seed=seed)
    return fold


def named_folds(column: np.ndarray, *, folds: int) -> np.ndarray | None:
    """(N,) folds from 0 by the names in a manifest's column `fold`, as `manifest split --folds` writes it; -1: none.

    None if the column does not name that many.
    """
    names = sorted(set(column.tolist()) - {""}, key=lambda name: (not name.isdecimal(), len(name), name))
    if len(names) != folds:
        return None
    number = {name: place for place, name in enumerate(names)}
    return np.array([number.get(name, -1) for name in column], np.int64)
