"""Stores into one: what is united, and every contradiction that is refused."""

import os

import numpy as np
import pytest

from tests.cache.conftest import make_recipe, put
from twofold.cache.classifier import BackboneClassifier
from twofold.cache.errors import CacheError, DamagedFile
from twofold.cache.feature_file import FeatureFile
from twofold.cache.merge import merge
from twofold.cache.shards import Rows, publish_shard
from twofold.cache.store import Store

VALUES = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)
KEYS = [f"{row}.jpg" for row in range(10)]


@pytest.fixture
def store(tmp_path):
    """Make a store of some rows of VALUES under a recipe; more changes replace what it holds."""

    def make(name, rows, *, values=VALUES, sha=None, failures=None, classifier=None, **changes):
        made = Store(tmp_path / name, new=True)
        made.path.mkdir(exist_ok=True)
        put(made.path_of(make_recipe(dtype="float32", **changes)), values[list(rows)], keys=[KEYS[row] for row in rows],
            sha256=[sha or f"{row:064x}" for row in rows], failures=failures, classifier=classifier, dtype="float32",
            **changes)
        return made

    return make


@pytest.fixture
def out(tmp_path):
    return Store(tmp_path / "c", new=True)


def only(store: Store) -> FeatureFile:
    (file,) = store.files()
    return file


def test_faces_of_one_recipe_become_one_file_in_the_order_of_the_manifest(store, out):
    a, b = store("a", range(0, 6), failures={"8.jpg": "not an image"}), store("b", (9, 5, 4, 7))
    made = merge([a, b], out, KEYS)
    file, rows = only(out), [0, 1, 2, 3, 4, 5, 7, 9]
    assert file.keys.tolist() == [f"{row}.jpg" for row in rows]
    np.testing.assert_array_equal(file.read(), VALUES[rows])
    assert file.sha256[7] == b"%064x" % 9 and file.failures == {"8.jpg": "not an image"}
    assert "8 samples, 1 failed, sources: 2, 1 to be extracted" in made.text()


def test_other_backbones_and_recipes_stand_side_by_side(store, out):
    store("b", range(10), backbone="timm:other")
    merge([store("a", range(10)), store("b", range(10), precision="bf16")], out, KEYS)
    assert sorted((file.backbone, file.recipe.precision) for file in out.files()) == [
        ("timm:other", "fp32"), ("timm:tiny", "bf16"), ("timm:tiny", "fp32")]


def test_shards_of_unfinished_work_come_along(store, out):
    a = store("a", range(0, 3))
    for rows in ([3, 4], [5, 6]):
        publish_shard(a, make_recipe(dtype="float32"), 4, Rows(
            keys=[KEYS[row] for row in rows], sha256=["0" * 64] * 2, features=VALUES[rows]))
    merge([a, store("b", range(7, 10))], out, KEYS)
    np.testing.assert_array_equal(only(out).read(), VALUES)
    assert len(a.shards()) == 2 and not out.shards()


def classifier(classes=("x", "y"), weight=1.0):
    return BackboneClassifier(classes, np.full((4, 2), weight, np.float32), np.zeros(2, np.float32))


def wrong(values):
    values = values.copy()
    values[4, 2] += 0.1
    return values


@pytest.mark.parametrize(("rows", "changes", "said"), [
    ((5,), {"sha": "f" * 64}, r"a/.* and .*b/.* different images of '5\.jpg'"),
    (range(3, 8), {"values": wrong(VALUES)}, r"different values for '4\.jpg'"),
    (range(6, 10), {"classifier": classifier(("y", "x"))}, "carry different classifiers"),
    (range(6, 10), {"classifier": classifier(weight=0.0)}, "carry different classifiers")])
def test_contradictions_are_named_before_anything_is_written(store, out, rows, changes, said):
    with pytest.raises(CacheError, match=said):
        merge([store("a", range(0, 6), classifier=classifier()), store("b", rows, **changes)], out, KEYS)
    assert not out.path.exists()


def test_rounding_is_no_contradiction(store, out):
    merge([store("a", range(0, 6)), store("b", range(3, 8), values=VALUES * 1.0001)], out, KEYS)
    np.testing.assert_array_equal(only(out).read(KEYS[:6]), VALUES[:6])  # the first store's


def test_merging_again_and_into_one_of_them(store, out):
    a, b = store("a", range(0, 6)), store("b", range(6, 10))
    merge([a, b], out, KEYS)
    before = only(out).path.stat().st_mtime_ns
    merge([a, b], out, KEYS)
    assert only(out).path.stat().st_mtime_ns == before  # nothing to do
    merge([a, b], a, KEYS)
    np.testing.assert_array_equal(only(a).read(), VALUES)


def test_the_classifier_comes_along_from_whichever_file_has_it(store, tmp_path):
    a, b = store("a", range(0, 6)), store("b", range(6, 10), classifier=classifier())
    for name, stores in (("c", [a, b]), ("d", [b, a])):
        out = Store(tmp_path / name, new=True)
        merge(stores, out, KEYS)
        assert only(out).classifier.equals(classifier())
    merge([b], a, KEYS[:6])  # it has all rows already, and gets the classifier
    assert only(a).classifier.equals(classifier()) and only(a).rows == 6


def test_a_damaged_file_stops_it_before_anything_is_written(store, out):
    a, b = store("a", range(0, 6)), store("b", range(6, 10))
    os.truncate(only(b).path, only(b).path.stat().st_size - 200)
    with pytest.raises(DamagedFile):
        merge([a, b], out, KEYS)
    assert not out.path.exists()


def test_the_verb(cli, store, tmp_path):
    a, b = store("a", range(0, 6)), store("b", range(6, 10), backbone="timm:other")
    a.manifest_path.write_text("key,split,basic\n" + "".join(f"{key},train,\n" for key in KEYS[:6]))
    b.manifest_path.write_text("key,basic\n" + "".join(f"{key},fear\n" for key in KEYS[5:]))
    done = cli("cache", "merge", str(a.path), str(b.path), "-o", str(tmp_path / "c"))
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "c" / "manifest.csv").read_text().splitlines()
    assert lines[0].startswith("key,split,basic") and len(lines) == 11
    assert lines[6].startswith("5.jpg,train,fear,")
    b.manifest_path.write_text("key,split\n5.jpg,test\n6.jpg,train\n")
    done = cli("cache", "merge", str(a.path), str(b.path), "-o", str(tmp_path / "d"))
    assert done.returncode == 2 and "'split' of '5.jpg' is 'train' in one and 'test' in the other" in done.stderr
    assert not (tmp_path / "d").exists()
    done = cli("cache", "merge", str(a.path), str(tmp_path / "nowhere"), "-o", str(tmp_path / "d"))
    assert done.returncode == 2 and "no such store" in done.stderr
