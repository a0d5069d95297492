import json

import pytest

from twofold.cache.errors import CacheError
from twofold.cache.recipe import Recipe, differences

GOLDEN = "351882886007dcdd"


def test_a_fingerprint_is_for_ever(recipe):
    """A change of what goes into a fingerprint orphans every cache in the world: it needs a new recipe version."""
    assert recipe().fingerprint == GOLDEN


def test_a_recipe_reads_back_equal(recipe):
    assert Recipe.from_json(recipe().canonical()) == recipe()


@pytest.mark.parametrize("change", [
    {"weights": "random:1"}, {"precision": "bf16"}, {"dtype": "float32"}, {"view": {"name": "flip"}},
    {"tap": "conv5"}, {"preprocessing": {"size": 33, "mean": [0.5, 0.5, 0.5]}}, {"decoder": "other"},
])
def test_everything_that_changes_a_value_changes_the_fingerprint(recipe, change):
    assert recipe(**change).fingerprint != recipe().fingerprint


def test_differences_name_nested_fields(recipe):
    other = recipe(precision="bf16", preprocessing={"size": 64, "mean": [0.5, 0.5, 0.5]})
    assert differences(recipe(), other) == {"precision": ("fp32", "bf16"), "preprocessing.size": (32, 64)}


@pytest.mark.parametrize("text", ["", "[]", "3", '"x"', "{}", '{"version": 2}', '{"version": 1}', "[" * 100_000])
def test_what_is_no_recipe_is_refused(text):
    with pytest.raises(CacheError):
        Recipe.from_json(text)


@pytest.mark.parametrize("field", ["backbone", "weights", "preprocessing", "view", "precision", "dtype"])
@pytest.mark.parametrize("value", [None, 3, [1], "surprise"])
def test_fields_of_the_wrong_kind_are_refused(recipe, field, value):
    record = json.loads(recipe().canonical()) | {field: value}
    if isinstance(value, str) and field in ("backbone", "weights"):
        assert Recipe.from_json(json.dumps(record)) == recipe(**{field: value})
    else:
        with pytest.raises(CacheError):
            Recipe.from_json(json.dumps(record))
