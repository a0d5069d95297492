"""Recipes, and a small store written once: neither changes by accident (a change needs another version number).

To write the store anew for a new version: git log of this file.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.cache.conftest import make_recipe
from twofold.cache.errors import CacheError
from twofold.cache.recipe import Recipe, differences
from twofold.cache.shards import assemble, file_state
from twofold.cache.store import Store
from twofold.cache.user_block import FORMAT_VERSION
from twofold.cache.verify import verify

STORE = Store(Path(__file__).parent / "store")
KEYS = [f"train/é {row:02d}.png" for row in range(9)]
FEATURES = (np.arange(27).reshape(9, 3) / 8).astype(np.float32)


def test_every_value_is_read():
    assert verify(STORE.path, deep=True).exit_code == 0
    for name, rows, dtype in (("tiny", 6, "float16"), ("tuned", 8, "float32")):
        file = STORE.find(f"timm:{name}")
        assert (file.header.format_version, file.header.checksum_rows) == (FORMAT_VERSION, 256)
        assert file.recipe.dtype == dtype
        assert file.keys.tolist() == KEYS[:rows] and file.failures == {KEYS[8]: "not an image"}
        assert file.sha256.tolist() == [f"{row:064x}".encode() for row in range(rows)]
        np.testing.assert_array_equal(file.read(), FEATURES[:rows])
        np.testing.assert_array_equal(file.read(KEYS[4:1:-1]), FEATURES[4:1:-1])


def test_the_classifier_and_its_training_samples_are_read():
    classifier = STORE.find("timm:tuned").classifier
    assert classifier.classes == ("anger", "fear")
    np.testing.assert_array_equal(classifier.weight, np.arange(6).reshape(3, 2) / 4)
    np.testing.assert_array_equal(classifier.bias, [0.5, -0.5])
    samples = classifier.training_samples
    assert samples.sha256.tolist()[1] == list(range(32, 64)) and samples.groups.tolist() == [[7] * 16]
    assert (samples.fold, samples.folds, samples.training_id) == (1, 5, "f" * 16)


def test_its_shards_go_into_the_finished_file(tmp_path):
    copy = Store(shutil.copytree(STORE.path, tmp_path / "store"))
    recipe = copy.find("timm:tiny").recipe
    state = file_state(copy, recipe)
    assert [shard.keys.tolist() for shard in state.shards] == [["gone.png"], KEYS[6:8]]
    file = assemble(copy, recipe, 3, KEYS)
    assert file.keys.tolist() == KEYS[:8]
    np.testing.assert_array_equal(file.read(), FEATURES[:8])
    assert file_state(copy, recipe).rows.place.keys() == {*KEYS[:8], "gone.png"}


def test_a_fingerprint_is_for_ever():
    """A change of what goes into a fingerprint orphans every cache in the world: it needs a new recipe version."""
    assert make_recipe().fingerprint == "351882886007dcdd"
    assert Recipe.from_json(make_recipe().canonical()) == make_recipe()


@pytest.mark.parametrize("change", [
    {"weights": "random:1"}, {"precision": "bf16"}, {"dtype": "float32"}, {"view": {"name": "flip"}},
    {"tap": "conv5"}, {"preprocessing": {"size": 33, "mean": [0.5, 0.5, 0.5]}}, {"decoder": "other"}])
def test_everything_that_changes_a_value_changes_the_fingerprint(change):
    assert make_recipe(**change).fingerprint != make_recipe().fingerprint


def test_differences_name_nested_fields():
    other = make_recipe(precision="bf16", preprocessing={"size": 64, "mean": [0.5, 0.5, 0.5]})
    assert differences(make_recipe(), other) == {"precision": ("fp32", "bf16"), "preprocessing.size": (32, 64)}


@pytest.mark.parametrize("text", [
    "", "[]", "3", '"x"', "{}", '{"version": 2}', '{"version": 1}', "[" * 100_000,
    *(json.dumps(json.loads(make_recipe().canonical()) | {field: value})
      for field in ("backbone", "weights", "preprocessing", "view", "precision", "dtype")
      for value in (None, 3, [1], *([] if field in ("backbone", "weights") else ["surprise"])))])
def test_what_is_no_recipe_is_refused(text):
    with pytest.raises(CacheError):
        Recipe.from_json(text)
