"""Metrics of labels that are not one class: distributions, several labels at once, numbers.

Each is a function of (target, output), both (N, columns). Missing is a row of zeros in a distribution, and NaN in a
cell of the others; what is missing counts nowhere. A figure of several columns is their mean, a column without any
label left out.
"""

from collections.abc import Callable

import numpy as np

from twofold.fuse.metrics.metric import (
    CORRELATION,
    POSITIVE,
    Scale,
    SumMetric,
    WeightedMetric,
    group_sums,
    mean_metric,
)

LEAST_SHARE = 1e-12  #: that a prediction gives a class, for its logarithm
THRESHOLD = 0.5  #: of a label that is called, where none is chosen

# ---------------------------------------------------------------------- distributions: Geng, arXiv 1408.6027, Table 2


def _of_distributions(measure: Callable[[np.ndarray, np.ndarray], np.ndarray]
                      ) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """`measure` of distributions, (N,), nan for a target without shares; shares and votes alike come to sum to one."""
    def each(target: np.ndarray, output: np.ndarray) -> np.ndarray:
        total = target.sum(axis=1, keepdims=True, dtype=float)
        shares = target / np.where(total > 0, total, 1)
        return np.where(total[:, 0] > 0, measure(shares, output.astype(float)), np.nan)
    return each


def _relative(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """|p - q| / (p + q), 0 where both are."""
    return np.abs(p - q) / np.where(p + q > 0, p + q, 1)


def _kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (p * np.log(np.where(p > 0, p, 1) / np.where(p > 0, np.maximum(q, LEAST_SHARE), 1))).sum(axis=1)


def _cosine(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (p * q).sum(axis=1) / np.maximum(np.linalg.norm(p, axis=1) * np.linalg.norm(q, axis=1), LEAST_SHARE)


KL = mean_metric("kl", "KL", _of_distributions(_kl), higher=False, scale=POSITIVE)  #: of the target from the output
CHEBYSHEV = mean_metric("chebyshev", "Chebyshev", _of_distributions(lambda p, q: np.abs(p - q).max(axis=1)),
                        higher=False)
CLARK = mean_metric("clark", "Clark", _of_distributions(lambda p, q: np.sqrt((_relative(p, q) ** 2).sum(axis=1))),
                    higher=False, scale=POSITIVE)
CANBERRA = mean_metric("canberra", "Canberra", _of_distributions(lambda p, q: _relative(p, q).sum(axis=1)),
                       higher=False, scale=POSITIVE)
COSINE = mean_metric("cosine", "cosine", _of_distributions(_cosine), higher=True)
INTERSECTION = mean_metric("intersection", "intersection",
                           _of_distributions(lambda p, q: np.minimum(p, q).sum(axis=1)), higher=True)
DISTRIBUTION_METRICS = (KL, CHEBYSHEV, CLARK, CANBERRA, COSINE, INTERSECTION)

# ------------------------------------------------------------------------------------------------ several labels


def _label_counts(target: np.ndarray, output: np.ndarray) -> np.ndarray:
    """(N, L, 4) of each cell: 1 where it has a label, is rightly called, wrongly called, missed."""
    mask, called, present = ~np.isnan(target), output >= THRESHOLD, target > 0
    return np.stack([mask, mask & called & present, mask & called & ~present, mask & ~called & present], axis=-1)


def _labels_wrong(target: np.ndarray, output: np.ndarray) -> np.ndarray:
    """(N,) share of a sample's labels that are called wrong."""
    mask, wrong = _label_counts(target, output)[..., 0], _label_counts(target, output)[..., 2:].any(axis=-1)
    return np.where(mask.any(axis=1), wrong.sum(axis=1) / np.maximum(mask.sum(axis=1), 1), np.nan)


def f1_of_labels(sums: np.ndarray) -> np.ndarray:
    """(..., L) F1 of each label, of sums (..., L, 4) of `_label_counts`; 0/0 is 0, nan for a label without cells."""
    _, hits, false, missed = np.moveaxis(sums, -1, 0)
    return np.where(sums[..., 0] > 0, 2 * hits / np.maximum(2 * hits + false + missed, 1), np.nan)


def _mean(values: np.ndarray) -> np.ndarray:
    """(...) mean of (..., L) without what is nan; nan if all are."""
    count = (~np.isnan(values)).sum(axis=-1)
    return np.where(count > 0, np.nansum(values, axis=-1) / np.maximum(count, 1), np.nan)


def _f1_gradient(sums: np.ndarray) -> np.ndarray:
    """With F1 = 2 hits / total: (2 - 2 F1) / total by the hits, - F1 / total by the false and the missed."""
    f1 = f1_of_labels(sums)
    columns = np.maximum((~np.isnan(f1)).sum(axis=-1), 1)[..., None, None]
    f1, total = np.nan_to_num(f1), np.maximum(2 * sums[..., 1] + sums[..., 2] + sums[..., 3], 1)
    called = (total > 0) & (sums[..., 1:].sum(axis=-1) > 0)
    slopes = np.stack([np.zeros_like(f1), (2 - 2 * f1) / total, -f1 / total, -f1 / total], axis=-1)
    return np.where(called[..., None], slopes, 0) / columns


#: of 0/1 targets and outputs of which 0.5 and more is called: give it decisions where other thresholds are chosen
MULTILABEL_F1 = SumMetric(
    key="macro_f1", name="macro-F1", loss=_labels_wrong, gradient=_f1_gradient,
    sums=lambda target, output, number, groups: group_sums(_label_counts(target, output), number, groups),
    value=lambda sums: _mean(f1_of_labels(sums)))


def f1_by_label(target: np.ndarray, decisions: np.ndarray) -> np.ndarray:
    """(L,) F1 of each label."""
    return f1_of_labels(_label_counts(target, decisions).sum(axis=0))


def average_precision_by_label(target: np.ndarray, output: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(R, L) average precision of each label, of samples that count by weights (R, N); nan where none has it.

    The sum over thresholds of precision times the step in recall, equal outputs being one threshold, as scikit-learn.
    """
    scores = np.full((len(weights), target.shape[1]), np.nan)
    for column, (truth, score) in enumerate(zip(target.T, output.T, strict=True)):
        rows = np.flatnonzero(~np.isnan(truth))
        rows = rows[np.argsort(-score[rows], kind="stable")]
        if not len(rows):
            continue
        last = np.append(np.flatnonzero(np.diff(score[rows])), len(rows) - 1)  # of those with the same output
        hits = np.cumsum(weights[:, rows] * (truth[rows] > 0), axis=1)[:, last]
        calls = np.cumsum(weights[:, rows], axis=1)[:, last]
        gained = np.diff(hits, axis=1, prepend=0)
        total = hits[:, -1]
        precision = (gained * hits / np.where(calls > 0, calls, 1)).sum(axis=1)
        scores[:, column] = np.where(total > 0, precision / np.where(total > 0, total, 1), np.nan)
    return scores


MEAN_AVERAGE_PRECISION = WeightedMetric(
    key="map", name="mAP", loss=_labels_wrong,
    weighted=lambda target, output, weights: _mean(average_precision_by_label(target, output, weights)))
MULTILABEL_METRICS = (MULTILABEL_F1, MEAN_AVERAGE_PRECISION)


def choose_thresholds(target: np.ndarray, output: np.ndarray) -> np.ndarray:
    """(L,) thresholds that give each label the greatest F1 on these samples.

    0.5 if it is one of them, else the middle between two outputs, of several the one nearest to 0.5.

    A label is called where its output is not below. A label that no sample has, or that all have, keeps 0.5.
    """
    chosen = np.full(target.shape[1], THRESHOLD)
    for column in range(target.shape[1]):
        rows = np.flatnonzero(~np.isnan(target[:, column]))
        values, present = output[rows, column].astype(float), target[rows, column] > 0
        if not present.any() or present.all():
            continue
        order = np.argsort(-values, kind="stable")
        values = values[order]
        last = np.append(np.flatnonzero(np.diff(values)), len(rows) - 1)
        hits = np.cumsum(present[order])[last]
        f1 = 2 * hits / (last + 1 + present.sum())
        below = np.append(values[last[:-1] + 1], min(values[-1], 0.0))  # the next output that is not called
        low, high = below[f1 == f1.max()], values[last][f1 == f1.max()]
        middle = (low + high) / 2
        inside = (low < THRESHOLD) & (high >= THRESHOLD)
        best = np.where(inside, THRESHOLD, np.where(middle > low, middle, high))  # two neighbours have no middle
        chosen[column] = best[np.argmin(np.abs(best - THRESHOLD))]
    return chosen


# ------------------------------------------------------------------------------------------------------ numbers


def _number_sums(target: np.ndarray, output: np.ndarray, number: np.ndarray, groups: int) -> np.ndarray:
    """(G, D, 6) of each group and column: count, sums of target, output, their squares and their product.

    Both less the mean of the target, which changes no figure and keeps the squares small.
    """
    mask = ~np.isnan(target)
    x = np.where(mask, target, 0).astype(float)
    mean = x.sum(axis=0) / np.maximum(mask.sum(axis=0), 1)
    x, y = np.where(mask, x - mean, 0), np.where(mask, output - mean, 0)
    return group_sums(np.stack([mask.astype(float), x, y, x * x, y * y, x * y], axis=-1), number, groups)


def _number_loss(target: np.ndarray, output: np.ndarray) -> np.ndarray:
    """(N,) mean squared error of a sample's numbers."""
    return _mean(np.where(np.isnan(target), np.nan, (target - output.astype(float)) ** 2))


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where(b > 0, a / np.where(b > 0, b, 1), 0)


def _moments(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts (..., D) and means (..., D, 5) of sums (..., D, 6)."""
    return sums[..., 0], sums[..., 1:] / np.maximum(sums[..., :1], 1)


def _spreads(means: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Variances of target and output, and their covariance, (..., D); a variance that is rounding alone is 0."""
    x, y, xx, yy, xy = np.moveaxis(means, -1, 0)
    vx, vy = (np.where(square - mean**2 > 1e-12 * square, square - mean**2, 0) for square, mean in ((xx, x), (yy, y)))
    return vx, vy, np.where((vx > 0) & (vy > 0), xy - x * y, 0)


def _ccc(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Concordance (Lin, 1989) of means (..., D, 5), and its derivative by each; 0 for a constant output."""
    x, y = means[..., 0], means[..., 1]
    vx, vy, covariance = _spreads(means)
    spread = vx + vy + (x - y) ** 2
    ccc, zero, one = _ratio(2 * covariance, spread), np.zeros_like(x), np.ones_like(x)
    above, below = np.stack([-2 * y, -2 * x, zero, zero, 2 * one], -1), np.stack([-2 * y, -2 * x, one, one, zero], -1)
    return ccc, _ratio(above - ccc[..., None] * below, spread[..., None])


def _pearson(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of means (..., D, 5), and its derivative by each; 0 where one of both is constant."""
    x, y = means[..., 0], means[..., 1]
    vx, vy, covariance = _spreads(means)
    root = np.sqrt(vx * vy)
    r = _ratio(covariance, root)
    by_xy, by_xx, by_yy = _ratio(np.ones_like(x), root), _ratio(-r / 2, vx), _ratio(-r / 2, vy)
    return r, np.stack([-y * by_xy - 2 * x * by_xx, -x * by_xy - 2 * y * by_yy, by_xx, by_yy, by_xy], -1)


def _rmse(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Root of the mean squared error of means (..., D, 5), and its derivative by each."""
    rmse = np.sqrt(np.maximum(means[..., 2] + means[..., 3] - 2 * means[..., 4], 0))
    slope = _ratio(np.ones_like(rmse) / 2, rmse)
    zero = np.zeros_like(rmse)
    return rmse, np.stack([zero, zero, slope, slope, -2 * slope], -1)


def _number_metric(key: str, name: str, figure: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], *,
                   higher: bool, scale: Scale) -> SumMetric:
    def value(sums: np.ndarray) -> np.ndarray:
        count, means = _moments(sums)
        return _mean(np.where(count > 0, figure(means)[0], np.nan))

    def gradient(sums: np.ndarray) -> np.ndarray:
        count, means = _moments(sums)
        slopes = figure(means)[1] * ((count > 0) / np.maximum(count, 1))[..., None]
        by_count = -(slopes * means).sum(axis=-1, keepdims=True)
        columns = np.maximum((count > 0).sum(axis=-1), 1)[..., None, None]
        return np.concatenate([by_count, slopes], axis=-1) / columns

    return SumMetric(key=key, name=name, loss=_number_loss, scale=scale, higher=higher, sums=_number_sums, value=value,
                     gradient=gradient)


CCC = _number_metric("ccc", "CCC", _ccc, higher=True, scale=CORRELATION)
PEARSON = _number_metric("pearson", "Pearson", _pearson, higher=True, scale=CORRELATION)
RMSE = _number_metric("rmse", "RMSE", _rmse, higher=False, scale=POSITIVE)
REGRESSION_METRICS = (CCC, PEARSON, RMSE)
