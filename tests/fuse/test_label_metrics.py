"""Metrics of distributions, several labels and numbers: scikit-learn's, scipy's, plain loops; and their intervals."""

import warnings

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import distance
from sklearn import metrics as sk

from twofold.fuse.metrics.labels import (
    CCC,
    DISTRIBUTION_METRICS,
    KL,
    MEAN_AVERAGE_PRECISION,
    MULTILABEL_F1,
    PEARSON,
    REGRESSION_METRICS,
    RMSE,
    average_precision_by_label,
    choose_thresholds,
    f1_by_label,
)
from twofold.fuse.metrics.statistics import compare, interval


def _distributions(seed, count=60):
    generator = np.random.default_rng(seed)
    votes = generator.integers(0, 4, (count, 6)) * generator.integers(0, 2, (count, 6))
    output = votes / np.maximum(votes.sum(axis=1, keepdims=True), 1) + generator.dirichlet(np.ones(6), count)
    return votes.astype(float), output / output.sum(axis=1, keepdims=True), generator.integers(0, 30, count)


def _labels(seed, count=200):
    """0/1 with NaN, one label that no sample has, one without a cell; outputs with many ties."""
    generator = np.random.default_rng(seed)
    truth = (generator.random((count, 6)) < [0.5, 0.2, 0.05, 0.3, 0, 0.5]).astype(float)
    output = np.round(np.clip(0.25 * truth + generator.random((count, 6)) * 0.7, 0, 1), 2)
    truth[generator.random((count, 6)) < 0.2] = np.nan
    truth[:, 5] = np.nan
    return truth, output, generator.integers(0, 30, count)


def _numbers(seed, count=200):
    generator = np.random.default_rng(seed)
    truth = generator.uniform(-1, 1, (count, 3)) + np.array([0, 3, 100])
    output = 0.6 * truth + 0.2 * generator.normal(size=(count, 3)) + np.array([0.1, 0, 45])
    truth[generator.random((count, 3)) < 0.15] = np.nan
    truth[:, 2] = np.nan if seed % 2 else truth[:, 2]
    return truth, output, generator.integers(0, 30, count)


SAMPLES = [(metric, _distributions) for metric in DISTRIBUTION_METRICS] + [
    (MULTILABEL_F1, _labels)] + [(metric, _numbers) for metric in REGRESSION_METRICS]
NAMES = [metric.key for metric, _ in SAMPLES]


@pytest.mark.parametrize("seed", range(3))
def test_measures_of_distributions_are_scipys(seed):
    votes, output, _ = _distributions(seed)
    rows = votes.sum(axis=1) > 0
    assert 0 < rows.sum() < len(rows)
    truth = votes[rows] / votes[rows].sum(axis=1, keepdims=True)
    pairs = list(zip(truth, output[rows], strict=True))
    expected = {
        "kl": [stats.entropy(p, q) for p, q in pairs], "chebyshev": [distance.chebyshev(p, q) for p, q in pairs],
        "clark": [sum(((a - b) / (a + b)) ** 2 for a, b in zip(p, q, strict=True) if a + b) ** 0.5 for p, q in pairs],
        "canberra": [distance.canberra(p, q) for p, q in pairs],
        "cosine": [1 - distance.cosine(p, q) for p, q in pairs],
        "intersection": [sum(map(min, p, q)) for p, q in pairs]}
    for metric in DISTRIBUTION_METRICS:
        assert metric.of(votes, output) == pytest.approx(np.mean(expected[metric.key]), rel=1e-9)
    perfect = {metric.key: metric.of(truth, truth) for metric in DISTRIBUTION_METRICS}
    assert perfect == pytest.approx({key: float(key in ("cosine", "intersection")) for key in perfect}, abs=1e-12)


def test_a_class_that_a_prediction_rules_out_costs_much_and_not_everything():
    target, output = np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]])
    assert KL.of(target, output) == pytest.approx(0.5 * np.log(0.5) + 0.5 * np.log(0.5e12))


@pytest.mark.parametrize("seed", range(3))
def test_figures_of_several_labels_are_scikit_learns(seed):
    truth, output, _ = _labels(seed)
    calls, f1, precision = (output >= 0.5).astype(float), [], []
    for column in range(5):
        rows = ~np.isnan(truth[:, column])
        f1.append(sk.f1_score(truth[rows, column], calls[rows, column], zero_division=0))
        precision.append(sk.average_precision_score(truth[rows, column], output[rows, column])
                         if (truth[rows, column] > 0).any() else np.nan)
    assert f1_by_label(truth, calls) == pytest.approx([*f1, np.nan], nan_ok=True)
    assert MULTILABEL_F1.of(truth, output) == MULTILABEL_F1.of(truth, calls) == pytest.approx(np.mean(f1))
    found = average_precision_by_label(truth, output, np.ones((1, len(truth))))[0]
    assert found == pytest.approx([*precision, np.nan], nan_ok=True)
    assert MEAN_AVERAGE_PRECISION.of(truth, output) == pytest.approx(np.nanmean(precision))


def test_a_sample_that_is_drawn_twice_counts_twice_in_average_precision():
    truth, output, _ = _labels(7)
    times = np.random.default_rng(0).integers(0, 3, len(truth))
    weighed = average_precision_by_label(truth, output, times[None].astype(float))[0]
    copied = average_precision_by_label(*(np.repeat(each, times, axis=0) for each in (truth, output)),
                                        np.ones((1, times.sum())))[0]
    assert weighed == pytest.approx(copied, nan_ok=True)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_threshold_has_a_greater_f1(seed):
    truth, output, _ = _labels(seed)
    chosen = choose_thresholds(truth, output)
    f1 = f1_by_label(truth, output >= chosen)
    for threshold in np.unique(np.append(output, [0, 0.5, 1.01])):
        assert (f1 >= f1_by_label(truth, output >= threshold))[:5].all()
    assert chosen[4] == chosen[5] == 0.5  # no sample has the one, nothing is known of the other
    for column in range(4):
        assert (chosen[column] == 0.5) == (f1_by_label(truth, output >= 0.5)[column] == f1[column])


def test_neighbouring_outputs_have_a_threshold_between_them():
    high = np.float32(0.7)
    low = np.nextafter(high, np.float32(0))
    output = np.array([[high], [low], [low]], np.float32)
    (threshold,) = choose_thresholds(np.array([[1.0], [0], [0]]), output)
    assert (output >= threshold)[:, 0].tolist() == [True, False, False]


@pytest.mark.parametrize("seed", range(2))
def test_figures_of_numbers_are_scipys(seed):
    truth, output, _ = _numbers(seed)
    ccc, pearson, rmse = [], [], []
    for column in range(3 - seed % 2):
        rows = ~np.isnan(truth[:, column])
        x, y = truth[rows, column], output[rows, column]
        pearson.append(stats.pearsonr(x, y).statistic)
        rmse.append(np.sqrt(sk.mean_squared_error(x, y)))
        ccc.append(2 * np.cov(x, y, ddof=0)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2))
    assert [metric.of(truth, output) for metric in (CCC, PEARSON, RMSE)] == pytest.approx(
        [np.mean(each) for each in (ccc, pearson, rmse)], rel=1e-9)


def test_a_constant_output_has_no_correlation_and_nothing_labelled_has_no_figure():
    truth = np.random.default_rng(0).normal(size=(50, 1)).astype(np.float32)
    constant = np.full((50, 1), 0.3, np.float32)
    assert CCC.of(truth, constant) == PEARSON.of(truth, constant) == 0 and CCC.of(truth, truth) == pytest.approx(1)
    nothing = np.full((50, 1), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(np.isnan(metric.of(nothing, constant)) for metric in (*REGRESSION_METRICS, MULTILABEL_F1,
                                                                         MEAN_AVERAGE_PRECISION))
        assert all(np.isnan(metric.of(np.zeros((50, 2)), np.full((50, 2), 0.5))) for metric in DISTRIBUTION_METRICS)
        for metric in (*REGRESSION_METRICS, MULTILABEL_F1, MEAN_AVERAGE_PRECISION):
            assert interval(metric, nothing, constant, np.arange(50), seed=0) is None


@pytest.mark.parametrize(("metric", "draw"), SAMPLES, ids=NAMES)
def test_gradients_are_what_a_small_step_changes(metric, draw):
    target, output, group = draw(0)
    sums = metric.sums(target, output, group, 30).sum(axis=0).astype(float)
    slopes = metric.gradient(sums[None])[0]
    for cell in np.ndindex(sums.shape):
        step = np.zeros(sums.shape)
        step[cell] = 1e-4
        change = metric.value((sums + step)[None])[0] - metric.value((sums - step)[None])[0]
        if sums[..., 0].min() > 0 or sums[cell[:-1]].any():  # a label without a cell has no slope
            assert slopes[cell] == pytest.approx(change / 2e-4, rel=1e-4, abs=1e-8), cell


@pytest.mark.parametrize(("metric", "draw"), [*SAMPLES, (MEAN_AVERAGE_PRECISION, _labels)], ids=[*NAMES, "map"])
def test_intervals_and_differences_hold_the_truth(metric, draw, monkeypatch):
    """Of 60 draws of 30 groups; the truth is that of 40,000 samples. Shuffled outputs are worse."""
    monkeypatch.setattr("twofold.fuse.metrics.statistics.REPLICATES", 300)
    monkeypatch.setattr("twofold.fuse.metrics.statistics.WEIGHTED_REPLICATES", 100)
    value = metric.of(*draw(10**6, 40_000)[:2])
    covered = []
    for seed in range(60):
        target, output, group = draw(2 * seed, 150)
        low, high = interval(metric, target, output, group, seed=seed)
        covered.append(low <= value <= high)
        assert low <= metric.of(target, output) <= high or metric is MEAN_AVERAGE_PRECISION
    assert np.mean(covered) >= 0.83, np.mean(covered)
    worse = np.random.default_rng(0).permutation(output)
    comparison = compare(metric, target, output, worse, group, seed=0)
    assert comparison.difference == pytest.approx(metric.of(target, output) - metric.of(target, worse))
    assert (comparison.difference > 0) == metric.higher and comparison.interval[0] < comparison.difference
    assert comparison.only_a > comparison.only_b
    same = compare(metric, target, output, output, group, seed=0)
    assert (same.difference, same.interval, same.only_a, same.p_value) == (0, None, 0, 1)


def test_samples_without_a_label_are_no_groups():
    target, output, _ = _numbers(0, 60)
    target[9:] = np.nan
    assert interval(CCC, target, output, np.arange(60), seed=0) is None  # nine groups are left
    assert compare(CCC, target, output, output[::-1], np.arange(60), seed=0).groups == 9


def test_many_groups_are_drawn_together(monkeypatch):
    """3,000 single samples: the interval of a mean is the normal one, and takes no time."""
    target, output, _ = _distributions(0, 3_000)
    rows = target.sum(axis=1) > 0
    each = np.array([stats.entropy(p, q) for p, q in zip(target[rows], output[rows], strict=True)])
    low, high = interval(KL, target, output, np.arange(3_000), seed=0)
    assert (low + high) / 2 == pytest.approx(each.mean(), rel=1e-3)
    assert high - low == pytest.approx(2 * 1.96 * each.std() / np.sqrt(rows.sum()), rel=0.1)
