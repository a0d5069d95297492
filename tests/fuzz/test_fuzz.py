"""Every parser of foreign bytes: it takes its seeds, and a few hundred changed ones end in nothing but a sentence."""

import os
import random

import pytest

from tests.fuzz.mutate import mutated, mutated_json
from tests.fuzz.targets import TARGETS, parses

CHANGES = int(os.environ.get("TWOFOLD_CHANGES", "60"))  #: of each parser's seeds


@pytest.mark.parametrize("name", TARGETS)
def test_changed_bytes_end_in_a_sentence(name):
    target, dice = TARGETS[name], random.Random(name)
    seeds = target.seeds()
    taken = [parses(target, seed) for seed in seeds]
    assert any(taken), "no seed is valid: nothing behind the first check is reached"
    for _ in range(CHANGES):
        seed = dice.choice(seeds)
        data = mutated_json(seed, dice) if target.is_json and dice.random() < 0.7 else mutated(seed, dice)
        parses(target, data)
