"""Whom an encoder was taught with: faces that may not score what is made of its features, as its file carries them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def group_digest(name: str) -> bytes:
    """What stands for a group in files that are handed on: 16 bytes."""
    return hashlib.sha256(name.encode()).digest()[:16]


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

    def has(self, sha256: Sequence[str], groups: Sequence[str]) -> np.ndarray:
        """(n,) bool: which faces, by the SHA-256 of their image files in hex and their groups, are among them."""
        images, names = ({row.tobytes() for row in rows} for rows in (self.sha256, self.groups))
        return np.array([bytes.fromhex(image) in images or (name != "" and group_digest(name) in names)
                         for image, name in zip(sha256, groups, strict=True)], bool)

    def digest(self) -> str:
        """SHA-256 of all of it."""
        total = hashlib.sha256(f"{self.fold} {self.folds} {self.training} {self.sha256.shape}\n".encode())
        total.update(self.sha256.tobytes() + self.groups.tobytes())
        return total.hexdigest()

    def equals(self, other: "TaughtFaces | None") -> bool:
        return other is not None and (self.fold, self.folds, self.training) == (
            other.fold, other.folds, other.training) and bool(
            np.array_equal(self.sha256, other.sha256) and np.array_equal(self.groups, other.groups))
