"""Pair rules against examples worked by hand."""

import numpy as np
import pytest
import torch

from data.labels import BASIC, taxonomy
from fuse.zeroshot import membership, pair_scores

FACE = {"surprise": 0.5, "happiness": 0.3, "fear": 0.1, "anger": 0.1}
NAMES = ("happily_surprised", "fearfully_surprised", "sadly_angry")


def _scores(rule):
    basic = torch.tensor([[FACE.get(name, 0.0) for name in BASIC]])
    return pair_scores(basic, NAMES, rule=rule)[0].tolist()


@pytest.mark.parametrize(("rule", "expected"), [
    ("threshold", [0.8, 0.5, 0.0]),  # fear and anger are below one seventh
    ("weighted", [(6 * 0.3 + 2 * 0.5) / 8, (5 * 0.1 + 2 * 0.5) / 7, 5 * 0.1 / 9]),
    ("mean", [0.4, 0.3, 0.05]),
    ("geometric", [np.sqrt(0.15), np.sqrt(0.05), 0.0]),
    ("harmonic", [2 * 0.15 / 0.8, 2 * 0.05 / 0.6, 0.0]),
])
def test_a_rule_on_a_worked_example(rule, expected):
    assert _scores(rule) == pytest.approx(expected, abs=1e-6)


def test_every_taxonomy_has_two_members_a_compound_and_one_a_basic():
    for name in ("cexpr7", "rafdb11", "rafce14", "basic7", "basic8"):
        classes = taxonomy(name)
        assert (membership(classes.classes).sum(axis=0) == (2 if classes.target == "compound" else 1)).all()
    table = membership(("sadly_angry",))
    assert [BASIC[row] for row in np.flatnonzero(table[:, 0])] == ["sadness", "anger"]
