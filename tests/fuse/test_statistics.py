"""Intervals that cover, tests that agree with scipy and with counting."""

import numpy as np
import pytest
from scipy.stats import binomtest

from twofold.fuse.scores import metrics
from twofold.fuse.scores.statistics import bootstrap, compare, interval, mcnemar


def test_mcnemar_is_the_exact_binomial_test():
    for only_a, only_b in [(0, 0), (1, 0), (5, 5), (12, 3), (40, 70), (400, 300)]:
        expected = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
        assert mcnemar(only_a, only_b) == pytest.approx(min(1, expected), rel=1e-9)


def _faces(generator, groups, size, right):
    """Groups that succeed or fail together: the number of faces says too much, the number of groups does not."""
    truth = generator.integers(0, 4, groups * size)
    hit = np.repeat(generator.random(groups) < right, size)
    return truth, np.where(hit, truth, (truth + 1) % 4), np.repeat(np.arange(groups), size)


@pytest.mark.slow
def test_intervals_by_group_cover_the_truth_and_those_by_face_do_not():
    generator = np.random.default_rng(0)
    covered = {"group": 0, "face": 0}
    trials = 200
    for _ in range(trials):
        truth, called, group = _faces(generator, 120, 4, 0.7)
        for name, units in (("group", group), ("face", np.arange(len(truth)))):
            samples = bootstrap(metrics.accuracy, truth, [called], units, classes=4, seed=0, replicates=400)
            low, high = interval(samples[0])
            covered[name] += low <= 0.7 <= high
    assert covered["group"] / trials == pytest.approx(0.945, abs=0.045)
    assert covered["face"] / trials < 0.75


def test_the_bootstrap_of_macro_f1_centres_on_it_and_shrinks_with_the_number_of_faces():
    generator = np.random.default_rng(1)
    widths = []
    for count in (200, 3200):
        truth = generator.integers(0, 4, count)
        called = np.where(generator.random(count) < 0.6, truth, generator.integers(0, 4, count))
        samples = bootstrap(metrics.macro_f1, truth, [called], np.arange(count), classes=4, seed=0, replicates=500)[0]
        assert samples.mean() == pytest.approx(metrics.scores(truth, called, 4).macro_f1, abs=0.01)
        widths.append(np.ptp(interval(samples)))
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.3)


def test_a_paired_comparison_sees_what_two_intervals_do_not():
    generator = np.random.default_rng(2)
    truth = generator.integers(0, 3, 600)
    worse = np.where(generator.random(600) < 0.6, truth, (truth + 1) % 3)
    better = np.where((generator.random(600) < 0.1), truth, worse)
    found = compare(truth, better, worse, np.arange(600), metric=metrics.macro_f1, classes=3, seed=0)
    assert 0 < found.low < found.difference < found.high
    assert found.only_b == 0 and found.only_a > 10 and found.p_mcnemar < 1e-3
    single = [interval(bootstrap(metrics.macro_f1, truth, [one], np.arange(600), classes=3, seed=0)[0])
              for one in (better, worse)]
    assert single[0][0] < single[1][1]  # the two intervals overlap


def test_a_system_compared_with_itself_is_no_better():
    truth = np.arange(50) % 3
    found = compare(truth, truth[::-1], truth[::-1], np.arange(50), metric=metrics.macro_f1, classes=3, seed=0)
    assert (found.difference, found.low, found.high, found.p_mcnemar) == (0, 0, 0, 1)
