"""How well a network does on the validation faces."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Score:
    """Of one target on validation, as shares of 1."""

    accuracy: float
    macro_f1: float  #: unweighted mean F1 of all classes


def score(truth: np.ndarray, prediction: np.ndarray, classes: int) -> Score:
    """Of (N,) class numbers. A class without faces, or without any called right, counts 0."""
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (truth, prediction), 1)
    hit, faces, calls = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    f1 = 2 * hit / np.maximum(faces + calls, 1)
    return Score(float(hit.sum() / max(len(truth), 1)), float(f1.mean()))
