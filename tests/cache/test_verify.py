"""Verdicts on stores: sound, at fault, and what is worth a note."""

import hashlib
import json

import numpy as np
import pytest

from tests.cache.conftest import make_recipe, put
from twofold.cache.shards import Rows, publish_shard
from twofold.cache.store import Store
from twofold.cache.verify import verify


@pytest.fixture
def store(tmp_path):
    """A store of four faces with real image files below `faces/`."""
    made, root = Store(tmp_path / "store", new=True), tmp_path / "faces"
    made.path.mkdir()
    root.mkdir()
    keys = [f"{row}.jpg" for row in range(4)]
    for key in keys:
        (root / key).write_bytes(key.encode())
    put(made.path_of(make_recipe()), np.arange(8.0).reshape(4, 2), keys=keys, failures={"bad.jpg": "not an image"},
        sha256=[hashlib.sha256(key.encode()).hexdigest() for key in keys])
    made.manifest_path.write_text("key\n" + "\n".join([*keys, "bad.jpg"]) + "\n")
    return made


def test_a_sound_store(cli, store):
    done = cli("cache", "verify", store.path, "--deep", "--root", store.path.parent / "faces")
    assert done.returncode == 0 and done.stdout.startswith("sound    timm-tiny.original") and "note" not in done.stdout
    assert "4 samples, 1 failed" in done.stdout


def test_a_changed_byte_is_at_fault(cli, store):
    (file,) = store.files()
    content = bytearray(file.path.read_bytes())
    place = content.index(np.float16(7).tobytes(), content.index(np.float16([5, 6]).tobytes()))
    content[place + 1] ^= 1
    file.path.write_bytes(content)
    done = cli("cache", "verify", store.path, "--json")
    (verdict,) = json.loads(done.stdout)["files"]
    assert done.returncode == 1 and not verdict["sound"] and "do not read back" in verdict["fault"]


def test_images_that_changed_or_went(cli, store):
    root = store.path.parent / "faces"
    (root / "1.jpg").write_bytes(b"another")
    (root / "2.jpg").unlink()
    done = cli("cache", "verify", store.path, "--root", root)
    assert done.returncode == 1
    assert "1 images have changed since (the first is 1.jpg) and 1 images are not below --root (the first is 2.jpg)" \
        in done.stdout and "--recheck" in done.stdout
    done = cli("cache", "verify", store.path, "--root", root / "nowhere")
    assert done.returncode == 2 and "no such folder" in done.stderr


def test_notes(store):
    """Samples that only the manifest has or only the file; equal rows and numbers that never vary."""
    store.manifest_path.write_text("key\n0.jpg\n1.jpg\n2.jpg\nnew1.jpg\nnew2.jpg\n")
    put(store.path_of(make_recipe(backbone="timm:stuck")), [[1., 2, 0], [1, 2, 0], [1, 3, 0], [1, 2, 0]],
        sha256=[one * 64 for one in "0011"], backbone="timm:stuck")
    report = verify(store.path, deep=True)
    notes = {file["file"].split(".")[0]: file["notes"] for file in report.values["files"]}
    assert report.exit_code == 0
    assert notes["timm-tiny"] == ["2 samples of the manifest are not in it (`extract` continues)",
                                  "1 of its samples are not in the manifest"]
    assert notes["timm-stuck"][-2:] == ["1 rows equal another row though their images differ: look at them",
                                        "2 of its 3 numbers are the same for every sample"]


def test_a_damaged_shard_is_named(store):
    path = publish_shard(store, make_recipe(), 2, Rows(keys=["new.jpg"], sha256=["0" * 64], features=np.ones((1, 2))))
    path.write_bytes(path.read_bytes()[:1000])
    report = verify(store.path)
    assert report.exit_code == 1 and [file["sound"] for file in report.values["files"]] == [True, False]
    assert report.values["files"][1]["file"].startswith(".shards/")


def test_one_file_and_an_empty_folder(store, tmp_path):
    (file,) = store.files()
    assert verify(file.path).values["files"][0]["sound"]
    (tmp_path / "empty").mkdir()
    assert "no feature files" in verify(tmp_path / "empty").text()
