"""Several processes on one store, and a disk that fills up: real processes, as a cluster or a crash would have them."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.extract.stores import assert_equal_stores
from tests.forked import Forked
from twofold.cache.store import Store

ROOT = Path(__file__).resolve().parents[2]
ONE = ("timm:test_vit",)


def outputs(processes: Sequence[Forked]) -> list[str]:
    """What they print; each must end with code 0."""
    results = [process.finish() for process in processes]
    assert [code for code, _, _ in results] == [0] * len(results), results
    return [out for _, out, _ in results]


@pytest.fixture(scope="module")
def alone(cli, drawn, extract_args, tmp_path_factory) -> Path:
    store = tmp_path_factory.mktemp("alone") / "store"
    assert cli(*extract_args(drawn.manifest, drawn.root, store, networks=ONE)).returncode == 0
    return store


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 5])
def test_shards_at_the_same_time_make_the_same_file(forked, drawn, extract_args, alone, tmp_path, count):
    args = extract_args(drawn.manifest, drawn.root, tmp_path / "s", "--shard-rows", "4", networks=ONE)
    outputs([forked(*args, "--shard", f"{index}/{count}") for index in range(count)])
    assert_equal_stores(tmp_path / "s", alone)


@pytest.mark.slow
def test_two_processes_on_the_same_work_do_no_harm(forked, drawn, extract_args, alone, tmp_path):
    args = extract_args(drawn.manifest, drawn.root, tmp_path / "s", "--shard-rows", "4", networks=ONE)
    outputs([forked(*args), forked(*args)])
    assert_equal_stores(tmp_path / "s", alone)


@pytest.mark.slow
def test_one_process_a_device(forked, drawn, extract_args, alone, tmp_path):
    args = extract_args(drawn.manifest, drawn.root, tmp_path / "s", "--device", "cpu,cpu", "--json", networks=ONE)
    record = json.loads(outputs([forked(*args)])[0])
    assert record["computed_samples"] == 70
    assert_equal_stores(tmp_path / "s", alone)


@pytest.mark.slow
def test_a_full_disk_loses_nothing(cli, forked, drawn, extract_args, tmp_path):
    """No file may grow over 40 kB, which the parts of the wide network (512-d) do."""
    narrow, wide = networks = ("timm:test_vit", "torchvision:resnet18")
    args = extract_args(drawn.manifest, drawn.root, tmp_path / "s", "--shard-rows", "32", networks=networks)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))"
    ended, _, err = forked(*args, code=limit).finish()
    assert ended == 1, err
    assert "the disk is full" in err and "Traceback" not in err
    assert not list((tmp_path / "s").glob("**/.tmp-*"))
    parts_of_narrow = sum(part.rows for part in Store(tmp_path / "s").shards())
    done = cli(*args, "--json")
    assert done.returncode == 0
    rows = {line["backbone"]: line["cached"] for line in json.loads(done.stdout)["files"]}
    assert rows[wide] == 0 and rows[narrow] == parts_of_narrow
    assert [Store(tmp_path / "s").find(name).rows for name in networks] == [70, 70]


def test_the_launcher_says_which_shard_this_is(cli, drawn, extract_args, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    args = extract_args(drawn.manifest, drawn.root, tmp_path / "s", "--json", networks=ONE)
    assert json.loads(cli(*args, "--shard", "auto").stdout)["computed_samples"] == 35
    monkeypatch.delenv("SLURM_PROCID")
    done = cli(*args, "--shard", "auto")
    assert done.returncode == 2 and "neither RANK" in done.stderr


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
    monkeypatch.setattr("twofold.extract.encoders.devices.has_native_bf16", lambda device: True)
    args[args.index("--store") + 1] = str(tmp_path / "dry")
    assert cli(*args, "--dry-run").returncode == 0 and not (tmp_path / "dry").exists()
