"""Which faces a run has seen: learned from, chose by, or scored. A face is its image file's bytes, and its group.

The file `seen.csv` of a run: a line a face, sorted: the SHA-256 of its image file; the first half of the SHA-256 of its
group's name, empty where it is alone; and a letter a fold, what that fold's members did with it: `l` learned from it,
`c` were chosen by it (epoch, weights, temperature), `s` were scored by it, `-` nothing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twofold.cache.format.taught import group_digest
from twofold.data.utils.errors import InputError
from twofold.fuse.features.features import FusedFeatures

HEADER = "sha256,group,folds"
LINE = re.compile(rb"[0-9a-f]{64},(?:[0-9a-f]{32})?,[-lcs]+")
MOST_BYTES = 1 << 31  #: of a file that is read back: some ten million faces


@dataclass(frozen=True, eq=False)
class Roles:
    """Row numbers of a FusedFeatures: what the members of one fold did with them."""

    learned: np.ndarray
    chosen_by: np.ndarray
    scored: np.ndarray


@dataclass(frozen=True, eq=False)
class SeenFaces:
    """n faces and what the members of each of F folds did with them: roles (n, F)."""

    sha256: np.ndarray  #: (n,) S64
    group: np.ndarray  #: (n,) S32, empty for a face alone
    roles: np.ndarray  #: (n, F) S1

    def taught(self, fold: int) -> np.ndarray:
        """(n,) bool: the faces that the members of a fold learned from or were chosen by."""
        return np.isin(self.roles[:, fold], (b"l", b"c"))

    def unseen(self, features: FusedFeatures, rows: np.ndarray) -> np.ndarray:
        """(n, F) bool for rows of other features: the fold has seen neither the face's bytes nor its group.

        Where a fold was scored by this very face, no other fold counts as not having seen it: so a cross-validated run
        is scored by the same members as when it was made.
        """
        sha256, group = features.sha256[rows], group_digests(features, rows)
        unseen = np.empty((len(rows), self.roles.shape[1]), bool)
        scored = np.empty_like(unseen)
        grouped = group != b""
        pairs, own_pairs = np.char.add(sha256, group), np.char.add(self.sha256, self.group)
        for fold in range(unseen.shape[1]):
            taught = self.taught(fold)
            unseen[:, fold] = ~np.isin(sha256, self.sha256[taught])
            unseen[:, fold] &= ~(grouped & np.isin(group, self.group[taught]))
            scored[:, fold] = np.isin(pairs, own_pairs[self.roles[:, fold] == b"s"])
        scored &= unseen
        return np.where(np.any(scored, axis=1, keepdims=True), scored, unseen)


def seen_faces(features: FusedFeatures, folds: Sequence[Roles]) -> SeenFaces:
    """What the members of each fold did with which faces."""
    roles = np.full((len(features), len(folds)), b"-", "S1")
    for fold, role in enumerate(folds):
        for letter, rows in ((b"l", role.learned), (b"c", role.chosen_by), (b"s", role.scored)):
            roles[rows, fold] = letter
    rows = np.flatnonzero((roles != b"-").any(axis=1))
    return SeenFaces(features.sha256[rows].astype("S64"), group_digests(features, rows), roles[rows])


def group_digests(features: FusedFeatures, rows: np.ndarray) -> np.ndarray:
    """(n,) S32: the first half of the SHA-256 of each group's name, so that a run names no one; empty for none."""
    digests: dict[str, bytes] = {}
    names = [name.partition("\0")[2] for name in features.group[rows]]
    for name, key in zip(names, features.keys[rows], strict=True):
        if name != key and name not in digests:  # the key stands for the group of a face that has none
            digests[name] = group_digest(name).hex().encode()
    return np.array([digests.get(name, b"") if name != key else b""
                     for name, key in zip(names, features.keys[rows], strict=True)], "S32")


def seen_text(seen: SeenFaces) -> str:
    """The file `seen.csv`."""
    letters = [row.tobytes() for row in np.ascontiguousarray(seen.roles)]
    lines = sorted({b",".join(line) for line in zip(seen.sha256.tolist(), seen.group.tolist(), letters, strict=True)})
    return b"\n".join([HEADER.encode(), *lines, b""]).decode("ascii")


def read_seen(path: Path, *, folds: int) -> SeenFaces | None:
    """What a run says that it has seen; None for runs of versions that did not say. Raises InputError for any line
    that is not as above."""
    if not path.is_file():
        return None
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path}: {path.stat().st_size:,} bytes are too many for a list of faces")
    header, *lines = path.read_bytes().split(b"\n")
    if header != HEADER.encode() or lines[-1:] != [b""]:
        raise InputError(f"{path}: not a list of seen faces, or cut short: train the run again")
    lines = lines[:-1]
    for number, line in enumerate(lines, 2):
        if not LINE.fullmatch(line) or len(line.rpartition(b",")[2]) != folds:
            raise InputError(f"{path}: line {number} is no seen face of {folds} folds: train the run again")
    columns = [line.split(b",") for line in lines]
    roles = np.frombuffer(b"".join(letters for *_, letters in columns), "S1").reshape(len(lines), folds)
    return SeenFaces(np.array([sha256 for sha256, *_ in columns], "S64"),
                     np.array([group for _, group, _ in columns], "S32"), roles)
