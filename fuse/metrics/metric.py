"""What a metric is: a figure of predictions, and what the bootstrap of groups in `statistics` needs to know of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Scale:
    """A scale on which a metric varies about as much wherever it is: `place` on it, and back.

    step: derivative of the metric by its place; span: the largest difference of two values.
    """

    place: Callable[[Any], Any]
    back: Callable[[Any], Any]
    step: Callable[[Any], Any]
    span: float


SHARE = Scale(lambda share: np.arcsin(np.sqrt(np.clip(share, 0, 1))),
              lambda angle: np.sin(np.clip(angle, 0, np.pi / 2)) ** 2,
              lambda share: 2 * np.sqrt(np.maximum(share * (1 - np.asarray(share)), 1e-6)), 1.0)  #: 0 to 1
CORRELATION = Scale(lambda value: np.arctanh(np.clip(value, -1 + 1e-9, 1 - 1e-9)), np.tanh,
                    lambda value: np.maximum(1 - np.asarray(value) ** 2, 1e-6), 2.0)  #: -1 to 1; Fisher, 1915
POSITIVE = Scale(lambda value: np.log(np.maximum(value, 1e-9)), np.exp,
                 lambda value: np.maximum(value, 1e-9), np.inf)  #: 0 and more


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure of a target and an output, both with a row per sample.

    key: in files; name: in tables. loss: (N,) of each sample by itself, less is better, nan for a sample without any
    label, which counts nowhere: what a paired test compares. higher: whether more of the figure is better.
    """

    key: str
    name: str
    loss: Callable[[Array, Array], Array]
    scale: Scale = SHARE
    higher: bool = True

    def of(self, target: Array, output: Array) -> float:
        """The figure of these samples; nan if none has a label."""
        raise NotImplementedError

    def rank(self, value: float) -> float:
        """A value of the metric as one of which more is better."""
        return value if self.higher else -value


@dataclass(frozen=True, kw_only=True)
class SumMetric(Metric):
    """A figure of sums over samples: sums(target, output, number (N,), groups) gives those of each group (G, ...).

    value: the figure (...) of sums with leading axes; gradient: its derivative by each of the sums.
    """

    sums: Callable[[Array, Array, Array, int], Array]
    value: Callable[[Array], Array]
    gradient: Callable[[Array], Array]

    def of(self, target: Array, output: Array) -> float:
        return float(self.value(self.sums(target, output, np.zeros(len(target), np.int64), 1)[0]))


@dataclass(frozen=True, kw_only=True)
class WeightedMetric(Metric):
    """A figure that is none of sums: weighted(target, output, weights (R, N)) gives (R,) figures of samples that count
    so often each."""

    weighted: Callable[[Array, Array, Array], Array]

    def of(self, target: Array, output: Array) -> float:
        return float(self.weighted(target, output, np.ones((1, len(target))))[0])


def group_sums(values: Array, number: Array, groups: int) -> Array:
    """(G, ...) sums of values (N, ...) over the samples of each group."""
    flat = values.reshape(len(values), math.prod(values.shape[1:]))
    sums = np.stack([np.bincount(number, column, groups) for column in flat.T], axis=1)
    if values.dtype.kind in "biu":
        sums = sums.astype(np.int64)
    return sums.reshape(groups, *values.shape[1:])


def mean_metric(key: str, name: str, each: Callable[[Array, Array], Array], *, higher: bool, scale: Scale = SHARE
                ) -> SumMetric:
    """The mean over samples of each(target, output) (N,), nan for a sample that does not count."""
    def sums(target: Array, output: Array, number: Array, groups: int) -> Array:
        values = each(target, output)
        counts = ~np.isnan(values)
        return group_sums(np.stack([counts, np.where(counts, values, 0)], axis=1), number, groups)

    def value(sums: Array) -> Array:
        return np.where(sums[..., 0] > 0, sums[..., 1] / np.maximum(sums[..., 0], 1), np.nan)

    def gradient(sums: Array) -> Array:
        count = np.maximum(sums[..., 0], 1)
        return np.stack([-sums[..., 1] / count**2, 1 / count], axis=-1)

    return SumMetric(key=key, name=name, loss=lambda target, output: each(target, output) * (-1 if higher else 1),
                     scale=scale, higher=higher, sums=sums, value=value, gradient=gradient)
