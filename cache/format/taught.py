"""Whom an encoder was taught with: faces that may not score what is made of its features, as its file carries them."""

from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from twofold.cache.format.layout import CHUNK_ROWS, TAUGHT

NAMES = tuple(TAUGHT)


@dataclass(frozen=True, eq=False)
class TaughtFaces:
    """Faces that the encoder learned from or was chosen by.

    sha256: (n, 32) uint8 of their image files; groups: (m, 16) uint8, the first half of the SHA-256 of the names of
    their groups. fold: which of `folds` encoders this is, trained without that fold's faces, -1 for one alone;
    training: of all encoders of one set of folds the same text.
    """

    sha256: np.ndarray
    groups: np.ndarray
    fold: int = -1
    folds: int = 0
    training: str = ""

    def equals(self, other: "TaughtFaces | None") -> bool:
        return other is not None and (self.fold, self.folds, self.training) == (
            other.fold, other.folds, other.training) and bool(
            np.array_equal(self.sha256, other.sha256) and np.array_equal(self.groups, other.groups))


def write_taught(group: h5py.Group, taught: TaughtFaces) -> None:
    """Add the faces to the group of the classifier that they taught."""
    for name, values in zip(NAMES, (taught.sha256, taught.groups), strict=True):
        group.create_dataset(name, data=values.astype(np.uint8), chunks=(CHUNK_ROWS, values.shape[1]),
                             maxshape=(None, values.shape[1]), fletcher32=True)
    group.attrs["fold"], group.attrs["folds"] = taught.fold, taught.folds
    group.attrs["training"] = np.bytes_(taught.training.encode("ascii"))


def read_taught(group: h5py.Group, training: str) -> TaughtFaces | None:
    """The faces that a classifier's group names; None where it names none. training: its attribute, checked already."""
    if NAMES[0] not in group:
        return None
    sha256, groups = (_rows(group, name) for name in NAMES)
    attributes: Any = group.attrs
    return TaughtFaces(sha256, groups, fold=int(attributes["fold"]), folds=int(attributes["folds"]),
                       training=training)


def _rows(group: h5py.Group, name: str) -> np.ndarray:
    dataset: Any = group[name]
    return dataset[...]
