"""Stage one through the command line, on drawn faces and small real networks."""

import itertools
import json
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.extract.simulated import SimulatedRunner
from tests.extract.stores import assert_equal_stores, values
from twofold.cache.store import Store
from twofold.data.manifest import Manifest, write_manifest
from twofold.extract.engine import loop
from twofold.extract.extract import extract
from twofold.extract.plan import open_workspace
from twofold.extract.streams import parse_streams

ROOT = Path(__file__).resolve().parents[2]


def test_a_run_makes_one_file_for_each_backbone_and_view(whole, drawn):
    found = values(whole)
    assert set(found) == set(itertools.product(("timm:test_vit", "timm:test_resnet"), ("original", "flip")))
    for keys, features, failures in found.values():
        assert keys == list(drawn.table.keys) and not failures
        assert np.isfinite(features).all() and features.std(axis=0).max() > 0
    assert not (whole / ".shards").exists()
    assert (whole / "manifest.csv").read_bytes() == drawn.manifest.read_bytes()


def test_the_flip_of_a_face_is_another_face(whole):
    original, flip = (Store(whole).find("timm:test_vit", view).read() for view in ("original", "flip"))
    assert (np.abs(original - flip).max(axis=1) > 0).mean() > 0.9


def test_running_it_again_computes_nothing(cli, drawn, extract_args, whole):
    before = {path: path.stat().st_mtime_ns for path in whole.glob("*.h5")}
    (whole / ".shards").mkdir()  # left by a run that was killed once its files were published
    done = cli(*extract_args(drawn.manifest, drawn.root, whole, "--views", "original,flip"))
    assert done.returncode == 0 and "nothing to compute" in done.stdout and not (whole / ".shards").exists()
    assert {path: path.stat().st_mtime_ns for path in whole.glob("*.h5")} == before


def test_only_what_is_missing_is_computed(cli, drawn, extract_args, whole, tmp_path):
    """New faces, a new backbone and a new view come one after the other; the end equals the run in one go."""
    store, few = tmp_path / "store", tmp_path / "few.csv"
    write_manifest(Manifest(drawn.table.table.iloc[:40]), few)

    def computed(*arguments, **options):
        done = cli(*extract_args(*arguments, "--json", **options))
        assert done.returncode == 0, done.stderr
        record = json.loads(done.stdout)
        return record["computed_samples"], record["computed_rows"]

    one = ("timm:test_vit",)
    assert computed(few, drawn.root, store, networks=one) == (40, 40)
    assert computed(drawn.manifest, drawn.root, store, networks=one) == (30, 30)
    assert computed(drawn.manifest, drawn.root, store) == (70, 70)
    assert computed(drawn.manifest, drawn.root, store, "--views", "original,flip") == (70, 140)
    assert_equal_stores(store, whole)


@pytest.mark.parametrize("batch_size", ["3", "64"])
def test_other_batches_give_the_same_values(cli, drawn, extract_args, whole, tmp_path, batch_size):
    done = cli(*extract_args(drawn.manifest, drawn.root, tmp_path / "s", "--batch-size", batch_size,
                                  "--workers", "1", "--shard-rows", "7"))
    assert done.returncode == 0, done.stderr
    for name in ("timm:test_vit", "timm:test_resnet"):
        np.testing.assert_allclose(Store(tmp_path / "s").find(name).read(), Store(whole).find(name).read(), atol=2e-3)


def test_shards_add_up_to_the_same_files(cli, drawn, extract_args, whole, tmp_path):
    args = extract_args(drawn.manifest, drawn.root, tmp_path / "s", "--views", "original,flip", "--shard-rows", "4")
    for shard in ("2/3", "0/3"):
        done = cli(*args, "--shard", shard)
        assert done.returncode == 0 and "left for other shards" in done.stdout
        assert list((tmp_path / "s").glob("*.h5")) == []
    assert cli(*args, "--shard", "1/3").returncode == 0
    assert_equal_stores(tmp_path / "s", whole)


def copied(root: Path, copy: Path) -> list[str]:
    """A copy of the faces; returns their keys."""
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    for name in names:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(root / name, copy / name)
    return names


def spoil(root: Path, copy: Path) -> tuple[list[str], Path]:
    """A copy of the faces in which three are unreadable; returns their keys."""
    names = copied(root, copy)
    bad = names[3], names[30], names[65]
    for name, content in zip(bad, (b"", b"<html>not here</html>", None), strict=True):
        (copy / name).unlink()
        if content is not None:
            (copy / name).write_bytes(content)
    return list(bad), copy


def test_bad_faces_are_recorded_and_retried_when_asked(cli, drawn, extract_args, whole, tmp_path):
    bad, root = spoil(drawn.root, tmp_path / "faces")
    args = extract_args(drawn.manifest, root, tmp_path / "s", "--views", "original,flip")
    done = cli(*args)
    assert done.returncode == 1 and "3 failures" in done.stdout
    for keys, features, failures in values(tmp_path / "s").values():
        assert set(failures) == set(bad) and len(features) == len(keys) == 67
    again = cli(*args)
    assert again.returncode == 1 and "nothing to compute" in again.stdout
    for name in bad:
        (root / name).unlink(missing_ok=True)
        os.link(drawn.root / name, root / name)
    mended = cli(*args, "--retry-failures")
    assert mended.returncode == 0 and "3 computed" in mended.stdout
    assert_equal_stores(tmp_path / "s", whole)


def test_too_many_failures_stop_the_run(cli, drawn, extract_args, tmp_path):
    _, root = spoil(drawn.root, tmp_path / "faces")
    done = cli(*extract_args(drawn.manifest, root, tmp_path / "s", "--max-failures", "1"))
    assert done.returncode == 2 and "stopped after 2 failed samples" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_changed_image_is_found_when_asked(cli, drawn, extract_args, tmp_path):
    root = tmp_path / "faces"
    copied(drawn.root, root)
    one, table = ("timm:test_vit",), tmp_path / "some.csv"
    write_manifest(Manifest(drawn.table.table.iloc[5:25]), table)
    args = extract_args(table, root, tmp_path / "s", networks=one)
    assert cli(*args).returncode == 0
    before = Store(tmp_path / "s").find("timm:test_vit").read()
    keys = list(drawn.table.keys)
    (root / keys[7]).unlink()
    (root / keys[7]).write_bytes((root / keys[40]).read_bytes())
    refused = cli(*args)
    assert refused.returncode == 2 and f"1 of the 20 keys that were compared (the first is '{keys[7]}')" in \
        refused.stderr and "--recheck" in refused.stderr
    assert "1 computed" in cli(*args, "--recheck").stdout
    after = Store(tmp_path / "s").find("timm:test_vit").read()
    assert (np.abs(before - after).max(axis=1) > 0).nonzero()[0].tolist() == [2]


def test_a_dry_run_writes_nothing(cli, drawn, extract_args, tmp_path):
    done = cli(*extract_args(drawn.manifest, drawn.root, tmp_path / "s", "--dry-run"))
    assert done.returncode == 0
    assert re.search(r"140 rows to compute, 0\.0 MB in 2 shards, about 0:00:\d\d on this machine", done.stdout)
    assert not (tmp_path / "s").exists()
    record = json.loads(cli(*extract_args(drawn.manifest, drawn.root, tmp_path / "s", "--dry-run", "--shard-rows", 20,
                                          "--dtype", "float32", "--json")).stdout)
    assert [line["shards"] for line in record["files"]] == [7, 7] and 0 < record["expected_seconds"] < 60
    assert [line["bytes"] for line in record["files"]] == [70 * 4 * line["dim"] for line in record["files"]]


def test_a_dry_run_without_a_readable_face_estimates_nothing(cli, extract_args, tmp_path):
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "a.jpg").write_bytes(b"not an image")
    (tmp_path / "faces.csv").write_text("key\na.jpg\n")
    done = cli(*extract_args(tmp_path / "faces.csv", tmp_path / "faces", tmp_path / "s", "--dry-run"))
    assert done.returncode == 0 and "2 rows to compute" in done.stdout and "about" not in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_keeps_its_batches_and_goes_on(drawn, forked, cli, extract_args, whole, tmp_path, number):
    args = extract_args(drawn.manifest, drawn.root, tmp_path / "s", "--views", "original,flip", "--shard-rows", "8",
                        "--batch-size", "8")
    running, deadline = forked(*args), time.monotonic() + 60
    while not list((tmp_path / "s").glob(".shards/*/*.h5")) and time.monotonic() < deadline and running.runs():
        time.sleep(0.005)
    running.signal(number)
    ended, out, err = running.finish()
    if ended == 0:
        pytest.skip("the run was over before the signal came")
    assert ended == 128 + number, err
    assert "the same command goes on" in out and "Traceback" not in err
    done = cli(*args, "--json")
    assert done.returncode == 0 and 0 < json.loads(done.stdout)["computed_rows"] < 280
    assert_equal_stores(tmp_path / "s", whole)


BAD_REQUESTS = {
    "no such manifest": (["extract", "nowhere.csv", "--root", ".", "--store", "s"], "nowhere.csv"),
    "missing root": (["--root", "no/such/folder"], "no/such/folder"),
    "another root": (["--root", "."], "none of 70 images tried"),
    "unknown view": (["--views", "sideways"], "unknown view 'sideways'"),
    "unknown backbone": (["--backbones", "resnet19"], "resnet19"),
    "unknown timm name": (["--backbones", "timm:nonsense"], "nonsense"),
    "no backbone": (["--backbones", ","], "no backbone"),
    "unknown device": (["--device", "abacus"], "abacus"),
    "unknown precision": (["--precision", "fp7"], "fp7"),
    "unknown dtype": (["--dtype", "int8"], "int8"),
    "bad shard": (["--shard", "3/3"], "shard '3/3'"),
    "weights for another": (["--weights", "resnet18=random:0"], "'resnet18', which is not among"),
    "weights without a name": (["--weights", "random:0"], "NAME=PATH"),
    "missing weights": (["--weights", "timm:test_vit=no/such.pth"], "no/such.pth"),
    "store is a file": (["--store", "{file}"], "{file}"),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_request_that_makes_no_sense_is_one_sentence(cli, drawn, extract_args, tmp_path, name):
    more, sentence = BAD_REQUESTS[name]
    file = tmp_path / "file"
    file.write_text("")
    more = [word.format(file=file) for word in more]
    base = extract_args(drawn.manifest, drawn.root, tmp_path / "s", networks=("timm:test_vit",))
    args = more if more[0] == "extract" else _overridden(base, more)
    done = cli(*args, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert sentence.format(file=file) in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "s").exists()


def _overridden(base: list[str], more: list[str]) -> list[str]:
    option, value = more
    kept = list(base)
    if option in kept:
        kept[kept.index(option) + 1] = value
        if option == "--backbones":
            place = kept.index("--weights")
            del kept[place:place + 2]
        return kept
    return [*kept, *more]


def test_the_report_adds_up_and_names_failed_samples(cli, drawn, extract_args, tmp_path):
    bad, root = spoil(drawn.root, tmp_path / "faces")
    args = extract_args(drawn.manifest, root, tmp_path / "s", "--json", networks=("timm:test_vit",))

    def parts(*more):
        done = cli(*args, *more)
        record = json.loads(done.stdout)
        (file,) = record["files"]
        assert file["cached"] + file["computed"] + file["failed"] + file["no_face"] + file["left"] == 70
        return [file[name] for name in ("cached", "computed", "failed", "left")], record["failed_samples"]

    first, failed = parts("--shard", "0/2")
    assert first[0] == 0 and first[1] + first[2] == 35 and first[3] == 35
    second, failed = parts()
    assert second == [first[1], 67 - first[1], 3, 0] and set(failed) == set(bad)
    assert parts()[0] == [67, 0, 3, 0]
    text = cli(*[word for word in args if word != "--json"])
    assert text.returncode == 1
    shown = cli("cache", "show", tmp_path / "s", "--failures")
    assert shown.returncode == 0 and "3 of its samples have no features" in shown.stdout
    for key in bad:
        for out in (text.stdout, shown.stdout):
            assert re.search(rf"^  {re.escape(key)}: \w+", out, re.MULTILINE)


class StoppedRunner(SimulatedRunner):
    """At its third forward pass somebody wants the process to end."""

    def __init__(self):
        super().__init__(rate=1e9)
        self.started = 0

    def start(self, encoder, pixels):
        self.started += 1
        if self.started == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().start(encoder, pixels)


def test_a_stopped_run_reports_what_the_store_then_has(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "runner_for", lambda device: StoppedRunner())
    streams = parse_streams(["timm:test_vit"], weights=["timm:test_vit=random:0"], precision="fp32", batch_size=4)
    report = extract(open_workspace(drawn.manifest, [str(drawn.root)], tmp_path / "s"), streams, device="cpu")
    (file,) = report.files
    assert report.exit_code == 128 + signal.SIGTERM and "the same command goes on" in report.text()
    assert 12 <= file["computed"] == sum(part.rows for part in Store(tmp_path / "s").shards()) < 70
    assert [file[name] for name in ("cached", "failed", "left")] == [0, 0, 70 - file["computed"]]
