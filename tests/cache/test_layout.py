"""User blocks as a stranger, or a disk, might make them: refused with a sentence, and nothing is allocated for them."""

import hashlib
import json
import os
import tracemalloc

import numpy as np
import pytest

from twofold.cache import feature_writer
from twofold.cache.errors import CacheError, DamagedFile
from twofold.cache.feature_file import MAGIC, SEAL_BYTES, FeatureFile


def change(path, attack):
    """Alter the header and seal it again, as a stranger who knows the format would."""
    content = path.read_bytes()
    length = int(content[len(MAGIC):len(MAGIC) + 8])
    record = json.loads(content[SEAL_BYTES:SEAL_BYTES + length])
    text = attack(record)
    text = (json.dumps(record) if text is None else text).encode()
    line = MAGIC + f"{len(text):08d} {hashlib.sha256(text).hexdigest()}\n".encode()
    path.write_bytes((line + text).ljust(SEAL_BYTES + length) + content[SEAL_BYTES + max(len(text), length):])


def at(*place, value):
    def attack(record):
        for name in place[:-1]:
            record = record[name]
        record[place[-1]] = value
    return attack


def without(*place):
    def attack(record):
        for name in place[:-1]:
            record = record[name]
        del record[place[-1]]
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


ATTACKS = {
    "rows as text": (at("header", "rows", value="700"), "`$.header.rows`"),
    "rows as a truth": (at("header", "rows", value=True), "`$.header.rows`"),
    "negative rows": (at("header", "rows", value=-1), "`$.header.rows`"),
    "absurd width": (at("header", "dim", value=1 << 30), "`$.header.dim`"),
    "no rows in a block": (at("header", "checksum_rows", value=0), "`$.header.checksum_rows`"),
    "other rows in a block": (at("header", "checksum_rows", value=255), "do not read back"),
    "absurd rows in a block": (at("header", "checksum_rows", value=1 << 20), "as the format does not store it"),
    "terabytes": (at("arrays", "features", value=[0, [700, 6], "<f2", ""]), "do not read back"),
    "terabytes everywhere": (terabytes_everywhere, "more than the file"),
    "another shape": (at("arrays", "features", 1, value=[700, 7]), "as the format does not store it"),
    "far away": (at("arrays", "keys", 0, value=1 << 60), "more than the file"),
    "before the file": (at("arrays", "keys", 0, value=-8), "`$.arrays[...]"),
    "a place of text": (at("arrays", "keys", 0, value="8"), "`$.arrays[...]"),
    "a place of 30 digits": (at("arrays", "keys", 0, value=10**30), "schema"),
    "objects": (at("arrays", "keys", 2, value="|O"), "`$.arrays[...]"),
    "keys of absurd length": (at("arrays", "keys", 2, value="|S1000000000"), "`$.arrays[...]"),
    "keys too long": (at("arrays", "keys", 2, value="|S9999"), "is the most"),
    "three dimensions": (at("arrays", "keys", 1, value=[7, 10, 10]), "`$.arrays[...]"),
    "another checksum": (at("arrays", "keys", 3, value="0" * 32), "checksum of /keys"),
    "an array too many": (at("arrays", "notes", value=[0, [1], "|u1", ""]), "lacks or adds arrays"),
    "an array too few": (without("arrays", "keys"), "lacks or adds arrays"),
    "no arrays": (without("arrays"), "field `arrays`"),
    "arrays as a list": (at("arrays", value=[]), "`$.arrays`"),
    "no recipe": (without("header", "recipe"), "field `recipe`"),
    "a field too many": (at("header", "notes", value="x"), "unknown field `notes`"),
    "a recipe that is none": (at("header", "recipe", value="[" * 30_000), "not a recipe"),
    "a later recipe": (later_recipe, "recipe version 2"),
    "another recipe": (of_other_weights, "does not match its fingerprint"),
    "another backbone": (at("header", "backbone", value="vit_mae"), "not the recipe's"),
    "a classifier of nothing": (at("classifier", value={"classes": ["a"]}), "the classifier is incomplete"),
    "a classifier as text": (at("classifier", value="x"), "`$.classifier`"),
    "no JSON": (lambda record: "hello", "schema"),
    "a number alone": (lambda record: "7", "schema"),
    "too deep": (lambda record: "[" * 900_000, "header"),
    "a number of a million digits": (lambda record: "1" * 900_000, "schema"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_refused_in_a_sentence_and_in_little_memory(write, attack):
    path, _ = write(failures={})
    alter, expected = ATTACKS[attack]
    change(path, alter)
    tracemalloc.start()
    with pytest.raises(CacheError) as error:
        FeatureFile(path).check()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(error.value).startswith(str(path)) and expected in str(error.value)
    assert len(str(error.value)) < 600 and peak < 50e6


def test_a_later_version_is_no_damage(write):
    path, _ = write()
    path.write_bytes(path.read_bytes().replace(MAGIC, MAGIC.replace(b"3", b"4"), 1))
    with pytest.raises(CacheError, match=r"version '4' is not .* update Twofold") as error:
        FeatureFile(path).check()
    assert not isinstance(error.value, DamagedFile)


def test_what_another_program_has_rewritten_is_told_apart(write):
    """h5repack leaves the user block out."""
    path, _ = write()
    content = path.read_bytes()
    path.write_bytes(content[content.index(b"\x89HDF"):])
    with pytest.raises(DamagedFile, match="without Twofold's user block"):
        FeatureFile(path).check()


def test_no_flipped_bit_of_the_file_is_believed(write):
    """Bits of the header, of the arrays and of HDF5's own tables; what is not told is the room left in the header."""
    path, _ = write(rows=3, dim=2)
    content = bytearray(path.read_bytes())
    used, start = SEAL_BYTES + int(content[len(MAGIC):len(MAGIC) + 8]), content.index(b"\x89HDF")
    for place in [*range(0, used, 7), *range(used, start, 101), *range(start, len(content), 41)]:
        for bit in (0, 3, 7):
            content[place] ^= 1 << bit
            path.write_bytes(content)
            content[place] ^= 1 << bit
            if used <= place < start:
                FeatureFile(path).check()
            else:
                with pytest.raises(DamagedFile):
                    FeatureFile(path).check()


def test_a_file_that_is_cut_off_or_grown_is_damaged(write):
    path, _ = write()
    content = path.read_bytes()
    for other in (content[:-1], content + b"\0", content[:3000]):
        path.write_bytes(other)
        with pytest.raises(DamagedFile):
            _ = FeatureFile(path).rows


@pytest.mark.parametrize(("content", "sentence"), [
    (b"", "not a whole feature file"), (b"\x89HDF\r\n\x1a\n" + bytes(1000), "without Twofold's user block"),
    (b"PK\x03\x04", "not a whole feature file"), (b"version https://git-lfs", "not a whole feature file")])
def test_what_is_no_feature_file(tmp_path, content, sentence):
    (tmp_path / "x.h5").write_bytes(content)
    with pytest.raises(DamagedFile, match=sentence):
        FeatureFile(tmp_path / "x.h5").check()


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
