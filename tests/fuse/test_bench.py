"""The bench on a size of seconds: every contender trains, and ratios are to what they say."""

import pytest

from twofold.data.utils.errors import InputError
from twofold.fuse.bench.bench import ALONE, BF16, FLOOR, OURS, WITH_SEEDS, FuseBench, Timing, _isolated, bench_fuse
from twofold.fuse.bench.contenders import SAMPLE, Size, floor

TINY = Size("tiny", 300, (16, 24), hidden=8, batch=32, epochs=1, repeats=1)


@pytest.mark.parametrize("what", [*WITH_SEEDS, *ALONE])
def test_every_contender_works(what):
    for seeds in (1, 8) if what in WITH_SEEDS else (1,):
        seconds, megabytes = (WITH_SEEDS | ALONE)[what](TINY, seeds)
        assert 0 < seconds < 10 and megabytes >= 0


@pytest.mark.slow
def test_a_contender_runs_in_a_process_of_its_own_and_its_memory_is_its_own():
    wide = Size("wide", 64, (4096,), hidden=2048, batch=64, epochs=1, repeats=1)  # two weights of 32 MB
    kept = bytearray(300_000_000)
    seconds, megabytes = _isolated(floor, wide, 1)
    assert seconds > 0 and 60 < megabytes < 200 < len(kept) / 1e6


def test_slow_contenders_take_a_sample_of_large_sizes_only():
    assert Size("large", 100_000, (8,)).sampled == SAMPLE and TINY.sampled == 300


def test_the_table_says_what_eight_seeds_cost():
    timings = [Timing("tiny", what, seeds, seconds, 1.0, seconds / seeds) for what, seeds, seconds in
               [(FLOOR, 1, 1.0), (OURS, 1, 1.25), (BF16, 1, 1.0), (FLOOR, 8, 8.0), (OURS, 8, 9.0), (BF16, 8, 8.0)]]
    assert "eight seeds take 7.20 times one" in FuseBench(timings, [TINY], 2).text()


def test_an_unknown_size_is_named():
    with pytest.raises(InputError, match="unknown size 'huge': choose from rafce, large"):
        bench_fuse(sizes=("huge",))
