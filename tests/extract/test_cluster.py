"""Ray and SLURM without a cluster: the tasks of a run on Ray, and the job script, run by bash as SLURM would run it."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from twofold.cache.recipe import Recipe
from twofold.cache.shards import Rows, publish_shard, shard_paths
from twofold.cache.store import Store
from twofold.data.images.sources import ImageRoots
from twofold.data.utils.errors import InputError
from twofold.extract.cluster.ray import MIN_TASK_SAMPLES, connected, size_of_workers, split, without_published
from twofold.extract.engine.task import ComputeTask, EncoderSource, FileRows

RECIPES = [Recipe(backbone=name, architecture=name, weights="random:0", tap="t", preprocessing={}, view={"name": "v"},
                  decoder="d", precision="fp32", dtype="float16") for name in ("a", "b")]


def task(path, *rows) -> ComputeTask:
    files = [FileRows(source=EncoderSource(backbone=recipe.backbone), recipe=recipe, rows=np.array(list(lacking)))
             for recipe, lacking in zip(RECIPES, rows, strict=False)]
    return ComputeTask(files=files, keys=[f"{row}.png" for row in range(5000)], images=ImageRoots({}), store=path)


def wanted(work: ComputeTask) -> set[tuple[str, str]]:
    return {(file.recipe.backbone, work.keys[row]) for file in work.files for row in file.rows}


def publish(path, recipe, keys, failures=()):
    rows = Rows(keys=keys, sha256=["0" * 64] * len(keys), features=np.ones((len(keys), 4), np.float16),
                failures=dict.fromkeys(failures, "broken"))
    publish_shard(Store(path, new=True), recipe, 4, rows)


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_tasks_hold_each_row_once(tmp_path, workers):
    work = task(tmp_path, range(0, 5000, 2), range(1000, 4000))
    tasks = split(work, workers=workers)
    pairs = [pair for part in tasks for pair in wanted(part)]
    assert len(pairs) == len(set(pairs)) and set(pairs) == wanted(work)
    sizes = [len(part.keys) for part in tasks]
    assert sum(sizes) == 4000 and max(sizes) - min(sizes) <= 1 and min(sizes) >= MIN_TASK_SAMPLES
    assert len(tasks) == min(8 * workers, 4000 // MIN_TASK_SAMPLES)
    assert len(split(task(tmp_path, range(3)), workers=workers)) == 1


def test_of_a_lost_task_only_what_is_not_published_is_computed_again(tmp_path):
    keys = [f"{row}.png" for row in range(5000)]
    publish(tmp_path, RECIPES[0], keys[:100])  # by an earlier run; the images have changed since
    earlier = {path.name for path in shard_paths(Store(tmp_path, new=True), RECIPES[0])}
    (lost,) = split(task(tmp_path, range(200), range(150)), workers=1)
    publish(tmp_path, RECIPES[0], keys[50:150], failures=keys[150:152])
    publish(tmp_path, RECIPES[1], keys[:150])
    left, done = without_published(lost, earlier)
    assert done.rows == {RECIPES[0].fingerprint: 100, RECIPES[1].fingerprint: 150}
    assert done.failures[RECIPES[0].fingerprint] == {"150.png": "broken", "151.png": "broken"}
    assert wanted(left) == {("a", key) for key in [*keys[:50], *keys[152:200]]} and done.samples == 200 - 98


def node(cpus: float, gpus: float = 0, *, alive: bool = True) -> dict:
    return {"Alive": alive, "Resources": {"CPU": cpus, **({"GPU": gpus} if gpus else {})}}


@pytest.mark.parametrize(("nodes", "device", "options", "expected"), [
    ([node(8)], "auto", {}, ("cpu", 8, 0, 1)), ([node(8), node(2), node(4, alive=False)], "auto", {}, ("cpu", 2, 0, 5)),
    ([node(32, 4), node(64, 8), node(16)], "auto", {}, ("cuda", 8, 1, 12)),
    ([node(32, 4), node(8)], "cpu", {"cpus": 4}, ("cpu", 4, 0, 10)),
    ([node(0)], "auto", {}, ("cpu", 1, 0, 1)), ([node(4)], "cuda", {"most": 20}, ("cuda", 1, 1, 20)),
])
def test_how_large_workers_are_and_how_many(nodes, device, options, expected):
    assert size_of_workers(nodes, device, **options) == expected


def test_without_the_library_it_says_how_to_get_it(extract, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert 'pip install "twofold[ray]"' in extract("--ray", "local", code=2) and not (tmp_path / "s").exists()


@pytest.mark.parametrize(("more", "sentence"), [
    (["--ray", "127.0.0.1:1"], "127.0.0.1:1: no such cluster"), (["--ray", "local", "--slurm", ""], "choose one")])
def test_a_cluster_that_makes_no_sense_is_one_sentence(extract, tmp_path, more, sentence):
    pytest.importorskip("ray")
    assert sentence in extract(*more, code=2) and not (tmp_path / "s").exists()


def test_a_closed_port_is_refused_before_ray_is_imported_which_takes_seconds(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    with pytest.raises(InputError, match=r"127\.0\.0\.1:1: no such cluster"), connected("127.0.0.1:1", device="cpu"):
        pass
    assert "ray" not in sys.modules
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, __spec__=object()))
    with pytest.raises(InputError, match=r"127\.0\.0\.1:1: no such cluster"), connected("127.0.0.1:1", device="cpu"):
        pass


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.2\r\n"])
def test_a_service_that_is_no_cluster_is_refused_soon(extract, tmp_path, monkeypatch, answer):
    """Ray itself waited for fourteen minutes."""
    pytest.importorskip("ray")
    monkeypatch.setattr("twofold.extract.cluster.ray.CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        open_connections = []

        def serve() -> None:
            open_connections.append(server.accept()[0])  # stays open, whether it answers or not
            open_connections[0].sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        sentence = extract("--ray", f"127.0.0.1:{server.getsockname()[1]}", code=2)
    assert "no such cluster" in sentence and not (tmp_path / "s").exists()


# ---------------------------------------------------------------------------------------------------------------- SLURM
def script(cli, drawn, extract_args, path: Path, *more: object):
    return cli(*extract_args(drawn.manifest, drawn.root, path.parent / "a store", "--shard-rows", "7",
                             networks=("timm:test_vit",)), "--slurm-script", path, *more)


def test_the_script_runs_what_was_asked_for(cli, drawn, extract_args, tmp_path):
    """Run by bash as SLURM would run it: three shards, then the last task."""
    path = tmp_path / "job.sbatch"
    done = script(cli, drawn, extract_args, path, "--slurm", "--partition=gpu --gres=gpu:1", "--slurm-tasks", "3")
    assert done.returncode == 0 and f"sbatch --parsable {path}" in done.stdout
    text = path.read_text()
    assert "#SBATCH --partition=gpu --gres=gpu:1\n" in text and "#SBATCH --array=0-2\n" in text
    assert "--shard-rows 7" in text and "--slurm" not in text.split("\n\n")[1] and "'" in text
    subprocess.run(["bash", "-n", path], check=True)
    task = {**os.environ, "SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_JOB_ID": "7"}
    ran = subprocess.run(["bash", path], env=task, text=True, capture_output=True, timeout=240)
    assert ran.returncode == 0 and "47 left for other shards" in ran.stdout, ran.stderr


@pytest.mark.parametrize(("more", "sentence"), [
    (["--slurm", "--array=0-9"], "--array=0-9 cannot be among the options"),
    (["--slurm", "-p 'gpu"], "No closing quotation"), (["--slurm-tasks", "0"], "there is at least one task"),
    (["--shard", "0/2"], "leave out --shard"), (["--views", "sideways"], "unknown view"),
    (["--slurm-script", "a\ntouch b.sbatch"], "a line end or control character"),
])
def test_what_makes_no_sense_is_said_before_anything_is_submitted(cli, drawn, extract_args, tmp_path, more, sentence):
    done = script(cli, drawn, extract_args, tmp_path / "job.sbatch", *more)
    assert done.returncode == 2 and sentence in done.stderr and not (tmp_path / "job.sbatch").exists()


def test_another_file_is_not_overwritten_and_no_slurm_is_said(cli, extract, drawn, extract_args, tmp_path, monkeypatch):
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    done = script(cli, drawn, extract_args, path)
    assert done.returncode == 2 and "not a job script of `extract`" in done.stderr and path.read_text() == "mine"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no sbatch on this machine" in extract("--slurm", "", code=2)
