"""How sure figures are: intervals by a studentised bootstrap of groups, an exact paired test by group."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twofold.fuse.metrics.scores import SCORE, Metric, confusion_matrix

REPLICATES = 2000
#: below so many groups no interval is given: in simulations it then covered the target in less than 90 % (README)
FEWEST_GROUPS = 10
#: nor where groups are so unequal that they are worth fewer equal ones (Kish, 1965): it then covered 90 to 92 %
FEWEST_EQUAL_GROUPS = 8
#: of a resample's standard error, in those of the sample: a resample that lost the few samples that differ has none
LEAST_SPREAD = 0.5
CELLS = 4_000_000  #: of resamples x kinds of groups at a time: bounds memory

Interval = tuple[float, float]  #: of 95 %


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Head a against head b on the same samples. difference: the score of a minus that of b."""

    difference: float
    interval: Interval | None  #: None for too few groups, or where a and b call every sample alike
    groups: int
    only_a: int  #: samples that only a calls right
    only_b: int
    p_value: float  #: of the samples called right, two-sided; see `sign_flip_test`

    @property
    def within_noise(self) -> bool:
        """True unless the interval is all on one side of nought."""
        return self.interval is None or self.interval[0] <= 0 <= self.interval[1]

    @property
    def verdict(self) -> str:
        return "within noise" if self.within_noise else "beyond noise"


def interval(
    metric: Metric, target: np.ndarray, prediction: np.ndarray, groups: np.ndarray, *, classes: int, seed: int,
) -> Interval | None:
    """The 95 % interval of a share (a metric from 0 to 1) of (N,) predictions.

    Whole groups are drawn with replacement, so that the samples of one subject or video count as one piece of evidence.
    Each resample is measured in its own standard errors (bootstrap-t: Davison & Hinkley, 1997, section 5.2) on the
    scale of the arcsine of the root, on which a share has an even spread: the usual percentile interval misses
    macro-F1 with rare classes, since resamples lose them. None for fewer than `FEWEST_GROUPS` groups, for fewer than
    `FEWEST_EQUAL_GROUPS` by their sizes, or if all score alike, so that nothing tells how they vary.
    """
    study = _bootstrap(metric, [group_confusions(target, prediction, groups, classes)], seed)
    if study is None:
        return None
    value, error, values, errors = study

    def slope(share: float | np.ndarray) -> np.ndarray:
        """By how much a step in a share is longer than the same step in its angle."""
        return 2 * np.sqrt(np.maximum(share * (1 - np.asarray(share)), 1e-6))

    def angle(share: float | np.ndarray) -> np.ndarray:
        return np.arcsin(np.sqrt(np.clip(share, 0, 1)))

    error = error / slope(value)
    errors = np.maximum(errors / slope(values), LEAST_SPREAD * error)
    low, high = np.percentile((angle(values) - angle(value)) / errors, (2.5, 97.5))
    ends = np.clip(angle(value) - np.array([high, low]) * error, 0, np.pi / 2)
    return float(np.sin(ends[0]) ** 2), float(np.sin(ends[1]) ** 2)


def difference_interval(
    metric: Metric, target: np.ndarray, a: np.ndarray, b: np.ndarray, groups: np.ndarray, *, classes: int, seed: int,
) -> Interval | None:
    """The 95 % interval of a metric of predictions a less that of b, both (N,), as `interval` makes it.

    Symmetric (the distances without their signs), which covers differences better. None as for `interval`.
    """
    study = _bootstrap(metric, [group_confusions(target, calls, groups, classes) for calls in (a, b)], seed)
    if study is None:
        return None
    value, error, values, errors = study
    reach = float(np.percentile(np.abs(values - value) / np.maximum(errors, LEAST_SPREAD * error), 95)) * error
    return max(-1.0, value - reach), min(1.0, value + reach)


def compare(
    target: np.ndarray, a: np.ndarray, b: np.ndarray, groups: np.ndarray, *, classes: int, seed: int,
) -> Comparison:
    """Predictions a and b (N,) compared: their scores with an interval, and a test of which is right more often."""
    values = [float(SCORE.value(confusion_matrix(target, calls, classes))) for calls in (a, b)]
    right_a, right_b = a == target, b == target
    _, number = np.unique(groups.astype(str), return_inverse=True)
    ahead = np.bincount(number, right_a.astype(float) - right_b).astype(int)
    return Comparison(
        difference=values[0] - values[1], groups=len(ahead), only_a=int((right_a & ~right_b).sum()),
        interval=difference_interval(SCORE, target, a, b, groups, classes=classes, seed=seed),
        only_b=int((right_b & ~right_a).sum()), p_value=sign_flip_test(ahead))


def sign_flip_test(ahead: np.ndarray) -> float:
    """Two-sided exact p-value of (G,) whole numbers, the samples by which a is ahead of b in each group.

    If a and b are equally good, each group might as well have come out the other way round: of all 2^G flips, the
    share whose sum is at least as far from nought. Where no group has more than one sample on which they differ this is
    McNemar's exact test (McNemar, 1947). Only positive shares are added, so that the smallest is as exact as any.
    """
    sizes = np.abs(ahead[ahead != 0])
    shares = np.ones(1)  # of the flips, by half of how far the sum is above its least
    for size, count in zip(*np.unique(sizes, return_counts=True), strict=True):
        longer = np.zeros(len(shares) + size * count)
        factorial = [math.lgamma(number + 1) for number in range(count + 1)]
        logs = np.array([factorial[-1] - factorial[number] - factorial[count - number] for number in range(count + 1)])
        for number, share in enumerate(np.exp(logs - count * math.log(2))):  # of so many heads in `count` tosses
            longer[number * size:number * size + len(shares)] += share * shares
        shares = longer
    sums = 2 * np.arange(len(shares)) - sizes.sum()
    return float(np.clip(shares[np.abs(sums) >= abs(ahead.sum())].sum(), 2.0 ** (1 - min(len(sizes), 1000)), 1))


def group_confusions(target: np.ndarray, prediction: np.ndarray, groups: np.ndarray, classes: int) -> np.ndarray:
    """(G, C * C) confusion counts of each group."""
    _, number = np.unique(groups.astype(str), return_inverse=True)
    cells = classes * classes
    flat = np.bincount(number * cells + target * classes + prediction, minlength=(number.max() + 1) * cells)
    return flat.reshape(-1, cells)


def _bootstrap(metric: Metric, tables: Sequence[np.ndarray], seed: int
               ) -> tuple[float, float, np.ndarray, np.ndarray] | None:
    """The metric of the first tables (G, C * C), less that of the second if there is one, and its standard error; both
    of each resample of groups (R,). None for too few groups, or if all score alike.

    Groups with the same counts are drawn as one kind, so that a million single samples cost as much as a hundred.
    """
    groups, classes = len(tables[0]), math.isqrt(tables[0].shape[1])
    sizes = tables[0].sum(axis=1)
    if groups < FEWEST_GROUPS or sizes.sum() ** 2 < FEWEST_EQUAL_GROUPS * (sizes**2).sum():
        return None
    kinds, count = np.unique(np.hstack(tables), axis=0, return_counts=True)
    parts = np.split(kinds.astype(float), len(tables), axis=1)

    def measure(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Value and standard error (R,) of R samples that hold each kind of group `times` (R, K) often.

        The error is that of the metric's linear approximation (the delta method), its terms being one a group.
        """
        values, influence = np.zeros(len(times)), np.zeros_like(times)
        for sign, part in zip((1, -1), parts, strict=False):
            confusions = (times @ part).reshape(-1, classes, classes)
            values += sign * metric.value(confusions)
            influence += sign * metric.gradient(confusions).reshape(len(times), -1) @ part.T
        drawn = times.sum(axis=1)
        return values, np.sqrt(drawn / (drawn - 1) * (times * influence**2).sum(axis=1))

    value, error = measure(count[None].astype(float))
    if error[0] < 1e-12:
        return None
    generator = np.random.default_rng(seed)
    blocks, step = [], max(1, CELLS // len(kinds))
    for start in range(0, REPLICATES, step):
        size = min(step, REPLICATES - start)
        blocks.append(measure(generator.multinomial(groups, count / groups, size=size).astype(float)))
    values, errors = (np.concatenate(column) for column in zip(*blocks, strict=True))
    return float(value[0]), float(error[0]), values, errors
