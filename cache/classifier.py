"""What a fine-tuned backbone brings along in its feature files: its classification layer, and its training samples.

The layer is stored instead of logits; the training samples keep an encoder from being scored on what it has seen.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from twofold.cache.errors import CacheError, DamagedFile
from twofold.cache.recipe import EMBEDDING

FLOAT = np.dtype("<f4")
WEIGHT, BIAS, SHA256, GROUPS = (f"classifier/{name}" for name in (
    "weight", "bias", "training_sha256", "training_groups"))


class ClassifierRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The part of a classifier that is not an array; fold, folds, training_id: of its training samples."""

    classes: tuple[str, ...]
    fold: int = -1
    folds: int = 0
    training_id: str = ""


def group_digest(name: str) -> bytes:
    """The 16 bytes that stand for a group name in files that are handed on."""
    return hashlib.sha256(name.encode()).digest()[:16]


@dataclass(frozen=True, eq=False)
class TrainingSamples:
    """Samples that an encoder was fine-tuned on or selected by.

    sha256: (n, 32) uint8 of their image files; groups: (m, 16) uint8, the first half of the SHA-256 of their group
    names. fold: the fold of `folds` whose samples this encoder has not seen, -1 without folds; training_id: equal for
    all encoders of one set of folds.
    """

    sha256: np.ndarray
    groups: np.ndarray
    fold: int = -1
    folds: int = 0
    training_id: str = ""

    def contains(self, sha256: Sequence[str], groups: Sequence[str]) -> np.ndarray:
        """(n,) bool: which samples, by the hex SHA-256 of their image and their group, are among them."""
        images, names = ({row.tobytes() for row in rows} for rows in (self.sha256, self.groups))
        return np.array([bytes.fromhex(image) in images or (name != "" and group_digest(name) in names)
                         for image, name in zip(sha256, groups, strict=True)], bool)

    def digest(self) -> str:
        """SHA-256 of all of it."""
        total = hashlib.sha256(f"{self.fold} {self.folds} {self.training_id} {self.sha256.shape}\n".encode())
        total.update(self.sha256.tobytes() + self.groups.tobytes())
        return total.hexdigest()


@dataclass(frozen=True, eq=False)
class BackboneClassifier:
    """A backbone's own last layer: features (B, D) @ weight (D, C) + bias (C,) are its logits, float32.

    classes: C canonical names, in column order; training_samples: of the encoder, where its weights record them.
    """

    classes: tuple[str, ...]
    weight: np.ndarray
    bias: np.ndarray
    training_samples: TrainingSamples | None = None

    def equals(self, other: "BackboneClassifier | None") -> bool:
        """True if classes and their order, numbers and training samples are equal."""
        if other is None or self.record() != other.record():
            return False
        mine, others = (each.arrays(len(each.weight)) for each in (self, other))
        return mine.keys() == others.keys() and all(np.array_equal(mine[name], others[name]) for name in mine)

    def arrays(self, dim: int) -> dict[str, np.ndarray]:
        """The arrays as a feature file of width `dim` stores them. Raises CacheError if shapes do not agree."""
        count = len(self.classes)
        if self.weight.shape != (dim, count) or self.bias.shape != (count,):
            raise CacheError(f"a classifier of {self.weight.shape} and {self.bias.shape} for {count} classes of {dim} "
                             "features")
        arrays = {WEIGHT: self.weight.astype(FLOAT), BIAS: self.bias.astype(FLOAT)}
        if samples := self.training_samples:
            arrays |= {SHA256: samples.sha256.astype(np.uint8), GROUPS: samples.groups.astype(np.uint8)}
        return arrays

    def record(self) -> ClassifierRecord:
        """The rest of it as a feature file stores it."""
        samples = self.training_samples
        return ClassifierRecord(self.classes, *([samples.fold, samples.folds, samples.training_id] if samples else []))

    def widened(self, pieces: Sequence[str], dim: int) -> "BackboneClassifier | None":
        """The same for rows of these pieces, `dim` numbers, of which the embedding is the last: the others weigh
        nothing. Where it is not among them, the training samples alone are left, with no classes."""
        if EMBEDDING in pieces:
            above = np.zeros((dim - len(self.weight), len(self.classes)), self.weight.dtype)
            return replace(self, weight=np.concatenate([above, self.weight]))
        samples, none = self.training_samples, np.zeros((dim, 0), np.float32)
        return BackboneClassifier((), none, none[0], samples) if samples else None


def read_classifier(record: ClassifierRecord | None, arrays: Mapping[str, np.ndarray], dim: int
                    ) -> BackboneClassifier | None:
    """Join the stored pieces. Raises DamagedFile unless they fit together."""
    if record is None:
        return None
    classes, count = record.classes, len(record.classes)
    shapes = {WEIGHT: (dim, count), BIAS: (count,), SHA256: (32,), GROUPS: (16,)}
    if arrays.keys() not in ({WEIGHT, BIAS}, shapes.keys()) or not all(classes) or count != len(set(classes)) or (
            not count and SHA256 not in arrays):
        raise DamagedFile("the classifier is incomplete")
    if any(array.shape[name in (SHA256, GROUPS):] != shapes[name] for name, array in arrays.items()):
        raise DamagedFile(f"the classifier's arrays are not for {count} classes of {dim} features")
    if not (np.isfinite(arrays[WEIGHT]).all() and np.isfinite(arrays[BIAS]).all()):
        raise DamagedFile("the classifier has non-finite numbers")
    samples = TrainingSamples(arrays[SHA256], arrays[GROUPS], record.fold, record.folds, record.training_id
                              ) if SHA256 in arrays else None
    return BackboneClassifier(classes, arrays[WEIGHT], arrays[BIAS], samples)
