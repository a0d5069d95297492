"""Stores into one: what is united, and every contradiction that is refused."""

import numpy as np
import pytest

from tests.cache.conftest import put
from twofold.cache.classifier import BackboneClassifier
from twofold.cache.errors import CacheError, DamagedFile
from twofold.cache.feature_file import FeatureFile
from twofold.cache.merge import merge
from twofold.cache.shards import Rows, publish_shard
from twofold.cache.store import Store

VALUES = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)
KEYS = [f"{row}.jpg" for row in range(10)]


@pytest.fixture
def store(tmp_path, recipe):
    """Make a store of some rows of VALUES under a recipe; more changes replace what it holds."""

    def make(name, rows, *, values=VALUES, sha=None, failures=None, classifier=None, **changes):
        made = Store(tmp_path / name, new=True)
        made.path.mkdir(exist_ok=True)
        put(made.path_of(recipe(dtype="float32", **changes)), values[list(rows)], keys=[KEYS[row] for row in rows],
            sha256=[sha or f"{row:064x}" for row in rows], failures=failures, classifier=classifier, dtype="float32",
            **changes)
        return made

    return make


def only(store: Store) -> FeatureFile:
    (file,) = store.files()
    return file


def test_faces_of_one_recipe_become_one_file_in_the_order_of_the_manifest(store, tmp_path):
    a, b = store("a", range(0, 6), failures={"8.jpg": "not an image"}), store("b", (9, 5, 4, 7))
    out = Store(tmp_path / "c", new=True)
    made = merge([a, b], out, KEYS)
    file = only(out)
    assert file.keys.tolist() == [f"{row}.jpg" for row in (0, 1, 2, 3, 4, 5, 7, 9)]
    np.testing.assert_array_equal(file.read(), VALUES[[0, 1, 2, 3, 4, 5, 7, 9]])
    assert file.sha256[7] == b"%064x" % 9 and file.failures == {"8.jpg": "not an image"}
    assert "8 samples, 1 failed, sources: 2, 1 to be extracted" in made.text()


def test_other_backbones_and_recipes_stand_side_by_side(store, tmp_path):
    a = store("a", range(10))
    b = store("b", range(10), backbone="timm:other")
    store("b", range(10), precision="bf16")
    out = Store(tmp_path / "c", new=True)
    merge([a, b], out, KEYS)
    assert sorted(file.path.name for file in out.files()) == sorted(
        file.path.name for one in (a, b) for file in one.files())


def test_unfinished_shards_are_taken_in(store, recipe, tmp_path):
    a, how = store("a", range(0, 3)), recipe(dtype="float32")
    for rows in ((3, 4), (5, 6)):
        publish_shard(a, how, 4, Rows(keys=[KEYS[row] for row in rows], sha256=["0" * 64] * 2,
                                     features=VALUES[list(rows)]))
    out = Store(tmp_path / "c", new=True)
    merge([a, store("b", range(7, 10))], out, KEYS)
    np.testing.assert_array_equal(only(out).read(), VALUES)
    assert len(a.shards()) == 2 and not out.shards()


def test_another_image_under_one_key_is_named(store, tmp_path):
    a, b = store("a", range(0, 6)), store("b", (5,), sha="f" * 64)
    out = Store(tmp_path / "c", new=True)
    with pytest.raises(CacheError, match=r"a/.* and .*b/.* different images of '5\.jpg'"):
        merge([a, b], out, KEYS)
    assert not out.path.exists()


def test_another_value_under_one_key_is_named_and_rounding_is_not(store, tmp_path):
    a = store("a", range(0, 6))
    wrong = VALUES.copy()
    wrong[4, 2] += 0.1
    with pytest.raises(CacheError, match=r"different values for '4\.jpg'"):
        merge([a, store("b", range(3, 8), values=wrong)], Store(tmp_path / "c", new=True), KEYS)
    out = Store(tmp_path / "c", new=True)
    merge([a, store("b", range(3, 8), values=VALUES * 1.0001)], out, KEYS)
    np.testing.assert_array_equal(only(out).read(KEYS[:6]), VALUES[:6])  # the first store's


def test_merging_again_and_into_one_of_them(store, tmp_path):
    a, b = store("a", range(0, 6)), store("b", range(6, 10))
    out = Store(tmp_path / "c", new=True)
    merge([a, b], out, KEYS)
    before = only(out).path.stat().st_mtime_ns
    merge([a, b], out, KEYS)
    assert only(out).path.stat().st_mtime_ns == before  # nothing to do
    merge([a, b], a, KEYS)
    np.testing.assert_array_equal(only(a).read(), VALUES)


def test_the_classifier_comes_along_from_whichever_file_has_it(store, tmp_path):
    classifier = BackboneClassifier(("x", "y"), np.eye(4, 2, dtype=np.float32), np.array([1, 2], np.float32))
    a, b = store("a", range(0, 6)), store("b", range(6, 10), classifier=classifier)
    for name, stores in (("c", [a, b]), ("d", [b, a])):
        out = Store(tmp_path / name, new=True)
        merge(stores, out, KEYS)
        assert only(out).classifier.equals(classifier)
    merge([b], a, KEYS[:6])  # it has all rows already, and gets the classifier
    assert only(a).classifier.equals(classifier) and only(a).rows == 6


@pytest.mark.parametrize("other", [
    BackboneClassifier(("y", "x"), np.ones((4, 2), np.float32), np.zeros(2, np.float32)),
    BackboneClassifier(("x", "y"), np.zeros((4, 2), np.float32), np.zeros(2, np.float32))])
def test_different_classifiers_stop_it_before_anything_is_written(store, tmp_path, other):
    a = store("a", range(0, 6), classifier=BackboneClassifier(("x", "y"), np.ones((4, 2), np.float32),
                                                         np.zeros(2, np.float32)))
    with pytest.raises(CacheError, match="carry different classifiers"):
        merge([a, store("b", range(6, 10), classifier=other)], Store(tmp_path / "c", new=True), KEYS)
    assert not (tmp_path / "c").exists()


def test_a_damaged_file_stops_it_before_anything_is_written(store, tmp_path):
    a, b = store("a", range(0, 6)), store("b", range(6, 10))
    path = only(b).path
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DamagedFile):
        merge([a, b], Store(tmp_path / "c", new=True), KEYS)
    assert not (tmp_path / "c").exists()


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
