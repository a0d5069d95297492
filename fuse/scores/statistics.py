"""How sure figures are: bootstrap by group, paired comparisons, McNemar's test."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

REPLICATES = 2000
BLOCK = 250  #: replicates at a time: bounds memory at BLOCK x groups


@dataclass(frozen=True)
class Comparison:
    """System a against b on the same faces. difference: macro-F1 of a minus b, with its 95 % interval."""

    difference: float
    low: float
    high: float
    only_a: int  #: faces that only a calls right
    only_b: int
    p_mcnemar: float


def interval(samples: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile interval of bootstrap samples (R,)."""
    low, high = np.percentile(samples, (2.5, 97.5))
    return float(low), float(high)


def bootstrap(
    metric: Callable[[np.ndarray], np.ndarray], truth: np.ndarray, predictions: list[np.ndarray], groups: np.ndarray, *,
    classes: int, seed: int, replicates: int = REPLICATES,
) -> np.ndarray:
    """(P, R) metric of P sets of (N,) predictions under R resamples of whole groups, the same for every set.

    metric: from confusions (R, C, C) to (R,). Groups are drawn with replacement (Davison & Hinkley, 1997, section
    3.8), so faces of one subject or video count as one piece of evidence.
    """
    tables = np.stack([_group_confusions(truth, prediction, groups, classes) for prediction in predictions])
    count = tables.shape[1]
    generator = np.random.default_rng(seed)
    out = []
    for start in range(0, replicates, BLOCK):
        some = min(BLOCK, replicates - start)
        draws = generator.integers(0, count, (some, count)) + count * np.arange(some)[:, None]
        times = np.bincount(draws.ravel(), minlength=some * count).reshape(some, count).astype(np.float32)
        out.append([metric((times @ table).reshape(some, classes, classes)) for table in tables])
    return np.concatenate(out, axis=1)


def compare(
    truth: np.ndarray, a: np.ndarray, b: np.ndarray, groups: np.ndarray, *,
    metric: Callable[[np.ndarray], np.ndarray], classes: int, seed: int,
) -> Comparison:
    """Predictions a and b (N,) compared: paired bootstrap of the metric by group, and McNemar's exact test."""
    samples = bootstrap(metric, truth, [a, b], groups, classes=classes, seed=seed)
    whole = [metric(_group_confusions(truth, some, np.zeros(len(truth), int), classes).reshape(1, classes, classes))[0]
             for some in (a, b)]
    right_a, right_b = a == truth, b == truth
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return Comparison(float(whole[0] - whole[1]), *interval(samples[0] - samples[1]), only_a, only_b,
                      mcnemar(only_a, only_b))


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value: the discordant faces as fair coin tosses (McNemar, 1947)."""
    total, fewer = only_a + only_b, min(only_a, only_b)
    logs = [math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - total * math.log(2)
            for k in range(fewer + 1)]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def _group_confusions(truth: np.ndarray, prediction: np.ndarray, groups: np.ndarray, classes: int) -> np.ndarray:
    """(G, C * C) confusion counts of each group."""
    _, number = np.unique(groups.astype(str), return_inverse=True)
    cells = classes * classes
    flat = np.bincount(number * cells + truth * classes + prediction, minlength=(number.max() + 1) * cells)
    return flat.reshape(-1, cells).astype(np.float32)
