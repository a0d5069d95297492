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
from PIL import Image

from tests.extract.conftest import NETWORKS, SimulatedRunner
from tests.extract.stores import assert_equal_stores, values
from twofold.cache.store import Store
from twofold.data.manifest import Manifest, write_manifest
from twofold.extract.engine import loop
from twofold.extract.extract import extract
from twofold.extract.plan import open_workspace
from twofold.extract.streams import parse_streams


def test_a_run_makes_one_file_for_each_backbone_and_view(whole, drawn):
    found = values(whole)
    assert set(found) == set(itertools.product(("timm:test_vit", "timm:test_resnet"), ("original", "flip")))
    for keys, features, failures in found.values():
        assert keys == list(drawn.table.keys) and not failures
        assert np.isfinite(features).all() and features.std(axis=0).max() > 0
    assert not (whole / ".shards").exists()
    assert (whole / "manifest.csv").read_bytes() == drawn.manifest.read_bytes()


def test_running_it_again_computes_nothing(cli, drawn, extract_args, whole):
    before = {path: path.stat().st_mtime_ns for path in whole.glob("*.h5")}
    done = cli(*extract_args(drawn.manifest, drawn.root, whole, "--views", "original,flip"))
    assert done.returncode == 0 and "nothing to compute" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in whole.glob("*.h5")} == before


def test_only_what_is_missing_is_computed(extract, drawn, whole, tmp_path):
    """New faces, a new backbone and a new view come one after the other; the end equals the run in one go."""
    few = tmp_path / "few.csv"
    write_manifest(Manifest(drawn.table.table.iloc[:40]), few)
    records = [extract(manifest=few), extract(), extract(networks=NETWORKS),
               extract("--views", "original,flip", networks=NETWORKS)]
    assert [(record["computed_samples"], record["computed_rows"]) for record in records] == [
        (40, 40), (30, 30), (70, 70), (70, 140)]
    assert_equal_stores(tmp_path / "s", whole)


def test_the_fast_decoder_is_another_recipe_and_never_fills_the_files_of_the_usual_one(extract, cli, drawn, tmp_path):
    """--dry-run says what is missing for it; its features are nearly those of the usual one."""
    usual, fast = extract()["files"][0], extract("--decoder", "fast")["files"][0]
    assert usual["fingerprint"] != fast["fingerprint"] and usual["computed"] == fast["computed"] == 70
    assert extract("--decoder", "fast")["computed_samples"] == extract()["computed_samples"] == 0
    files = {file.recipe.decoder: file.read().astype(np.float32) for file in Store(tmp_path / "s").files()}
    a, b = files["pillow-rgb-2"], files["pillow-rgb-2, resized by torch"]
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert (a != b).any() and cosine.min() > 0.999
    done = cli("extract", drawn.manifest, "--root", drawn.root, "--store", tmp_path / "t", "--decoder", "quick")
    assert done.returncode == 2 and "unknown decoder 'quick': choose from pillow, fast" in done.stderr


def test_shards_add_up_to_the_same_files(extract, whole, tmp_path):
    for shard in ("2/3", "0/3", "1/3"):
        assert not list((tmp_path / "s").glob("*.h5"))
        extract("--views", "original,flip", "--shard-rows", "4", "--shard", shard, networks=NETWORKS)
    assert_equal_stores(tmp_path / "s", whole)


def spoil(root: Path, copy: Path) -> tuple[list[str], Path]:
    """A copy of the faces in which three are unreadable; returns their keys."""
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    for name in names:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(root / name, copy / name)
    bad = [names[3], names[30], names[65]]
    for name, content in zip(bad, (b"", b"<html>not here</html>", None), strict=True):
        (copy / name).unlink()
        if content is not None:
            (copy / name).write_bytes(content)
    return bad, copy


def test_bad_faces_are_recorded_and_retried_when_asked(extract, drawn, whole, tmp_path):
    bad, root = spoil(drawn.root, tmp_path / "faces")
    both = ("--views", "original,flip")
    assert set(extract(*both, root=root, networks=NETWORKS, code=1)["failed_samples"]) == set(bad)
    for keys, features, failures in values(tmp_path / "s").values():
        assert set(failures) == set(bad) and len(features) == len(keys) == 67
    assert extract(*both, root=root, networks=NETWORKS, code=1)["computed_samples"] == 0
    for name in bad:
        (root / name).unlink(missing_ok=True)
        os.link(drawn.root / name, root / name)
    assert extract(*both, "--retry-failures", root=root, networks=NETWORKS)["computed_samples"] == 3
    assert_equal_stores(tmp_path / "s", whole)


def test_a_picture_that_decodes_for_too_long_is_a_recorded_failure(extract, drawn, tmp_path, monkeypatch):
    _, root = spoil(drawn.root, tmp_path / "faces")
    Image.effect_noise((3000, 3000), 90).save(root / "slow.jpg", quality=95, progressive=True)
    keys = [*drawn.table.keys[5:10], "slow.jpg"]
    (tmp_path / "few.csv").write_text("key\n" + "\n".join(keys) + "\n")
    monkeypatch.setattr("twofold.data.images.limits.MAX_SECONDS", 0.05)
    record = extract(manifest=tmp_path / "few.csv", root=root, code=1)
    assert record["failed_samples"] == {"slow.jpg": "decoding takes more than 0.05 seconds"}
    assert record["computed_rows"] == 5


def test_too_many_failures_stop_the_run(extract, drawn, tmp_path):
    _, root = spoil(drawn.root, tmp_path / "faces")
    assert "stopped after 2 failed samples" in extract("--max-failures", "1", root=root, code=2)


def test_a_dry_run_writes_nothing(cli, extract, drawn, extract_args, tmp_path):
    done = cli(*extract_args(drawn.manifest, drawn.root, tmp_path / "s", "--dry-run"))
    assert done.returncode == 0
    assert re.search(r"140 rows to compute, 0\.0 MB in 2 shards \(twice that for a moment\), about 0:00:\d\d on this",
                     done.stdout)
    assert not (tmp_path / "s").exists()
    record = extract("--dry-run", "--shard-rows", 20, "--dtype", "float32", networks=NETWORKS)
    assert [line["shards"] for line in record["files"]] == [7, 7] and 0 < record["expected_seconds"] < 60
    assert [line["bytes"] for line in record["files"]] == [70 * 4 * line["dim"] for line in record["files"]]


def test_a_dry_run_without_a_readable_face_estimates_nothing(extract, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"not an image")
    (tmp_path / "faces.csv").write_text("key\na.jpg\n")
    record = extract("--dry-run", manifest=tmp_path / "faces.csv", root=tmp_path)
    assert record["files"][0]["to_compute"] == 1 and record["expected_seconds"] == 0


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


@pytest.mark.parametrize(("option", "value", "sentence"), [
    ("FACES.csv", "nowhere.csv", "nowhere.csv"), ("--root", "no/such/folder", "no/such/folder"),
    ("--root", ".", "none of 70 images tried"), ("--views", "sideways", "unknown view 'sideways'"),
    ("--backbones", "resnet19", "resnet19"), ("--backbones", "timm:nonsense", "nonsense"),
    ("--backbones", ",", "no backbone"), ("--device", "abacus", "abacus"), ("--precision", "fp7", "fp7"),
    ("--dtype", "int8", "int8"), ("--shard", "3/3", "shard '3/3'"), ("--shard", "-1/2", "is not i/n"),
    ("--weights", "resnet18=random:0", "'resnet18', which is not among"), ("--weights", "random:0", "NAME=PATH"),
    ("--weights", "timm:test_vit=no/such.pth", "no/such.pth"), ("--store", "file", "file is a file")])
def test_a_request_that_makes_no_sense_is_one_sentence(cli, drawn, tmp_path, option, value, sentence):
    (tmp_path / "file").touch()
    words = {"FACES.csv": drawn.manifest, "--root": drawn.root, "--store": "s", "--backbones": "timm:test_vit",
             "--device": "cpu"} | ({} if option == "--backbones" else {"--weights": "timm:test_vit=random:0"})
    words[option] = value
    done = cli("extract", words.pop("FACES.csv"), *(word for pair in words.items() for word in pair), cwd=tmp_path)
    assert done.returncode == 2 and sentence in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (tmp_path / "s").exists()


def test_the_report_adds_up_and_names_failed_samples(cli, extract, drawn, extract_args, tmp_path):
    bad, root = spoil(drawn.root, tmp_path / "faces")

    def parts(*more, code=1):
        record = extract(*more, root=root, code=code)
        (file,) = record["files"]
        assert file["cached"] + file["computed"] + file["failed"] + file["no_face"] + file["left"] == 70
        return [file[name] for name in ("cached", "computed", "failed", "left")], record["failed_samples"]

    first, failed = parts("--shard", "0/2")
    assert first[0] == 0 and first[1] + first[2] == 35 and first[3] == 35
    second, failed = parts()
    assert second == [first[1], 67 - first[1], 3, 0] and set(failed) == set(bad)
    assert parts()[0] == [67, 0, 3, 0]
    text = cli(*extract_args(drawn.manifest, root, tmp_path / "s", networks=NETWORKS[:1]))
    shown = cli("cache", "show", tmp_path / "s", "--failures")
    assert text.returncode == 1 and shown.returncode == 0 and "3 of its samples have no features" in shown.stdout
    for key in bad:
        for out in (text.stdout, shown.stdout):
            assert re.search(rf"^  {re.escape(key)}: \w+", out, re.MULTILINE)


class StoppedRunner(SimulatedRunner):
    """At its third forward pass somebody wants the process to end."""

    def start(self, encoder, pixels):
        if self.started == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().start(encoder, pixels)


def test_a_stopped_run_reports_what_the_store_then_has(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "runner_for", lambda device: StoppedRunner())
    streams = parse_streams(["timm:test_vit"], weights=["timm:test_vit=random:0"], precision="fp32", batch_size=4)
    report = extract(open_workspace(drawn.manifest, [str(drawn.root)], tmp_path / "s"), streams, device="cpu")
    (file,) = report.values["files"]
    assert report.exit_code == 128 + signal.SIGTERM and "the same command goes on" in report.text()
    assert 12 <= file["computed"] == sum(part.rows for part in Store(tmp_path / "s").shards()) < 70
    assert [file[name] for name in ("cached", "failed", "left")] == [0, 0, 70 - file["computed"]]
