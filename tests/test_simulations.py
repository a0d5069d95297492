"""The simulations behind fuse/MEASURED.md run, and come out within bounds that are far too wide for chance."""

from tests.simulations import agreement, choice_gains, coverage, null_rate, sweep_gains


def test_verbs_compare_equal_heads_as_the_drawn_predictions_that_these_follow():
    alike = agreement(1, groups=14, size=20)
    assert len(alike) == 7 and all(alike.values()), alike
    assert null_rate(100) < 0.15


def test_a_choice_among_noise_gains_little():
    gains = sweep_gains(1, trials=3, groups=10)
    assert len(gains) == 2 and all(abs(each).max() < 0.15 for each in gains.values()), gains
    honest, own = (each.mean() for each in choice_gains(20).values())
    assert abs(honest) < 0.015 < own, (honest, own)


def test_intervals_of_a_drawn_population_cover_it():
    population, groups, shares = next(coverage(40))
    assert (population, groups) == ("rare classes, subjects", 10) and min(shares) > 0.75, shares
