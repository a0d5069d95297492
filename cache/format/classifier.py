"""The classifier that a backbone brought along, as a feature file carries it: logits are computed, never stored."""

from dataclasses import dataclass

import numpy as np

from twofold.cache.errors import CacheError, DamagedFile
from twofold.cache.format.taught import TaughtFaces

FLOAT = np.dtype("<f4")
WEIGHT, BIAS, SHA256, GROUPS = (f"classifier/{name}" for name in ("weight", "bias", "taught_sha256", "taught_groups"))


@dataclass(frozen=True, eq=False)
class OwnClassifier:
    """A backbone's own last layer: features (B, D) @ weight (D, C) + bias (C,) are its logits, float32.

    classes: C canonical names, in the order of the columns; taught: with which faces it and the backbone were taught,
    where the weights say so.
    """

    classes: tuple[str, ...]
    weight: np.ndarray
    bias: np.ndarray
    taught: TaughtFaces | None = None

    def equals(self, other: "OwnClassifier | None") -> bool:
        """True if the other has the same classes in the same order, the same numbers, and was taught alike."""
        if other is None or self.classes != other.classes:
            return False
        taught = self.taught.equals(other.taught) if self.taught else other.taught is None
        return taught and bool(np.array_equal(self.weight, other.weight) and np.array_equal(self.bias, other.bias))

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(B, D) features to (B, C) float32 logits."""
        return np.asarray(features, np.float32) @ self.weight + self.bias


def classifier_arrays(classifier: OwnClassifier | None, dim: int) -> dict[str, np.ndarray]:
    """The arrays of a feature file that hold it. Raises CacheError if shapes do not agree with each other and `dim`."""
    if classifier is None:
        return {}
    count = len(classifier.classes)
    if classifier.weight.shape != (dim, count) or classifier.bias.shape != (count,):
        raise CacheError(f"a classifier of {classifier.weight.shape} and {classifier.bias.shape} for {count} classes "
                         f"of {dim} features")
    arrays = {WEIGHT: classifier.weight.astype(FLOAT), BIAS: classifier.bias.astype(FLOAT)}
    if taught := classifier.taught:
        arrays |= {SHA256: taught.sha256.astype(np.uint8), GROUPS: taught.groups.astype(np.uint8)}
    return arrays


def classifier_record(classifier: OwnClassifier | None) -> dict | None:
    """What of it is not numbers, as the header has it."""
    if classifier is None:
        return None
    record: dict = {"classes": list(classifier.classes)}
    if taught := classifier.taught:
        record |= {"fold": taught.fold, "folds": taught.folds, "training": taught.training}
    return record


def classifier_from(record: dict | None, arrays: dict[str, np.ndarray], dim: int) -> OwnClassifier | None:
    """Put it together again. Raises DamagedFile unless all of it fits together."""
    if record is None:
        return None
    try:
        classes = tuple(record["classes"])
        taught = TaughtFaces(arrays[SHA256], arrays[GROUPS], int(record["fold"]), int(record["folds"]),
                             str(record["training"])) if SHA256 in arrays else None
        classifier = OwnClassifier(classes, arrays[WEIGHT], arrays[BIAS], taught)
    except (KeyError, TypeError, ValueError):
        raise DamagedFile("the classifier is not whole") from None
    if not all(isinstance(name, str) and name for name in classes) or len(set(classes)) != len(classes) or not classes:
        raise DamagedFile("the classifier does not name its classes")
    if classifier.weight.shape != (dim, len(classes)) or classifier.bias.shape != (len(classes),):
        raise DamagedFile(f"the classifier is {classifier.weight.shape} and {classifier.bias.shape}, not for "
                          f"{len(classes)} classes of {dim} features")
    if taught and (taught.sha256.shape[1:], taught.groups.shape[1:]) != ((32,), (16,)):
        raise DamagedFile("the faces that taught the classifier are not rows of 32 and 16 bytes")
    if not (np.isfinite(classifier.weight).all() and np.isfinite(classifier.bias).all()):
        raise DamagedFile("the classifier is not made of finite numbers")
    return classifier
