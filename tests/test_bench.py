"""`bench`: each stage is measured and the limit is named; no test says how fast anything is."""

import json

import pytest
from PIL import Image

from twofold.fuse import bench as fuse_bench

ENCODERS = ("--backbones", "timm:test_vit,timm:test_resnet", "--weights", "timm:test_vit=random:0",
            "--weights", "timm:test_resnet=random:0", "--device", "cpu", "--workers", "1")


def test_bench_extract_measures_each_stage_and_the_whole(cli):
    done = cli("bench", "extract", *ENCODERS, "--samples", "21", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert [leg["name"] for leg in record["legs"]] == ["decode", "forward", "write"]
    assert all(leg["rate"] > 0 and leg["cpu_seconds"] > 0 for leg in record["legs"])
    assert record["samples"] == 21 and record["whole"] > 0 and record["waiting"] and "the limit" in record["limit"]


def test_bench_extract_refuses_in_one_sentence_and_follows_links(cli, tmp_path):
    (tmp_path / "faces.csv").write_text("key\na.png\n")
    done = cli("bench", "extract", tmp_path / "faces.csv", *ENCODERS)
    assert done.returncode == 2 and "say with --root" in done.stderr and len(done.stderr.splitlines()) == 1
    Image.new("RGB", (64, 64)).save(tmp_path / "away.png")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/a.png").symlink_to(tmp_path / "away.png")
    words = ("bench", "extract", tmp_path / "faces.csv", "--root", tmp_path / "root", *ENCODERS)
    refused, followed = cli(*words), cli(*words, "--follow-links")
    assert refused.returncode == 2 and "--follow-links" in refused.stderr and followed.returncode == 0, followed.stderr


def test_bench_cache_compares_with_numpy(cli, tmp_path):
    done = cli("bench", "cache", "--rows", "600", "--dim", "16", "--folder", tmp_path)
    assert done.returncode == 0 and "of np.load's speed" in done.stdout.splitlines()[-1], done.stderr
    assert not list(tmp_path.iterdir())


def test_bench_fuse_compares_with_its_matrix_products(cli, monkeypatch):
    monkeypatch.setitem(fuse_bench.SIZES, "tiny", (300, (16, 24)))
    done = cli("bench", "fuse", "--sizes", "tiny", "--json")
    assert done.returncode == 0, done.stderr
    timings = json.loads(done.stdout)["timings"]
    assert [timing["seeds"] for timing in timings] == [1] * 3 + [8] * 3 and all(each["ratio"] > 0 for each in timings)


@pytest.mark.parametrize(("words", "sentence"), [
    (("fuse", "--sizes", "huge"), "unknown size 'huge': choose from rafce, large"),
    (("extract", "--backbones", "timm:test_vit", "--device", "abacus"), "unknown device 'abacus'")])
def test_bench_names_what_it_does_not_know(cli, words, sentence):
    done = cli("bench", *words)
    assert done.returncode == 2 and sentence in done.stderr
