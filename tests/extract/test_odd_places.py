"""Stores and faces in places where something is forbidden, missing, oddly named or changing."""

import csv
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from tests.extract.places import NETWORK
from twofold.cache.store import Store

ROOT = Path(__file__).resolve().parents[2]
PLACE = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else []),
         "setpriv", "--bounding-set", "-dac_override,-dac_read_search"]


def manifest(path: Path, keys: list[str]) -> Path:
    path.write_text("key\n" + "".join(f"{key}\n" for key in keys), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def results(drawn, tmp_path_factory):
    """What `places.py` has seen, by name: code, stdout, stderr."""
    if shutil.which("unshare") is None or shutil.which("setpriv") is None or subprocess.run(
            [*PLACE, "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    folder = tmp_path_factory.mktemp("places")
    (folder / "faces").mkdir()
    for number, path in enumerate(sorted(drawn.root.rglob("*.png"))[:6]):
        (folder / "faces" / f"{number}.png").write_bytes(path.read_bytes())
    manifest(folder / "few.csv", [f"{number}.png" for number in range(5)])
    manifest(folder / "all.csv", [f"{number}.png" for number in range(6)])
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run([*PLACE, sys.executable, str(Path(__file__).with_name("places.py")), str(folder)], text=True,
                          capture_output=True, timeout=400, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    assert not list(folder.glob("**/*.damaged")) and not list(folder.glob("**/.tmp-*"))
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(("code", "name", "said"), [
    (0, "few files and no shared memory", "5 computed"), (0, "verify", "sound"),
    (0, "read-only, complete", "nothing to compute"), (0, "read-only, ls", NETWORK), (0, "read-only, show", NETWORK),
    (0, "read-only, verify", "sound"), (0, "read-only, push", "SHA-256 verified"),
    (0, "as before", "nothing to compute"), (0, "permission is back", "1 computed"),
    (1, "no permission for an image", "Permission denied"),
    (2, "read-only, incomplete", "Read-only file system"), (2, "read-only, card", "cannot be written"),
    (2, "no permission for the file", ".h5: Permission denied"), (2, "no permission to write", "Permission denied"),
    (2, "no permission for the file, verify", ".h5: Permission denied"),
    (2, "no permission for the store", "not readable"), (2, "no permission for the store, ls", "store: Permission den"),
    (2, "no permission for the store, pull", "not readable"), (2, "no permission to push", "no permission")])
def test_it_works_or_says_in_one_sentence_what_is_in_the_way(results, code, name, said):
    ended, out, err = results[name]
    assert ended == code and "Traceback" not in err and (not out or code < 2), (out, err)
    assert said in (err.strip().splitlines()[-1] if code == 2 else out), (out, err)


NAMES = ["with space/a b.png", "quote'\"s.png", f"{'é' * 125}x.png", unicodedata.normalize("NFC", "Zoé.png"),
         unicodedata.normalize("NFD", "Zoé.png"), "Upper.png", "upper.png", "-dash.png", "#hash,comma;.png"]


def test_faces_and_folders_of_any_name(cli, extract, drawn, tmp_path):
    """Spaces, quotes, 255 bytes, both Unicode forms of one name, names that differ in case: each its own face."""
    assert len(NAMES[2].encode()) == 255
    root, store = tmp_path / "the faces, all 'of' them", tmp_path / "a store\u00a0é"
    for name, path in zip(NAMES, sorted(drawn.root.rglob("*.png")), strict=False):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(path.read_bytes())
    with (tmp_path / "my faces.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["key"], *([name] for name in NAMES)])
    extract(manifest=tmp_path / "my faces.csv", root=root, store=store)
    file = Store(store).find(NETWORK)
    assert file.keys.tolist() == NAMES and len({row.tobytes() for row in file.read()}) == len(NAMES)
    there, copy = tmp_path / "there \u00e9", tmp_path / "x y"
    for words in (("verify", store, "--root", root), ("push", store, there), ("pull", there, copy), ("verify", copy)):
        assert cli("cache", *words).returncode == 0


def test_a_store_or_root_that_is_a_loop_of_links(cli, drawn, extract_args, tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for words in (extract_args(drawn.manifest, drawn.root, loop), extract_args(drawn.manifest, drawn.root, loop / "a"),
                  extract_args(drawn.manifest, loop, tmp_path / "s"), ["cache", "ls", loop],
                  ["cache", "verify", loop], ["cache", "push", tmp_path, loop]):
        done = cli(*words)
        assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, (words, done.stderr)
        assert "Traceback" not in done.stderr and not (tmp_path / "s").exists()


def test_images_that_are_replaced_while_they_are_read(cli, extract, drawn, extract_args, tmp_path):
    """Each row is of the bytes whose hash stands beside it, whichever of them these are; half a file is a failure."""
    root, keys = tmp_path / "faces", [f"{number}.png" for number in range(24)]
    versions = [path.read_bytes() for path in sorted(drawn.root.rglob("*.png"))[:2]]
    root.mkdir()
    for key in keys:
        (root / key).write_bytes(versions[0])
    done, turn = threading.Event(), itertools.cycle((versions[1], versions[1][:900], versions[0]))

    def keep_replacing():
        while not done.is_set():
            content = next(turn)
            for key in keys:
                (root / key).write_bytes(content)  # in place: a reader may see half of it

    writer = threading.Thread(target=keep_replacing)
    writer.start()
    try:
        assert cli(*extract_args(manifest(tmp_path / "faces.csv", keys), root, tmp_path / "s", "--workers", "4",
                                 networks=(NETWORK,))).returncode in (0, 1)
    finally:
        done.set()
        writer.join()
    for key, content in zip(keys, versions, strict=False):
        (root / key).write_bytes(content)
    extract(manifest=manifest(tmp_path / "two.csv", keys[:2]), root=root, store=tmp_path / "right")
    right = Store(tmp_path / "right").find(NETWORK)
    wanted = dict(zip(right.sha256, right.read(), strict=True))
    file = Store(tmp_path / "s").find(NETWORK)
    assert len(file.keys) + len(file.failures) == len(keys)
    for sha256, row in zip(file.sha256, file.read(), strict=True):
        np.testing.assert_allclose(row, wanted[sha256], atol=2e-3)
