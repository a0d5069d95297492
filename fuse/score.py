"""The score of one head on one set of faces, with its uncertainty."""

from dataclasses import dataclass

import numpy as np

from fuse.metrics import accuracy, bootstrap, confusion, interval, macro_f1, recall


@dataclass(frozen=True, kw_only=True)
class Score:
    """Means over the seeds; intervals are 95 % bootstrap over the faces, by group."""

    name: str
    dim: int
    untrained: bool
    n: int
    accuracy: float
    macro_f1: float
    macro_f1_interval: tuple[float, float]
    macro_f1_std: float  #: over seeds
    recall: list[float]  #: of each class
    support: list[int]  #: test faces of each class
    confusion: list[list[float]]  #: truth down, prediction across, mean over seeds
    best_epochs: list[int]


def score(name: str, truth: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, *, dim: int, untrained: bool,
          best_epochs: list[int]) -> Score:
    """Score (S, N, C) probabilities against (N,) class positions."""
    classes = probabilities.shape[-1]
    predictions = probabilities.argmax(axis=-1)
    matrices = np.stack([confusion(truth, one, classes) for one in predictions])
    values = bootstrap(truth, predictions, groups, classes=classes, metric=macro_f1)
    return Score(
        name=name, dim=dim, untrained=untrained, n=len(truth), accuracy=float(accuracy(matrices).mean()),
        macro_f1=float(macro_f1(matrices).mean()), macro_f1_interval=interval(values),
        macro_f1_std=float(macro_f1(matrices).std(ddof=1)) if len(matrices) > 1 else 0.0,
        recall=recall(matrices).mean(axis=0).tolist(), support=matrices[0].sum(axis=1).tolist(),
        confusion=matrices.mean(axis=0).tolist(), best_epochs=best_epochs,
    )
