"""Which faces train, which choose the epoch, and which only score."""

from dataclasses import dataclass

import numpy as np

from data.errors import InputError
from data.splits import stratified_group_split
from fuse.features import FusedFeatures

VALIDATION_SHARE = 0.15


@dataclass(frozen=True)
class Sides:
    """Rows (positions) of each side; dropped: rows that train or choose nowhere, since their group scores."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    carved: bool  #: validation was taken out of train, as the manifest has none
    dropped: int


def sides(features: FusedFeatures, *, seed: int = 0) -> Sides:
    """The sides that the manifest's splits make, no group on two of them.

    A face of train or val whose group also stands in test is left out (near-duplicates would leak), as is one of
    train whose group stands in val. Without val rows, whole groups are carved out of train.
    Raises InputError for a side or a class of train that would be empty.
    """
    names = features.taxonomy.classes
    of = {name: features.split == name for name in ("train", "val", "test")}
    for name in ("train", "test"):
        if not of[name].any():
            raise InputError(f"no labelled face has the split {name!r}: `manifest split` makes splits")
    leaked = np.zeros(len(features), bool)
    for upper, lower in (("test", "train"), ("test", "val"), ("val", "train")):
        leak = of[lower] & _shares_group(features.group, of[upper])
        leaked |= leak
        of[lower] &= ~leak
    carved = not of["val"].any()
    if carved:
        rows = np.flatnonzero(of["train"])
        held = stratified_group_split(features.labels[rows], features.group[rows], fraction=VALIDATION_SHARE, seed=seed)
        of["val"][rows[held]] = True
        of["train"][rows[held]] = False
    counts = np.bincount(features.labels[of["train"]], minlength=len(names))
    if (counts == 0).any():
        empty = ", ".join(name for name, count in zip(names, counts, strict=True) if not count)
        raise InputError(f"no training face of {empty}: choose --classes that the data has")
    return Sides(*(np.flatnonzero(of[name]) for name in ("train", "val", "test")), carved, int(leaked.sum()))


def _shares_group(group: np.ndarray, of: np.ndarray) -> np.ndarray:
    return np.isin(group, [name for name in set(group[of].tolist()) if name])
