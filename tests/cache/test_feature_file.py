import pickle
import resource
import shutil

import h5py
import numpy as np
import pytest

from twofold.cache.errors import CacheError, DamagedFile, FileGone
from twofold.cache.feature_file import FeatureFile, first_non_finite_row
from twofold.cache.feature_writer import write_feature_file


def offset_of(path):
    """Of the features, as HDF5 tells it."""
    with h5py.File(path) as file:
        return file["features"].id.get_offset()


def test_what_was_written_is_read(write):
    path, features = write()
    file = FeatureFile(path)
    assert (file.rows, file.dim, file.failed, file.backbone, file.view) == (700, 6, 1, "timm:tiny", "original")
    assert file.keys[3] == "train/é 0003.jpg"
    assert file.sha256[3] == b"%064x" % 3
    assert file.failures == {"train/bad.jpg": "not an image"}
    np.testing.assert_array_equal(file.read(dtype=np.float16), features)
    assert file.read().dtype == np.float32
    np.testing.assert_array_equal(file.read(), features.astype(np.float32))


def test_rows_come_in_the_order_of_the_keys_asked_for(write):
    path, features = write()
    rows = np.random.default_rng(1).integers(0, 700, 300)  # repeats included
    file = FeatureFile(path)
    np.testing.assert_array_equal(file.read([file.keys[row] for row in rows]), features[rows].astype(np.float32))
    assert file.read([]).shape == (0, 6)
    with pytest.raises(KeyError):
        file.read(["nobody.jpg"])


def test_it_pickles_before_and_after_use(write):
    path, features = write()
    file = FeatureFile(path)
    file.read()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(file)).read(dtype=np.float16), features)


def test_a_file_that_is_replaced_is_not_read_in_the_old_ones_order(write, tmp_path):
    path, features = write()
    file, copy = FeatureFile(path), tmp_path / "copy.h5"
    np.testing.assert_array_equal(file.read([file.keys[9]], dtype=np.float16), features[[9]])
    shutil.copy(path, copy)
    copy.replace(path)  # the same content in a new file: what a network file system may also seem to give
    np.testing.assert_array_equal(file.read(dtype=np.float16), features)
    write(copy, rows=699)
    copy.replace(path)
    with pytest.raises(FileGone, match="replaced by another process"):
        file.read([file.keys[9]])
    assert FeatureFile(path).rows == 699


def test_any_hdf5_reader_finds_the_contract(write):
    path, features = write()
    with h5py.File(path) as file:
        assert file["features"].chunks is None and not file["features"].fletcher32  # one piece, as it stands in memory
        assert file["features"].dtype == np.float16 and file["features"].id.get_offset() % 64 == 0
        np.testing.assert_array_equal(file["features"][...], features)
        assert file["keys"].asstr()[0] == "train/é 0000.jpg"
        assert file["sha256"].asstr()[1] == f"{1:064x}"
        assert list(file["failures/keys"].asstr()) == ["train/bad.jpg"]
        assert list(file["failures/reasons"].asstr()) == ["not an image"]
        assert file.attrs["format"] == b"twofold-features" and file.attrs["format_version"] == 3
        assert {"backbone", "view", "dim", "recipe", "fingerprint", "created", "software"} <= set(file.attrs)
    assert b"GCOL" not in path.read_bytes()  # HDF5's heap for texts of any length: one wrong bit makes readers hang


def test_a_block_in_another_place_or_of_another_file_is_no_block(write, tmp_path):
    path, features = write()
    other, _ = write(tmp_path / "other.h5", backbone="timm:other")
    content, place = path.read_bytes(), offset_of(path)
    size = 256 * features.strides[0]
    first, second = content[place:place + size], content[place + size:place + 2 * size]
    start = offset_of(other)
    stranger = other.read_bytes()[start:start + size]
    for damage in (content[:place] + second + first + content[place + 2 * size:],
                   content[:place + size] + stranger + content[place + 2 * size:]):
        path.write_bytes(damage)
        with pytest.raises(DamagedFile, match="do not read back"):
            FeatureFile(path).check()


@pytest.mark.parametrize("rows", [0, 1, 256, 257])
def test_sizes_at_the_edges(write, rows):
    path, features = write(rows=rows, failures={})
    file = FeatureFile(path)
    np.testing.assert_array_equal(file.read(dtype=np.float16), features)
    file.check()


@pytest.mark.parametrize("key", ["/etc/x", "../a.jpg", "a/../b.jpg", "a/..", "./a.jpg", "a//b.jpg", "", "a\\b.jpg"])
def test_keys_that_could_leave_their_root_are_neither_written_nor_read(tmp_path, recipe, key):
    with pytest.raises(CacheError, match="relative path"):
        write_feature_file(tmp_path / "x.h5", recipe=recipe(), dim=2, keys=["a.jpg", key], sha256=["0" * 64] * 2,
                          features=np.zeros((2, 2)), failures={})


def test_harmless_dots_in_keys_are_fine(tmp_path, recipe):
    keys = ["..a/b..c.jpg", "a/...jpg", ".hidden/x.jpg", "a./b.jpg"]
    write_feature_file(tmp_path / "x.h5", recipe=recipe(), dim=1, keys=keys, sha256=["0" * 64] * 4,
                      features=np.zeros((4, 1)), failures={})
    assert FeatureFile(tmp_path / "x.h5").keys.tolist() == keys


def test_duplicate_keys_are_refused(tmp_path, recipe):
    with pytest.raises(CacheError, match="twice"):
        write_feature_file(tmp_path / "x.h5", recipe=recipe(), dim=1, keys=["a", "a"], sha256=["0" * 64] * 2,
                          features=np.zeros((2, 1)), failures={})


@pytest.mark.parametrize("blocks", [[np.zeros((1, 2))], [np.zeros((2, 2)), np.zeros((2, 2))]])
def test_rows_that_do_not_add_up_are_refused(tmp_path, recipe, blocks):
    with pytest.raises(CacheError):
        write_feature_file(tmp_path / "x.h5", recipe=recipe(), dim=2, keys=["a", "b", "c"], sha256=["0" * 64] * 3,
                          features=blocks, failures={})


def test_what_is_no_number_is_not_written(tmp_path, recipe):
    for wrong in (np.nan, np.inf, 1e6):  # the last does not fit into float16
        with pytest.raises(CacheError, match="'b' are not finite"):
            write_feature_file(tmp_path / "x.h5", recipe=recipe(), dim=1, keys=["a", "b"], sha256=["0" * 64] * 2,
                              features=np.array([[1.0], [wrong]]), failures={})


def test_a_key_that_is_too_long_is_refused_with_a_sentence(tmp_path, recipe):
    with pytest.raises(CacheError, match="has 4100 bytes; 4096 is the most"):
        write_feature_file(tmp_path / "x.h5", recipe=recipe(), dim=1, keys=["é" * 2050], sha256=["0" * 64],
                          features=np.zeros((1, 1)), failures={})
    write_feature_file(tmp_path / "x.h5", recipe=recipe(), dim=1, keys=["é" * 2048], sha256=["0" * 64],
                      features=np.zeros((1, 1)), failures={"b": "é" * 3000})
    assert FeatureFile(tmp_path / "x.h5").failures == {"b": "é" * 2048}


def test_trouble_of_the_machine_is_no_damage(write):
    path, _ = write()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert FeatureFile(path).rows == 700
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            FeatureFile(path).check()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    FeatureFile(path).check()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_only_infinities_and_nans_are_non_finite(dtype):
    every_half = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(dtype)
    found = [first_non_finite_row(np.full((1, 1), value)) == 0 for value in every_half]
    assert found == (~np.isfinite(every_half)).tolist()


def test_the_first_non_finite_row_counts():
    rows = np.zeros((5, 3), np.float16)
    assert first_non_finite_row(rows) is None and first_non_finite_row(rows[:0]) is None
    rows[2, 1], rows[4, 0] = -np.inf, np.nan
    assert first_non_finite_row(rows) == 2 and first_non_finite_row(rows[:, ::2]) == 4
