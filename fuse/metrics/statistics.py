"""How sure figures are: intervals by a studentised bootstrap of groups, an exact paired test by group."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twofold.fuse.metrics.metric import Metric, SumMetric, WeightedMetric, group_sums

REPLICATES = 2000
WEIGHTED_REPLICATES = 500  #: of a metric that looks at every sample in each
MOST_KINDS = 1000  #: of groups, where no two are alike
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
    """Head a against head b on the same samples. difference: the metric of a minus that of b."""

    difference: float
    interval: Interval | None  #: None for too few groups, or where a and b call every sample alike
    groups: int
    only_a: int  #: samples on which a is better by the metric's loss; of classes, those that only a calls right
    only_b: int
    p_value: float  #: of these samples, two-sided; see `sign_flip_test`

    @property
    def within_noise(self) -> bool:
        """True unless the interval is all on one side of nought."""
        return self.interval is None or self.interval[0] <= 0 <= self.interval[1]

    @property
    def verdict(self) -> str:
        return "within noise" if self.within_noise else "beyond noise"


def interval(metric: Metric, target: np.ndarray, output: np.ndarray, groups: np.ndarray, *, seed: int
             ) -> Interval | None:
    """The 95 % interval of a metric of outputs (N, ...).

    Whole groups are drawn with replacement, so that the samples of one subject or video count as one piece of evidence.
    Each resample is measured in its own standard errors (bootstrap-t: Davison & Hinkley, 1997, section 5.2) on the
    metric's scale, that of a share being the arcsine of its root, on which it has an even spread: the usual percentile
    interval misses macro-F1 with rare classes, since resamples lose them. A metric that is none of sums has the
    percentile interval all the same. None for fewer than `FEWEST_GROUPS` groups, for fewer than `FEWEST_EQUAL_GROUPS`
    by their sizes, or if all score alike, so that nothing tells how they vary.
    """
    study = _bootstrap(metric, target, [output], groups, seed)
    if study is None:
        return None
    value, error, values, errors = study
    if errors is None:
        low, high = np.percentile(values, (2.5, 97.5))
        return float(low), float(high)
    scale = metric.scale
    error = error / scale.step(value)
    errors = np.maximum(errors / scale.step(values), LEAST_SPREAD * error)
    low, high = np.percentile((scale.place(values) - scale.place(value)) / errors, (2.5, 97.5))
    ends = scale.back(scale.place(value) - np.array([high, low]) * error)
    return float(ends[0]), float(ends[1])


def difference_interval(
    metric: Metric, target: np.ndarray, a: np.ndarray, b: np.ndarray, groups: np.ndarray, *, seed: int,
) -> Interval | None:
    """The 95 % interval of a metric of outputs a less that of b, both (N, ...), as `interval` makes it.

    Symmetric (the distances without their signs), which covers differences better. None as for `interval`.
    """
    study = _bootstrap(metric, target, [a, b], groups, seed)
    if study is None:
        return None
    value, error, values, errors = study
    if errors is None:
        reach = float(np.percentile(np.abs(values - value), 95))
    else:
        reach = float(np.percentile(np.abs(values - value) / np.maximum(errors, LEAST_SPREAD * error), 95)) * error
    return max(-metric.scale.span, value - reach), min(metric.scale.span, value + reach)


def compare(metric: Metric, target: np.ndarray, a: np.ndarray, b: np.ndarray, groups: np.ndarray, *, seed: int
            ) -> Comparison:
    """Outputs a and b (N, ...) compared: the metric of both with an interval, and a test of which is better on more
    samples, by the metric's loss."""
    losses = np.stack([metric.loss(target, output) for output in (a, b)])
    counts = ~np.isnan(losses).any(axis=0)
    ahead = np.sign(losses[1, counts] - losses[0, counts]).astype(int)
    _, number = np.unique(groups[counts].astype(str), return_inverse=True)
    return Comparison(
        difference=metric.of(target, a) - metric.of(target, b), groups=int(number.max(initial=-1)) + 1,
        only_a=int((ahead > 0).sum()), only_b=int((ahead < 0).sum()),
        interval=difference_interval(metric, target, a, b, groups, seed=seed),
        p_value=sign_flip_test(np.bincount(number, ahead).astype(int)))


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


def _bootstrap(metric: Metric, target: np.ndarray, outputs: Sequence[np.ndarray], groups: np.ndarray, seed: int
               ) -> tuple[float, float, np.ndarray, np.ndarray | None] | None:
    """The metric of the first outputs, less that of the second if there are any, and its standard error; both of each
    resample of groups (R,). No errors (None) of a metric that is none of sums. None for too few groups, or if all
    score alike.
    """
    counts = ~np.isnan(metric.loss(target, outputs[0]))
    target, outputs = target[counts], [output[counts] for output in outputs]
    _, number = np.unique(groups[counts].astype(str), return_inverse=True)
    sizes = np.bincount(number)
    if len(sizes) < FEWEST_GROUPS or sizes.sum() ** 2 < FEWEST_EQUAL_GROUPS * (sizes**2).sum():
        return None
    generator = np.random.default_rng(seed)
    if isinstance(metric, SumMetric):
        return _bootstrap_sums(metric, [metric.sums(target, output, number, len(sizes)) for output in outputs],
                               generator)
    assert isinstance(metric, WeightedMetric)

    def measure(weights: np.ndarray) -> np.ndarray:
        values = [metric.weighted(target, output, weights) for output in outputs]
        return values[0] - values[1] if len(values) > 1 else values[0]

    step, values = max(1, CELLS // len(target)), []
    for start in range(0, WEIGHTED_REPLICATES, step):
        times = generator.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)),
                                      size=min(step, WEIGHTED_REPLICATES - start))
        values.append(measure(times[:, number].astype(float)))
    drawn = np.concatenate(values)
    drawn = drawn[~np.isnan(drawn)]  # a resample without any sample that has a label has no figure
    if not len(drawn) or not np.ptp(drawn):
        return None
    return float(measure(np.ones((1, len(target))))[0]), float(drawn.std()), drawn, None


def _bootstrap_sums(metric: SumMetric, tables: Sequence[np.ndarray], generator: np.random.Generator
                    ) -> tuple[float, float, np.ndarray, np.ndarray] | None:
    """`_bootstrap` of a metric of sums, whose tables (G, ...) are those of each group.

    Groups with the same sums are drawn as one kind, so that a million single samples cost as much as a hundred. Where
    hardly any are the same, since they are no counts, groups are put together by chance until `MOST_KINDS` are left.
    """
    groups, shape = len(tables[0]), tables[0].shape[1:]
    flat = np.hstack([table.reshape(groups, -1) for table in tables])
    if groups > MOST_KINDS and flat.dtype.kind == "f":
        flat = group_sums(flat, generator.permutation(groups) % MOST_KINDS, MOST_KINDS)
        groups = MOST_KINDS
    kinds, count = np.unique(flat, axis=0, return_counts=True)
    parts = np.split(kinds.astype(float), len(tables), axis=1)

    def measure(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Value and standard error (R,) of R samples that hold each kind of group `times` (R, K) often.

        The error is that of the metric's linear approximation (the delta method), its terms being one a group.
        """
        values, influence = np.zeros(len(times)), np.zeros_like(times)
        for sign, part in zip((1, -1), parts, strict=False):
            sums = (times @ part).reshape(-1, *shape)
            values += sign * metric.value(sums)
            influence += sign * metric.gradient(sums).reshape(len(times), -1) @ part.T
        drawn = times.sum(axis=1)
        return values, np.sqrt(drawn / (drawn - 1) * (times * influence**2).sum(axis=1))

    value, error = measure(count[None].astype(float))
    if error[0] < 1e-12:
        return None
    blocks, step = [], max(1, CELLS // len(kinds))
    for start in range(0, REPLICATES, step):
        size = min(step, REPLICATES - start)
        blocks.append(measure(generator.multinomial(groups, count / groups, size=size).astype(float)))
    values, errors = (np.concatenate(column) for column in zip(*blocks, strict=True))
    return float(value[0]), float(error[0]), values, errors
