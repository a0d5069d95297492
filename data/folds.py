"""Which fold each labelled face of a manifest is tested in: `fuse --folds` and `finetune --folds` must agree on it."""

import numpy as np

from twofold.data.labels import Taxonomy
from twofold.data.manifest import Manifest
from twofold.data.splits import stratified_group_folds


def folds_of(faces: Manifest, classes: Taxonomy, *, folds: int, seed: int) -> np.ndarray:
    """(N,) the fold, from 0, that tests each face with a label in `classes`; -1 for the others.

    Depends on keys, labels and groups alone, never on which faces have features. Raises InputError for fewer than
    two folds or fewer groups than folds.
    """
    number = {name: str(index) for index, name in enumerate(classes.classes)}
    labels = [number.get(name, "") for name in faces.table[classes.target]]
    groups = [group or key for group, key in zip(faces.table["group"], faces.table["key"], strict=True)]
    labelled = np.flatnonzero([bool(label) for label in labels])
    fold = np.full(len(faces), -1)
    fold[labelled] = stratified_group_folds(
        [labels[row] for row in labelled], [groups[row] for row in labelled], folds=folds, seed=seed)
    return fold
