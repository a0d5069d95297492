"""Figures against scikit-learn and against closed forms."""

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold.fuse.scores import metrics


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 8), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_scores_are_scikit_learns(classes, count, seed):
    generator = np.random.default_rng(seed)
    truth, called = generator.integers(0, classes, (2, count))
    found = metrics.scores(truth, called, classes)
    present = np.unique(truth)
    precision, recall, f1, n = sk.precision_recall_fscore_support(truth, called, labels=range(classes), zero_division=0)
    assert (found.confusion == sk.confusion_matrix(truth, called, labels=range(classes))).all()
    assert found.accuracy == pytest.approx(sk.accuracy_score(truth, called))
    assert found.macro_f1 == pytest.approx(sk.f1_score(truth, called, labels=present, average="macro", zero_division=0))
    assert found.uar == pytest.approx(recall[present].mean())
    for ours, theirs in ((found.precision, precision), (found.recall, recall), (found.f1, f1)):
        assert np.allclose(ours[present], theirs[present]) and np.isnan(np.delete(ours, present)).all()
    assert (found.n == n).all()


def test_the_calibration_error_of_a_worked_example():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
    truth = np.array([0, 1, 0, 1])  # confidence 0.9 is right half the time; 0.6 and 0.7 always
    assert metrics.calibration_error(probabilities, truth) == pytest.approx((2 * 0.4 + 0.4 + 0.3) / 4)


def test_the_calibration_error_of_honest_probabilities_is_small_and_of_boasts_large():
    generator = np.random.default_rng(0)
    honest = generator.dirichlet(np.ones(4), 20_000)
    truth = (honest.cumsum(axis=1) > generator.random((20_000, 1))).argmax(axis=1)
    assert metrics.calibration_error(honest, truth) < 0.02
    assert metrics.calibration_error(metrics.tempered(honest, 0.3), truth) > 0.15


@pytest.mark.parametrize("true_temperature", [0.4, 1.0, 2.5])
def test_the_temperature_that_spoilt_probabilities_is_found_again(true_temperature):
    generator = np.random.default_rng(1)
    honest = generator.dirichlet(np.ones(5), 40_000)
    truth = (honest.cumsum(axis=1) > generator.random((40_000, 1))).argmax(axis=1)
    spoilt = metrics.tempered(honest, true_temperature)
    assert metrics.fit_temperature(spoilt, truth) == pytest.approx(1 / true_temperature, rel=0.05)


def test_tempering_keeps_the_order_and_sums_to_one():
    found = metrics.tempered(np.random.default_rng(0).dirichlet(np.ones(7), 100), 3.0)
    assert np.allclose(found.sum(axis=1), 1)
    assert np.allclose(metrics.tempered(found, 1.0), found)
