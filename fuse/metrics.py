"""How good predictions are, and how sure one can be of it."""

from collections.abc import Callable

import numpy as np

BOOTSTRAPS = 2000
_CHUNK = 100  #: resamples drawn at a time, so that memory stays small for large test sets


def confusion(truth: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """(C, C) counts, truth down, prediction across; truth and prediction are (N,) class positions."""
    return np.bincount(truth * classes + prediction, minlength=classes * classes).reshape(classes, classes)


def accuracy(matrix: np.ndarray) -> np.ndarray:
    """(...) share of right answers from (..., C, C) counts."""
    return np.trace(matrix, axis1=-2, axis2=-1) / np.maximum(matrix.sum(axis=(-2, -1)), 1)


def recall(matrix: np.ndarray) -> np.ndarray:
    """(..., C) share of each class that was found; 0 for a class without faces."""
    return _ratio(np.diagonal(matrix, axis1=-2, axis2=-1), matrix.sum(axis=-1))


def precision(matrix: np.ndarray) -> np.ndarray:
    """(..., C) share of each class's predictions that are right; 0 where there are none."""
    return _ratio(np.diagonal(matrix, axis1=-2, axis2=-1), matrix.sum(axis=-2))


def f1(matrix: np.ndarray) -> np.ndarray:
    """(..., C) F1 of each class: 2 TP / (2 TP + FP + FN); 0 where there is neither truth nor prediction."""
    right = np.diagonal(matrix, axis1=-2, axis2=-1)
    return _ratio(2 * right, matrix.sum(axis=-1) + matrix.sum(axis=-2))


def macro_f1(matrix: np.ndarray) -> np.ndarray:
    """(...) unweighted mean of the classes' F1: the challenge's metric (paper, Eq. 5)."""
    return f1(matrix).mean(axis=-1)


def bootstrap(truth: np.ndarray, predictions: np.ndarray, groups: np.ndarray, *, classes: int, metric: Callable,
              seed: int = 0, resamples: int = BOOTSTRAPS) -> np.ndarray:
    """(resamples,) values of `metric` on test sets drawn with replacement, whole groups at a time.

    truth: (N,); predictions: (S, N), one row a seed, whose metrics are averaged in each resample; groups: (N,) texts,
    empty for a group of its own; metric: (..., C, C) counts to (...).
    """
    names = [group or f"\0{row}" for row, group in enumerate(groups)]
    _, group_of = np.unique(names, return_inverse=True)
    count = group_of.max(initial=-1) + 1
    cells = np.stack([_cells(truth, prediction, group_of, count, classes) for prediction in predictions])
    draw, values = np.random.default_rng(seed), []
    for start in range(0, resamples, _CHUNK):
        some = min(_CHUNK, resamples - start)
        weights = draw.multinomial(count, np.full(count, 1 / count), size=some).astype(np.float64)
        matrices = (weights @ cells).reshape(len(predictions), some, classes, classes)
        values.append(metric(matrices).mean(axis=0))
    return np.concatenate(values)


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of bootstrap values."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _cells(truth: np.ndarray, prediction: np.ndarray, group_of: np.ndarray, groups: int, classes: int) -> np.ndarray:
    """(G, C * C): what each group adds to the confusion matrix."""
    cells = np.zeros((groups, classes * classes))
    np.add.at(cells, (group_of, truth * classes + prediction), 1)
    return cells


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros(np.shape(above), float), where=below > 0)
