"""A store of each format version, written by the code of its time: what was readable once stays readable."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from twofold.cache.parts.assemble import assemble
from twofold.cache.parts.parts import file_state
from twofold.cache.store import Store
from twofold.cache.verify import verify

STORES = Path(__file__).parent / "stores"
KEYS = [f"train/é {row:02d}.png" for row in range(9)]
FEATURES = (np.arange(27).reshape(9, 3) / 8).astype(np.float32)


@pytest.fixture(params=["version1", "version2"])
def store(request):
    return Store(STORES / request.param)


def test_every_value_is_read(store):
    assert verify(store.path, deep=True).exit_code == 0
    tiny, other, taught = (store.find(f"timm:{name}") for name in ("tiny", "other", "taught"))
    assert {file.header["format_version"] for file in (tiny, other, taught)} == {int(store.path.name[-1])}
    for file, rows in ((tiny, 6), (other, 8), (taught, 8)):
        assert file.keys.tolist() == KEYS[:rows] and file.failures == {KEYS[8]: "not an image"}
        assert file.sha256.tolist() == [f"{row:064x}".encode() for row in range(rows)]
        np.testing.assert_array_equal(file.read(), FEATURES[:rows])
        np.testing.assert_array_equal(file.read(KEYS[4:1:-1]), FEATURES[4:1:-1])
        np.testing.assert_array_equal(file.mapped(), FEATURES[:rows])
    assert (other.recipe.dtype, tiny.recipe.dtype) == ("float32", "float16")
    assert other.recipe.preprocessing == {"size": 32, "mean": [0.5, 0.5, 0.5]}


def test_its_classifier_and_logits_are_read(store):
    classifier = store.find("timm:taught").classifier
    assert classifier.classes == ("anger", "fear") and classifier.taught.sha256.tolist()[1] == list(range(32, 64))
    assert (classifier.taught.fold, classifier.taught.folds, classifier.taught.training) == (1, 5, "f" * 16)
    assert classifier.taught.groups.tolist() == [[7] * 16]
    np.testing.assert_array_equal(classifier.weight, np.arange(6).reshape(3, 2) / 4)
    np.testing.assert_array_equal(classifier.bias, [0.5, -0.5])
    if store.path.name == "version1":  # before files carried their classifier
        classes, logits = store.find("timm:tiny").logits()
        assert classes == ("anger", "fear")
        np.testing.assert_array_equal(logits, FEATURES[:6, :2] * 2)


def test_its_parts_are_gone_on_with(store, tmp_path):
    shutil.copytree(store.path, tmp_path / "store")
    copy = Store(tmp_path / "store")
    recipe = copy.find("timm:tiny").recipe
    state = file_state(copy, recipe)
    assert [part.keys.tolist() for part in state.parts] == [KEYS[6:8]]
    assert [part.keys.tolist() for part in state.retired] == [["gone.png"]]
    file = assemble(copy, recipe, 3, KEYS)
    assert file.keys.tolist() == KEYS[:8] and file.header["format_version"] == 2
    np.testing.assert_array_equal(file.read(), FEATURES[:8])
    assert file_state(copy, recipe).rows.place.keys() == {*KEYS[:8], "gone.png"}
