"""The simulations behind fuse/MEASURED.md run, and come out within bounds that are far too wide for chance."""

from tests.simulations import choice_gains, coverage, null_rates, sweep_gains


def test_equal_heads_are_seldom_called_different():
    rates = null_rates(3, groups=14, size=20)
    assert len(rates) == 7 and sum(rates.values()) * 3 <= 7, rates


def test_a_choice_among_noise_gains_little():
    gains = sweep_gains(1, trials=3, groups=10)
    assert len(gains) == 2 and all(abs(each).max() < 0.15 for each in gains.values()), gains
    honest, own = (each.mean() for each in choice_gains(20).values())
    assert abs(honest) < 0.015 < own, (honest, own)


def test_intervals_of_a_drawn_population_cover_it():
    population, groups, shares = next(coverage(40))
    assert (population, groups) == ("rare classes, subjects", 10) and min(shares) > 0.75, shares
