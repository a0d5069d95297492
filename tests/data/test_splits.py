"""No group on two sides, classes in proportion."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold.data.splits import stratified_group_folds, stratified_group_split
from twofold.data.utils.errors import InputError

FACES = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "1", "2", "3", "4", "5", "6"])),
                 min_size=2, max_size=60)


def sides_of(groups, side) -> dict[str, set]:
    seen: dict[str, set] = {}
    for group, here in zip(groups, side, strict=True):
        if group:
            seen.setdefault(group, set()).add(int(here))
    return seen


@settings(deadline=None)
@given(FACES, st.floats(0.05, 0.95), st.integers(0, 5))
def test_no_group_stands_on_both_sides(faces, fraction, seed):
    labels, groups = zip(*faces, strict=True)
    try:
        held = stratified_group_split(labels, groups, fraction=fraction, seed=seed)
    except InputError:
        assert len(set(groups) - {""}) + groups.count("") < 2
        return
    assert held.shape == (len(faces),) and held.dtype == bool
    assert all(len(sides) == 1 for sides in sides_of(groups, held).values())


@settings(deadline=None)
@given(FACES, st.integers(2, 5), st.integers(0, 5))
def test_no_group_stands_in_two_folds(faces, folds, seed):
    labels, groups = zip(*faces, strict=True)
    try:
        fold = stratified_group_folds(labels, groups, folds=folds, seed=seed)
    except InputError:
        assert len(set(groups) - {""}) + groups.count("") < folds
        return
    assert set(fold) <= set(range(folds))
    assert all(len(sides) == 1 for sides in sides_of(groups, fold).values())


def test_single_faces_split_in_exact_proportion():
    labels = ["a"] * 800 + ["b"] * 150 + ["c"] * 50
    held = stratified_group_split(labels, [""] * 1000, fraction=0.2, seed=0)
    assert [int(held[np.array(labels) == name].sum()) for name in "abc"] == [160, 30, 10]
    fold = stratified_group_folds(labels, [""] * 1000, folds=5, seed=0)
    assert np.bincount(fold).tolist() == [200] * 5


def test_grouped_faces_split_nearly_in_proportion():
    draw = np.random.default_rng(0)
    groups = draw.integers(0, 120, 2000).astype(str)
    labels = draw.choice(list("abcd"), 2000, p=[0.6, 0.25, 0.1, 0.05])
    held = stratified_group_split(labels, groups, fraction=0.25, seed=1)
    for name in "abcd":
        assert held[labels == name].mean() == pytest.approx(0.25, abs=0.04)


def test_it_repeats_by_seed():
    labels, groups = list("aabb") * 50, [str(row // 3) for row in range(200)]
    one, again, other = (stratified_group_split(labels, groups, fraction=0.3, seed=seed) for seed in (4, 4, 5))
    assert (one == again).all() and (one != other).any()


def test_it_is_quick_for_many_faces():
    import time

    draw, start = np.random.default_rng(0), time.perf_counter()
    held = stratified_group_split(draw.choice(list("abcdefg"), 300_000), [""] * 300_000, fraction=0.1, seed=0)
    assert held.sum() == pytest.approx(30_000, abs=7) and time.perf_counter() - start < 20


@pytest.mark.parametrize("fraction", [0, 1, -0.5, float("nan")])
def test_fractions_that_split_nothing(fraction):
    with pytest.raises(InputError, match="between 0 and 1"):
        stratified_group_split("ab", ["", ""], fraction=fraction, seed=0)


def test_too_few_groups():
    with pytest.raises(InputError, match="1 groups of samples cannot be split into 2"):
        stratified_group_split("ab", ["x", "x"], fraction=0.5, seed=0)
    with pytest.raises(InputError, match="at least two"):
        stratified_group_folds("ab", ["", ""], folds=1, seed=0)
