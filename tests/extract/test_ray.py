"""Extraction on a real Ray cluster of this machine: several nodes, some of which are killed.

Two nodes, for the suite's sake; `TWOFOLD_RAY_NODES=4 pytest tests/extract/test_ray.py` for more.
"""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.extract.stores import assert_equal_stores
from tests.extract.test_run import spoil
from twofold.data.manifest import Manifest, write_manifest

ray = pytest.importorskip("ray", reason="Ray is not installed (pip install ray)")
ROOT = Path(__file__).resolve().parents[2]
ONE = ("timm:test_vit",)
NODES = int(os.environ.get("TWOFOLD_RAY_NODES", "2"))
SHARD_ROWS, BATCH, ROUNDS = 32, 8, 4 * NODES
OPEN_ROWS = SHARD_ROWS + BATCH  #: computed and not published: a part on its way to the disk, one that is filled

WATCHED = """
import os, runpy, signal, sys, time
from pathlib import Path
runpy.run_path({pipeline!r})
from twofold.extract.engine.loop import FeatureWriter
add = FeatureWriter.add

def watched(self, batch, features):
    with open({log!r}, "a") as file:
        file.write("".join(sample.key + "\\n" for sample in batch.samples))
    for flag in Path({folder!r}).glob("die"):
        if self.stats.rows[self.recipe.fingerprint] >= 40:
            flag.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    while Path({folder!r}, "wait").exists():
        time.sleep(0.02)
    add(self, batch, features)

FeatureWriter.add = watched
"""


@pytest.fixture
def repeated(tmp_path, monkeypatch):
    """Workers write down which faces they compute, and die where a file `die` says so; how many rows were repeated."""
    script, log = tmp_path / "watched.py", tmp_path / "log"
    script.write_text(WATCHED.format(pipeline=str(ROOT / "pipeline.py"), log=str(log), folder=str(tmp_path)))
    monkeypatch.setattr("twofold.extract.cluster.ray.PIPELINE", script)
    return lambda: len(keys := log.read_text().split()) - len(set(keys))


@pytest.fixture(scope="module")
def cluster():
    """Nodes of one core, and a head without any."""
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    small = {"object_store_memory": 80_000_000, "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    for _ in range(NODES):
        nodes.add_node(num_cpus=1, wait=False, **small)
    nodes.wait_for_nodes()
    yield nodes
    nodes.shutdown()


@pytest.fixture(scope="module")
def many(drawn, tmp_path_factory) -> tuple[Path, list[str]]:
    """The drawn faces again and again, by other keys, and the roots of these."""
    rounds = [drawn.table.table.assign(key=f"r{number}/" + drawn.table.table["key"]) for number in range(ROUNDS)]
    manifest = tmp_path_factory.mktemp("many") / "faces.csv"
    write_manifest(Manifest(pd.concat(rounds, ignore_index=True)), manifest)
    return manifest, [word for number in range(ROUNDS) for word in ("--root", f"r{number}={drawn.root}")]


@pytest.fixture(scope="module")
def words(many, extract_args):
    """The arguments of `extract` for all of them."""
    def make(store: Path, *more: object) -> list[str]:
        args = extract_args(many[0], "ROOT", store, "--shard-rows", SHARD_ROWS, *more, networks=ONE)
        place = args.index("--root")
        return [*args[:place], *many[1], *args[place + 2:]]

    return make


@pytest.fixture(scope="module")
def alone(cli, words, tmp_path_factory) -> Path:
    store = tmp_path_factory.mktemp("alone") / "store"
    assert cli(*words(store)).returncode == 0
    return store


def when_shards(store: Path, count: int, act) -> threading.Thread:
    """Call `act` once so many parts are there."""
    def wait() -> None:
        while len(list(store.glob(".shards/*/*.h5"))) < count:
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2, 4] if NODES > 2 else [NODES])
def test_any_number_of_nodes_makes_the_file_of_one_process(cli, cluster, words, alone, repeated, tmp_path, nodes):
    done = cli(*words(tmp_path / "s", "--ray", cluster.address, "--ray-workers", nodes, "--json"))
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["computed_samples"] == record["computed_rows"] == 70 * ROUNDS and repeated() == 0
    assert_equal_stores(tmp_path / "s", alone)


@pytest.mark.slow
def test_a_lost_node_costs_the_open_parts_at_most(cli, cluster, words, alone, repeated, tmp_path):
    def lose() -> None:
        (tmp_path / "wait").touch()  # nobody is done before the node is gone
        try:
            cluster.remove_node(busy_node(cluster), allow_graceful=False)
        finally:
            (tmp_path / "wait").unlink()

    loss = when_shards(tmp_path / "s", 4, lose)
    done = cli(*words(tmp_path / "s", "--ray", cluster.address, "--ray-workers", 2, "--json"))
    loss.join()
    cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["computed_rows"] == 70 * ROUNDS and 0 <= repeated() <= OPEN_ROWS
    assert_equal_stores(tmp_path / "s", alone)


def busy_node(cluster):
    """A node with a worker that computes."""
    for node in cluster.worker_nodes:
        raylet = node.all_processes["raylet"][0].process.pid
        for path in Path("/proc").glob("[0-9]*/stat"):
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
            if name.startswith("ray::Extractor") and int(rest.split()[1]) == raylet:
                return node
    raise AssertionError("no node has a worker")


@pytest.mark.slow
def test_a_killed_driver_and_a_stopped_one_go_on(cli, forked, cluster, words, alone, repeated, tmp_path):
    store, args = tmp_path / "s", words(tmp_path / "s", "--ray", cluster.address, "--ray-workers", 1)
    killed = forked(*args, code=f"from pathlib import Path; from twofold.extract.cluster import ray; "
                                f"ray.PIPELINE = Path({str(tmp_path / 'watched.py')!r})")
    when_shards(store, 4, lambda: killed.signal(signal.SIGKILL)).join(timeout=120)
    ended, _, err = killed.finish()
    assert ended == -signal.SIGKILL, err
    signalled = when_shards(store, 12, lambda: os.kill(os.getpid(), signal.SIGTERM))
    stopped = cli(*args)
    signalled.join()
    assert stopped.returncode == 128 + signal.SIGTERM and "stopped by SIGTERM" in stopped.stdout, stopped.stderr
    assert "extract:" in stopped.stderr  # the progress bar
    again = cli(*args)
    assert again.returncode == 0 and "nothing to compute" not in again.stdout, again.stderr
    assert 0 <= repeated() <= OPEN_ROWS  # of the worker that died with the first driver
    assert_equal_stores(store, alone)


@pytest.mark.slow
def test_a_worker_out_of_memory_is_replaced_and_failures_are_as_without(extract, cluster, drawn, repeated, tmp_path,
                                                                        caplog):
    """The system ends a process that takes too much by SIGKILL, and so does Ray's memory monitor."""
    bad, root = spoil(drawn.root, tmp_path / "faces")
    for name, more in (("a", ()), ("b", ("--ray", cluster.address, "--ray-workers", 1, "--shard-rows", SHARD_ROWS))):
        (tmp_path / "die").touch()
        record = extract(*more, root=root, store=tmp_path / name, code=1)
        assert set(record["failed_samples"]) == set(bad) and record["computed_rows"] == 70 - len(bad)
    assert caplog.text.count("was lost") == 1 and not (tmp_path / "die").exists()
    assert 0 < repeated() <= OPEN_ROWS
    assert_equal_stores(tmp_path / "a", tmp_path / "b")


@pytest.mark.slow
def test_too_many_failures_end_it_as_without(extract, cluster, drawn, tmp_path):
    _, root = spoil(drawn.root, tmp_path / "faces")
    assert "(--max-failures 1)" in extract("--ray", cluster.address, "--ray-workers", 1, "--max-failures", "1",
                                           root=root, code=2)
