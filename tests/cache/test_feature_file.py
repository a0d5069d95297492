"""Feature files: what is written is read, or refused; as strangers or a disk might make them, they are refused with a
sentence, and nothing is allocated for them."""

import hashlib
import json
import os
import pickle
import resource
import shutil
import tracemalloc

import h5py
import numpy as np
import pytest

from tests.cache.conftest import put
from twofold.cache import feature_writer
from twofold.cache.errors import CacheError, DamagedFile, FileGone
from twofold.cache.feature_file import FeatureFile, first_non_finite_row
from twofold.cache.user_block import MAGIC, SEAL_BYTES


def test_what_was_written_is_read(write):
    path, features = write()
    file = FeatureFile(path)
    assert (file.rows, file.dim, file.failed, file.backbone, file.view) == (700, 6, 1, "timm:tiny", "original")
    assert file.keys[3] == "train/é 0003.jpg" and file.sha256[3] == b"%064x" % 3
    assert file.failures == {"train/bad.jpg": "not an image"}
    np.testing.assert_array_equal(file.read(dtype=np.float16), features)
    assert file.read().dtype == np.float32
    np.testing.assert_array_equal(file.read(), features.astype(np.float32))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(file)).read(dtype=np.float16), features)


def test_rows_come_in_the_order_of_the_keys_asked_for(write):
    path, features = write()
    rows = np.random.default_rng(1).integers(0, 700, 300)  # repeats included
    file = FeatureFile(path)
    np.testing.assert_array_equal(file.read([file.keys[row] for row in rows]), features[rows].astype(np.float32))
    assert file.read([]).shape == (0, 6)
    with pytest.raises(KeyError):
        file.read(["nobody.jpg"])


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
        assert file["keys"].asstr()[0] == "train/é 0000.jpg" and file["sha256"].asstr()[1] == f"{1:064x}"
        assert list(file["failures/keys"].asstr()) == ["train/bad.jpg"]
        assert list(file["failures/reasons"].asstr()) == ["not an image"]
        assert file.attrs["format"] == b"twofold-features" and file.attrs["format_version"] == 3
        assert {"backbone", "view", "dim", "recipe", "fingerprint", "created", "software"} <= set(file.attrs)
    assert b"GCOL" not in path.read_bytes()  # HDF5's heap for texts of any length: one wrong bit makes readers hang


def test_a_block_in_another_place_or_of_another_file_is_no_block(write, tmp_path):
    def split(path):
        with h5py.File(path) as file:
            place = file["features"].id.get_offset()
        content, size = path.read_bytes(), 256 * features.strides[0]
        return content[:place], content[place:place + size], content[place + size:place + 2 * size], \
            content[place + 2 * size:]

    path, features = write()
    before, first, second, after = split(path)
    stranger = split(write(tmp_path / "other.h5", backbone="timm:other")[0])[1]
    for damage in ((second, first), (first, stranger)):
        path.write_bytes(b"".join([before, *damage, after]))
        with pytest.raises(DamagedFile, match="do not read back"):
            FeatureFile(path).check()


@pytest.mark.parametrize("rows", [0, 1, 256, 257])
def test_sizes_at_the_edges(write, rows):
    path, features = write(rows=rows, failures={})
    file = FeatureFile(path)
    np.testing.assert_array_equal(file.read(dtype=np.float16), features)
    file.check()


@pytest.mark.parametrize(("features", "keys", "said"), [
    *((np.zeros((2, 1)), ["a.jpg", key], "relative path")
      for key in ("/etc/x", "../a.jpg", "a/../b.jpg", "a/..", "./a.jpg", "a//b.jpg", "", "a\\b.jpg")),
    (np.zeros((2, 1)), ["a", "a"], "twice"),
    (np.zeros((1, 2)), ["a", "b", "c"], "1 rows of features for 3 keys"),
    (np.zeros((4, 2)), ["a", "b", "c"], "4 rows of features for 3 keys"),
    *((np.array([[1.0], [wrong]]), ["a", "b"], "'b' are not finite")  # the last does not fit into float16
      for wrong in (np.nan, np.inf, 1e6)),
    (np.zeros((1, 1)), ["é" * 2050], "has 4100 bytes; 4096 is the most")])
def test_what_no_feature_file_may_hold_is_refused(tmp_path, features, keys, said):
    with pytest.raises(CacheError, match=said):
        put(tmp_path / "x.h5", features, keys=keys)


def test_harmless_dots_and_long_texts_are_fine(tmp_path):
    keys = ["..a/b..c.jpg", "a/...jpg", ".hidden/x.jpg", "a./b.jpg", "é" * 2048]
    file = FeatureFile(put(tmp_path / "x.h5", np.zeros((5, 1)), keys=keys, failures={"b": "é" * 3000}))
    assert file.keys.tolist() == keys and file.failures == {"b": "é" * 2048}


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
    rows = np.zeros((5, 3), dtype)
    assert first_non_finite_row(rows) is None and first_non_finite_row(rows[:0]) is None
    rows[2, 1], rows[4, 0] = -np.inf, np.nan
    assert first_non_finite_row(rows) == 2 and first_non_finite_row(rows[:, ::2]) == 4


# ------------------------------------------------------------------------------------------------ altered user blocks
def change(path, attack):
    """Alter the header and seal it again, as a stranger who knows the format would."""
    content = path.read_bytes()
    length = int(content[len(MAGIC):len(MAGIC) + 8])
    record = json.loads(content[SEAL_BYTES:SEAL_BYTES + length])
    text = attack(record)
    text = (json.dumps(record) if text is None else text).encode()
    line = MAGIC + f"{len(text):08d} {hashlib.sha256(text).hexdigest()}\n".encode()
    path.write_bytes((line + text).ljust(SEAL_BYTES + length) + content[SEAL_BYTES + max(len(text), length):])


def at(*place, value=None, delete=False):
    def attack(record):
        for name in place[:-1]:
            record = record[name]
        if delete:
            del record[place[-1]]
        else:
            record[place[-1]] = value
    return attack


def of_other_weights(record):
    recipe = json.loads(record["header"]["recipe"]) | {"weights": "sha256:" + "0" * 64}
    record["header"]["recipe"] = json.dumps(recipe, sort_keys=True, separators=(",", ":"))


def later_recipe(record):
    record["header"]["recipe"] = record["header"]["recipe"].replace('"version":1', '"version":2')


def terabytes_everywhere(record):
    for name in ("features", "keys", "sha256"):
        record["arrays"][name][1][0] = 1 << 34
    record["arrays"]["checksums"][1][0] = 1 << 26
    record["header"]["rows"] = 1 << 34


@pytest.mark.parametrize(("attack", "said"), [
    (at("header", "rows", value="700"), "`$.header.rows`"), (at("header", "rows", value=True), "`$.header.rows`"),
    (at("header", "rows", value=-1), "`$.header.rows`"), (at("header", "dim", value=1 << 30), "`$.header.dim`"),
    (at("header", "checksum_rows", value=0), "`$.header.checksum_rows`"),
    (at("header", "checksum_rows", value=255), "do not read back"),
    (at("header", "checksum_rows", value=1 << 20), "as the format does not store it"),
    (at("arrays", "features", value=[0, [700, 6], "<f2", ""]), "do not read back"),
    (terabytes_everywhere, "more than the file"),
    (at("arrays", "features", 1, value=[700, 7]), "as the format does not store it"),
    (at("arrays", "keys", 0, value=1 << 60), "more than the file"),
    (at("arrays", "keys", 0, value=-8), "`$.arrays[...]"), (at("arrays", "keys", 0, value="8"), "`$.arrays[...]"),
    (at("arrays", "keys", 0, value=10**30), "schema"), (at("arrays", "keys", 2, value="|O"), "`$.arrays[...]"),
    (at("arrays", "keys", 2, value="|S1000000000"), "`$.arrays[...]"),
    (at("arrays", "keys", 2, value="|S9999"), "is the most"),
    (at("arrays", "keys", 1, value=[7, 10, 10, 1]), "`$.arrays[...]"),
    (at("arrays", "keys", 1, value=[7, 10, 10]), "as the format does not store it"),
    (at("arrays", "keys", 3, value="0" * 32), "checksum of /keys"),
    (at("arrays", "notes", value=[0, [1], "|u1", ""]), "lacks or adds arrays"),
    (at("arrays", "keys", delete=True), "lacks or adds arrays"), (at("arrays", delete=True), "field `arrays`"),
    (at("arrays", value=[]), "`$.arrays`"), (at("header", "recipe", delete=True), "field `recipe`"),
    (at("header", "notes", value="x"), "unknown field `notes`"),
    (at("header", "recipe", value="[" * 30_000), "not a recipe"), (later_recipe, "recipe version 2"),
    (of_other_weights, "does not match its fingerprint"),
    (at("header", "backbone", value="vit_mae"), "not the recipe's"),
    (at("classifier", value={"classes": ["a"]}), "the classifier is incomplete"),
    (at("classifier", value="x"), "`$.classifier`"), (lambda record: "hello", "schema"), (lambda record: "7", "schema"),
    (lambda record: "[" * 900_000, "header"), (lambda record: "1" * 900_000, "schema")])
def test_an_altered_header_is_refused_in_a_sentence_and_in_little_memory(write, attack, said):
    path, _ = write(failures={})
    change(path, attack)
    tracemalloc.start()
    with pytest.raises(CacheError) as error:
        FeatureFile(path).check()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(error.value).startswith(str(path)) and said in str(error.value)
    assert len(str(error.value)) < 600 and peak < 50e6


def test_a_later_version_is_no_damage(write):
    path, _ = write()
    path.write_bytes(path.read_bytes().replace(MAGIC, MAGIC.replace(b"3", b"4"), 1))
    with pytest.raises(CacheError, match=r"version '4' is not .* update Twofold") as error:
        FeatureFile(path).check()
    assert not isinstance(error.value, DamagedFile)


def test_no_flipped_bit_of_the_file_is_believed(write):
    """Bits of the header, of the arrays and of HDF5's own tables; what is not told is the room left in the header."""
    path, _ = write(rows=3, dim=2)
    content = bytearray(path.read_bytes())
    used, start = SEAL_BYTES + int(content[len(MAGIC):len(MAGIC) + 8]), content.index(b"\x89HDF")
    for place in [*range(0, used, 7), *range(used, start, 101), *range(start, len(content), 41)]:
        bit = 1 << place % 8
        content[place] ^= bit
        path.write_bytes(content)
        content[place] ^= bit
        if used <= place < start:
            FeatureFile(path).check()
        else:
            with pytest.raises(DamagedFile):
                FeatureFile(path).check()


@pytest.mark.parametrize(("change", "said"), [
    (lambda content: content[:-1], "delete it"), (lambda content: content + b"\0", "delete it"),
    (lambda content: content[:3000], "delete it"), (lambda content: b"", "not a whole feature file"),
    (lambda content: content[content.index(b"\x89HDF"):], "without Twofold's user block"),  # so does h5repack
    (lambda content: b"PK\x03\x04", "not a whole feature file"),
    (lambda content: b"version https://git-lfs", "not a whole feature file")])
def test_what_is_no_whole_feature_file(write, change, said):
    path, _ = write()
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DamagedFile, match=said):
        _ = FeatureFile(path).rows


def test_a_folder_or_a_pipe_named_like_a_feature_file(cli, tmp_path):
    (tmp_path / "x.h5").mkdir()
    os.mkfifo(tmp_path / "y.h5")
    done = cli("cache", "ls", tmp_path)
    assert done.returncode == 0 and done.stdout.count("unreadable") == 2, done.stdout
    assert cli("cache", "verify", tmp_path).returncode == 1


def test_the_rows_of_a_checksum_are_those_of_the_file(write, monkeypatch, tmp_path):
    """A change of the constant does not make older files damaged."""
    path, features = write()
    monkeypatch.setattr(feature_writer, "CHECKSUM_ROWS", 100)
    other, _ = write(tmp_path / "other.h5")
    for each, size in ((path, 256), (other, 100)):
        file = FeatureFile(each)
        file.check()
        assert file.header.checksum_rows == size and [start for start, _ in file.blocks()][1] == size
        rows = np.array([699, 5, 250, 101, 5])
        np.testing.assert_array_equal(file.read_rows(rows, dtype=np.float16), features[rows])
        np.testing.assert_array_equal(file.read(dtype=np.float16), features)
