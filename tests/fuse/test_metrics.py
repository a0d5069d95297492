"""Figures against scikit-learn and against closed forms."""

import warnings

import numpy as np
import pytest
import sklearn.metrics as sk

from twofold.fuse.metrics import scores as metrics


def _table(seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Truth and predictions of a few faces: classes that are absent, never called, or called without being there."""
    generator = np.random.default_rng(seed)
    classes = int(generator.integers(2, 15))
    count = int(generator.integers(1, 120))
    taught = generator.permutation(classes)[:generator.integers(1, classes + 1)]
    truth, other = generator.choice(taught, count), generator.integers(0, classes, count)
    return truth, np.where(generator.random(count) < generator.random(), truth, other), classes


@pytest.mark.parametrize("seed", range(50))
def test_scores_are_scikit_learns(seed):
    truth, calls, classes = _table(seed)
    ours = metrics.compute_scores(truth, calls, classes)
    every, present = np.arange(classes), np.unique(truth)
    precision, recall, f1, n = sk.precision_recall_fscore_support(truth, calls, labels=every, zero_division=0)
    assert (ours.confusion == sk.confusion_matrix(truth, calls, labels=every)).all()
    assert ours.accuracy == pytest.approx(sk.accuracy_score(truth, calls))
    assert ours.score == pytest.approx(sk.f1_score(truth, calls, labels=every, average="macro", zero_division=0))
    assert ours.score_present == pytest.approx(
        sk.f1_score(truth, calls, labels=present, average="macro", zero_division=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's about calls of classes that have no faces
        assert ours.uar == pytest.approx(sk.balanced_accuracy_score(truth, calls))
    assert np.allclose(ours.precision, precision) and np.allclose(ours.f1, f1) and (ours.n == n).all()
    assert np.allclose(ours.recall[present], recall[present]) and np.isnan(np.delete(ours.recall, present)).all()


def test_the_calibration_error_of_a_worked_example():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
    truth = np.array([0, 1, 0, 1])  # confidence 0.9 is right half the time; 0.6 and 0.7 always
    assert metrics.reliability(probabilities, truth).error == pytest.approx((2 * 0.4 + 0.4 + 0.3) / 4)


@pytest.mark.parametrize("seed", range(50))
def test_the_calibration_error_is_that_of_a_loop(seed):
    generator = np.random.default_rng(seed)
    classes, count = int(generator.integers(2, 9)), int(generator.integers(1, 60))
    probabilities = generator.dirichlet(np.ones(classes) / 2, count)
    if seed % 2:
        probabilities = np.round(probabilities, 1)  # ties, and confidences on the edges of bins
    truth, total = generator.integers(0, classes, count), 0.0
    confidences = [float(max(row)) for row in probabilities]
    for b in range(metrics.BINS):
        rows = [k for k in range(count) if b < np.ceil(confidences[k] * metrics.BINS) <= b + 1]
        right = [int(np.argmax(probabilities[k]) == truth[k]) for k in rows]
        total += abs(sum(right) - sum(confidences[k] for k in rows))
    assert metrics.reliability(probabilities, truth).error == pytest.approx(total / count)


@pytest.mark.parametrize("true_temperature", [0.4, 1.0, 2.5])
def test_the_temperature_that_spoilt_probabilities_is_recovered(true_temperature):
    generator = np.random.default_rng(1)
    honest = generator.dirichlet(np.ones(5), 40_000)
    truth = (honest.cumsum(axis=1) > generator.random((40_000, 1))).argmax(axis=1)
    spoilt = metrics.apply_temperature(honest, true_temperature)
    assert metrics.fit_temperature(spoilt, truth) == pytest.approx(1 / true_temperature, rel=0.05)


def test_tempering_keeps_the_order_and_sums_to_one():
    shares = metrics.apply_temperature(np.random.default_rng(0).dirichlet(np.ones(7), 100), 3.0)
    assert np.allclose(shares.sum(axis=1), 1)
    assert np.allclose(metrics.apply_temperature(shares, 1.0), shares)
