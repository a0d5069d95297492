"""Several processes on one store, and a disk that fills up: real processes, as a cluster or a crash would have them."""

import json
from pathlib import Path

import pytest

from tests.extract.stores import assert_equal_stores
from twofold.cache.store import Store

ONE = ("timm:test_vit",)


@pytest.fixture(scope="module")
def alone(cli, drawn, extract_args, tmp_path_factory) -> Path:
    store = tmp_path_factory.mktemp("alone") / "store"
    assert cli(*extract_args(drawn.manifest, drawn.root, store, networks=ONE)).returncode == 0
    return store


@pytest.mark.slow
@pytest.mark.parametrize("processes", [
    [("--shard", f"{index}/2") for index in range(2)], [("--shard", f"{index}/5") for index in range(5)], [(), ()],
    [("--device", "cpu,cpu")]], ids=["2 shards", "5 shards", "the same work", "2 devices"])
def test_any_number_of_processes_makes_the_file_of_one(forked, drawn, extract_args, alone, tmp_path, processes):
    args = extract_args(drawn.manifest, drawn.root, tmp_path / "s", "--shard-rows", "4", "--json", networks=ONE)
    results = [process.finish() for process in [forked(*args, *more) for more in processes]]
    assert [code for code, _, _ in results] == [0] * len(processes), results
    assert sum(json.loads(out)["computed_samples"] for _, out, _ in results) >= 70
    assert_equal_stores(tmp_path / "s", alone)


@pytest.mark.slow
def test_a_full_disk_loses_nothing(extract, forked, drawn, extract_args, tmp_path):
    """No file may grow over 40 kB, which the parts of the wide network (512-d) do."""
    narrow, wide = networks = ("timm:test_vit", "torchvision:resnet18")
    args = extract_args(drawn.manifest, drawn.root, tmp_path / "s", "--shard-rows", "32", networks=networks)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))"
    ended, _, err = forked(*args, code=limit).finish()
    assert ended == 1 and "the disk is full" in err and "Traceback" not in err, err
    assert not list((tmp_path / "s").glob("**/.tmp-*"))
    parts_of_narrow = sum(part.rows for part in Store(tmp_path / "s").shards())
    record = extract("--shard-rows", "32", networks=networks)
    rows = {line["backbone"]: line["cached"] for line in record["files"]}
    assert rows[wide] == 0 and rows[narrow] == parts_of_narrow
    assert [Store(tmp_path / "s").find(name).rows for name in networks] == [70, 70]


def test_the_launcher_says_which_shard_this_is(extract, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert extract("--shard", "auto")["computed_samples"] == 35
    monkeypatch.delenv("SLURM_PROCID")
    assert "neither RANK" in extract("--shard", "auto", code=2)


def test_precision_auto_is_decided_once_for_a_store(cli, drawn, extract_args, tmp_path, monkeypatch):
    """Shards of one command on machines with and without bf16 fill one file."""
    args = extract_args(drawn.manifest, drawn.root, tmp_path / "s", networks=ONE)
    args[args.index("--precision") + 1] = "auto"
    for shard, native in (("0/2", True), ("1/2", False)):
        monkeypatch.setattr("twofold.extract.encoders.devices.has_native_bf16", lambda device, native=native: native)
        done = cli(*args, "--shard", shard)
        assert done.returncode == 0, done.stderr
    (file,) = Store(tmp_path / "s").files()
    assert (file.rows, file.recipe.precision) == (70, "bf16") and not Store(tmp_path / "s").shards()
    args[args.index("--store") + 1] = str(tmp_path / "dry")
    assert cli(*args, "--dry-run").returncode == 0 and not (tmp_path / "dry").exists()
