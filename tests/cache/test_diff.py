"""Two files or stores compared."""

import json
import shutil

import numpy as np
import pytest

from tests.cache.conftest import make_recipe, put
from twofold.cache.diff import diff
from twofold.cache.errors import CacheError
from twofold.cache.store import Store


def test_equal_files(write, tmp_path):
    path, _ = write()
    shutil.copy(path, tmp_path / "copy.h5")
    found = diff(path, tmp_path / "copy.h5")
    (file,) = found.values["files"]
    assert (file["recipe"], file["only_a"], file["only_b"], file["common"]) == ({}, [], [], 700)
    assert file["values"] == {"equal": 700, "largest": 0, "mean_cosine": 1, "least_cosine": 1,
                              "least_key": "train/é 0000.jpg"}
    assert "all values are equal" in found.text() and "the same recipe" in found.text()


def test_what_differs_is_said_face_by_face(tmp_path):
    values = np.eye(4, dtype=np.float32)
    turned = values.copy()
    turned[2] = [0, 0, 0.6, 0.8]
    a = put(tmp_path / "a.h5", values, sha256=["0" * 64] * 4, failures={"y": "missing file"}, dtype="float32")
    b = put(tmp_path / "b.h5", turned[[1, 2, 3, 0]], keys="bcdz", sha256=[one * 64 for one in "0100"], dtype="float32",
            failures={"y": "not an image", "w": "empty"}, preprocessing={"size": 64, "mean": [0.5, 0.5, 0.5]})
    found = diff(a, b)
    (file,) = found.values["files"]
    assert file["recipe"] == {"preprocessing.size": (32, 64)}
    assert (file["only_a"], file["only_b"], file["changed_images"], file["common"]) == (["a"], ["z"], ["c"], 3)
    assert file["failures"] == {"y": ("missing file", "not an image"), "w": ("", "empty")}
    assert file["values"] == {"equal": 2, "largest": pytest.approx(0.8), "mean_cosine": pytest.approx(2.6 / 3),
                              "least_cosine": pytest.approx(0.6), "least_key": "c"}
    assert "1 samples of another image (the first is c)" in found.text() and "0.600000 at the least (c)" in found.text()


def test_lengths_that_cannot_be_compared(write, tmp_path):
    found = diff(write(tmp_path / "a.h5", dim=3)[0], write(tmp_path / "b.h5", dim=4)[0])
    assert found.values["files"][0]["values"] is None and "different lengths" in found.text()


def test_stores_pair_by_recipe_then_by_backbone(cli, write, tmp_path):
    stores = [Store(tmp_path / name, new=True) for name in "ab"]
    for store, changes in zip(stores, ([{}, {"precision": "bf16"}, {"backbone": "timm:only-a"}],
                                       [{"precision": "bf16"}, {"precision": "fp16"}]), strict=True):
        store.path.mkdir()
        for change in changes:
            write(store.path_of(make_recipe(**change)), **change)
    done = cli("cache", "diff", str(stores[0].path), str(stores[1].path), "--json")
    found = json.loads(done.stdout)
    assert [file["recipe"] for file in found["files"]] == [{}, {"precision": ["fp32", "fp16"]}]
    assert [name.split(".")[0] for name in found["only_a"]] == ["timm-only-a"] and found["only_b"] == []
    said = cli("cache", "diff", str(stores[0].path), str(stores[1].path)).stdout
    assert said.endswith(f"only in A: {found['only_a'][0]}\n")


def test_a_store_against_a_file(write, tmp_path):
    path, _ = write()
    with pytest.raises(CacheError, match="two stores, or two feature files"):
        diff(path, tmp_path)
