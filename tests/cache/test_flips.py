"""A sample of what `flips.py` does at length; its figures are in cache/MEASURED.md."""

import random

import h5py
import pytest

from tests.cache.flips import content, metadata, small_file, try_flips
from twofold.cache.errors import DamagedFile


@pytest.mark.slow
@pytest.mark.parametrize(("version", "count"), [(1, 40), (2, 400)])
def test_one_wrong_bit_is_a_sentence_or_changes_nothing(tmp_path, version, count):
    path = tmp_path / "small.h5"
    small_file(path, version)
    used = [place for place in metadata(path) if path.read_bytes()[place]]  # where there is more to go wrong
    bits = [(place, bit) for place in used for bit in range(8)]
    outcome = try_flips(path, random.Random(4).sample(bits, count))
    assert not outcome.wrong and outcome.refused > count // 4


@pytest.mark.parametrize("name", ["keys", "sha256", "failures/keys", "failures/reasons", "features"])
def test_damage_within_any_array_of_version_1_is_a_sentence(tmp_path, name):
    """The process that reads it says so in the place of the array, however short that is."""
    path = tmp_path / "small.h5"
    small_file(path, 1)
    with h5py.File(path, "r", locking=False) as file:
        place = file[name].id.get_chunk_info(0).byte_offset
    damaged = bytearray(path.read_bytes())
    damaged[place] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DamagedFile, match="not a whole HDF5 file"):
        content(path)
