"""Verdicts on stores: sound, at fault, and what is worth a note."""

import hashlib
import json

import numpy as np
import pytest

from twofold.cache.feature_writer import write_feature_file
from twofold.cache.shards import Rows, publish_shard
from twofold.cache.store import Store
from twofold.cache.verify import verify


@pytest.fixture
def store(tmp_path, recipe):
    """A store of four faces with real image files below `faces/`."""
    made, root, how = Store(tmp_path / "store", new=True), tmp_path / "faces", recipe()
    made.path.mkdir()
    root.mkdir()
    keys = [f"{row}.jpg" for row in range(4)]
    for key in keys:
        (root / key).write_bytes(key.encode())
    write_feature_file(made.path_of(how), recipe=how, dim=2, keys=keys, failures={"bad.jpg": "not an image"},
                      sha256=[hashlib.sha256(key.encode()).hexdigest() for key in keys],
                      features=np.arange(8.0).reshape(4, 2))
    made.manifest_path.write_text("key\n" + "\n".join([*keys, "bad.jpg"]) + "\n")
    return made


def test_a_sound_store(cli, store):
    done = cli("cache", "verify", str(store.path), "--deep", "--root", str(store.path.parent / "faces"))
    assert done.returncode == 0 and done.stdout.startswith("sound    timm-tiny.original") and "note" not in done.stdout
    assert "4 samples, 1 failed" in done.stdout


def test_a_changed_byte_is_at_fault(cli, store):
    (file,) = store.files()
    content = bytearray(file.path.read_bytes())
    place = content.index(np.float16(7).tobytes(), content.index(np.float16([5, 6]).tobytes()))
    content[place + 1] ^= 1
    file.path.write_bytes(content)
    done = cli("cache", "verify", str(store.path), "--json")
    (verdict,) = json.loads(done.stdout)["files"]
    assert done.returncode == 1 and not verdict["sound"] and "do not read back" in verdict["fault"]


def test_images_that_changed_or_went(cli, store):
    root = store.path.parent / "faces"
    (root / "1.jpg").write_bytes(b"another")
    (root / "2.jpg").unlink()
    done = cli("cache", "verify", str(store.path), "--root", str(root))
    assert done.returncode == 1
    assert "1 images have changed since (the first is 1.jpg) and 1 images are not below --root (the first is 2.jpg)" \
        in done.stdout and "--recheck" in done.stdout
    done = cli("cache", "verify", str(store.path), "--root", str(root / "nowhere"))
    assert done.returncode == 2 and "no such folder" in done.stderr


def test_faces_only_the_manifest_has_or_only_the_file_are_noted(store):
    store.manifest_path.write_text("key\n0.jpg\n1.jpg\n2.jpg\nnew1.jpg\nnew2.jpg\n")
    report = verify(store.path)
    assert report.exit_code == 0
    assert report.files[0].notes == ("2 samples of the manifest are not in it (`extract` continues)",
                                        "1 of its samples are not in the manifest")


def test_deep_notes_equal_rows_and_numbers_that_never_vary(store, recipe):
    how = recipe(backbone="timm:stuck")
    write_feature_file(store.path_of(how), recipe=how, dim=3, keys=list("abcd"), failures={},
                      sha256=[one * 64 for one in "0011"],
                      features=np.array([[1, 2, 0], [1, 2, 0], [1, 3, 0], [1, 2, 0]], float))
    notes = {verdict.file.split(".")[0]: verdict.notes for verdict in verify(store.path, deep=True).files}
    assert notes["timm-tiny"] == ()
    assert notes["timm-stuck"][-2].startswith("1 rows equal another row though their images differ")
    assert notes["timm-stuck"][-1] == "2 of its 3 numbers are the same for every sample"


def test_a_damaged_part_is_named(store, recipe):
    path = publish_shard(store, recipe(), 2, Rows(keys=["new.jpg"], sha256=["0" * 64], features=np.ones((1, 2))))
    path.write_bytes(path.read_bytes()[:1000])
    report = verify(store.path)
    assert report.exit_code == 1 and [verdict.sound for verdict in report.files] == [True, False]
    assert report.files[1].file.startswith(".shards/")


def test_one_file_and_an_empty_folder(store, tmp_path):
    (file,) = store.files()
    assert verify(file.path).files[0].sound
    (tmp_path / "empty").mkdir()
    assert "no feature files" in verify(tmp_path / "empty").text()
