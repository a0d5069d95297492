"""Shares of a run for workers that come and go, without a cluster."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from twofold.cache.recipe import Recipe
from twofold.cache.shards import Rows, publish_shard
from twofold.cache.store import Store
from twofold.data.images.sources import ImageRoots
from twofold.data.utils.errors import InputError
from twofold.extract.assignment import Assignment, MissingRows
from twofold.extract.cluster.ray_pool import size_of_workers
from twofold.extract.cluster.shares import LEAST_FACES, Shares
from twofold.extract.plan import ExtractOptions
from twofold.extract.streams import EncoderSource

RECIPES = [Recipe(backbone=name, architecture=name, weights="random:0", tap="t", preprocessing={}, view={"name": "v"},
                  decoder="d", precision="fp32", dtype="float16") for name in ("a", "b")]


def assignment(path, *rows) -> Assignment:
    files = [MissingRows(source=EncoderSource(backbone=recipe.backbone), recipe=recipe, rows=np.array(list(lacking)))
             for recipe, lacking in zip(RECIPES, rows, strict=False)]
    return Assignment(files=files, keys=[f"{row}.png" for row in range(5000)], faces=ImageRoots({}), store=path,
                      device="", options=ExtractOptions())


def wanted(work: Assignment) -> set[tuple[str, str]]:
    return {(file.recipe.backbone, work.keys[row]) for file in work.files for row in file.rows}


def publish(path, recipe, keys, failures=()):
    rows = Rows(keys=keys, sha256=["0" * 64] * len(keys), features=np.ones((len(keys), 4), np.float16),
                failures=dict.fromkeys(failures, "broken"))
    publish_shard(Store(path, new=True), recipe, 4, rows)


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_all_rows_are_dealt_once_in_shares_that_become_smaller(tmp_path, workers):
    work = assignment(tmp_path, range(0, 5000, 2), range(1000, 4000))
    shares, dealt = Shares(work, workers=workers), []
    while shares.left:
        dealt.append(shares.deal())
    assert shares.faces == sum(share.faces for share in dealt) == 4000
    pairs = [pair for share in dealt for pair in wanted(share.assignment)]
    assert len(pairs) == len(set(pairs)) and set(pairs) == wanted(work)
    sizes = [share.faces for share in dealt]
    assert sizes == sorted(sizes, reverse=True) and min(sizes[:-1], default=LEAST_FACES) >= LEAST_FACES
    assert len(sizes) == 1 if workers == 1 else sizes[0] <= 4000 / workers


def test_of_a_lost_share_only_what_is_not_published_is_dealt_again(tmp_path):
    keys = [f"{row}.png" for row in range(5000)]
    publish(tmp_path, RECIPES[0], keys[:100])  # of an earlier run, whose images have changed since
    shares = Shares(assignment(tmp_path, range(300), range(200)), workers=1)
    share = shares.deal()
    publish(tmp_path, RECIPES[0], keys[50:150], failures=keys[150:152])
    publish(tmp_path, RECIPES[1], keys[:200])
    done = shares.take_back(share, reason="gone")
    assert done.rows == {RECIPES[0].fingerprint: 100, RECIPES[1].fingerprint: 200}
    assert done.failures[RECIPES[0].fingerprint] == {"150.png": "broken", "151.png": "broken"}
    rest = shares.deal()
    assert wanted(rest.assignment) == {("a", key) for key in [*keys[:50], *keys[152:300]]} and not shares.left
    assert done.faces == 300 - rest.faces


def test_a_share_that_every_worker_dies_of_ends_the_run(tmp_path):
    shares = Shares(assignment(tmp_path, range(10)), workers=1)
    for _ in range(2):
        shares.take_back(shares.deal(), reason="out of memory")
    with pytest.raises(InputError, match=r"3 workers were lost.*'0\.png' \(out of memory\)"):
        shares.take_back(shares.deal(), reason="out of memory")
    publish(tmp_path, RECIPES[0], ["0.png"])
    shares = Shares(replace(assignment(tmp_path, range(10)), store=tmp_path), workers=1)
    for row in range(1, 9):  # each gets a little further
        share = shares.deal()
        publish(tmp_path, RECIPES[0], [f"{row}.png"])
        shares.take_back(share, reason="out of memory")
    assert {key for _, key in wanted(shares.deal().assignment)} == {"0.png", "9.png"}


def node(cpus: float, gpus: float = 0, *, alive: bool = True) -> dict:
    return {"Alive": alive, "Resources": {"CPU": cpus, **({"GPU": gpus} if gpus else {})}}


@pytest.mark.parametrize(("nodes", "device", "options", "expected"), [
    ([node(8)], "auto", {}, ("cpu", 8, 0, 1)), ([node(8), node(2), node(4, alive=False)], "auto", {}, ("cpu", 2, 0, 5)),
    ([node(32, 4), node(64, 8), node(16)], "auto", {}, ("cuda", 8, 1, 12)),
    ([node(32, 4), node(8)], "cpu", {"cpus": 4}, ("cpu", 4, 0, 10)),
    ([node(0)], "auto", {}, ("cpu", 1, 0, 1)), ([node(4)], "cuda", {"most": 20}, ("cuda", 1, 1, 20)),
])
def test_how_large_workers_are_and_how_many(nodes, device, options, expected):
    size = size_of_workers(nodes, device, **options)
    assert (size.device, size.cpus, size.gpus, size.count) == expected


def test_without_the_library_it_says_how_to_get_it(cli, drawn, extract_args, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    done = cli(*extract_args(drawn.manifest, drawn.root, tmp_path / "s", "--ray", "local"))
    assert done.returncode == 2 and 'pip install "twofold[ray]"' in done.stderr and not (tmp_path / "s").exists()
    done = cli(*extract_args(drawn.manifest, drawn.root, tmp_path / "s", "--ray", "local", "--device", "mps"))
    assert done.returncode == 2
