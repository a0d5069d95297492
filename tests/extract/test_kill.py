"""`kill -9` at random moments: nothing published is lost, at most the open part is computed again.

The killed processes are forked from one that has loaded the networks already, so that a kill costs a fraction of a
second. `TWOFOLD_KILLS=200 pytest tests/extract/test_kill.py` gives the README's figure.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from twofold.cache.store import Store
from twofold.data.manifest import Manifest, write_manifest

ROOT = Path(__file__).resolve().parents[2]
SHARD_ROWS = 6
BATCH = 3

DRIVER = """
import json, os, random, signal, sys, time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)

from twofold.cache.store import Store
from twofold.data.images.sources import open_images
from twofold.data.manifest import read_manifest, write_manifest
from twofold.extract.encoders.registry import load_encoder
from twofold.extract.engine.loop import compute_task
from twofold.extract.engine.task import EncoderSource, Encoders, recipe_of
from twofold.extract.extract import finish
from twofold.extract.plan import ExtractOptions, plan, task_of

manifest, root, store, log, kills, shard_rows, batch = sys.argv[1:]
kills, options = int(kills), ExtractOptions(shard_rows=int(shard_rows), workers=1)
table, store, faces = read_manifest(Path(manifest)), Store(store, new=True), open_images(Path(root))
keys = list(table.keys)
encoder = load_encoder("timm:test_vit", weights="random:0", device="cpu", precision="fp32", batch_size=int(batch))
encode = encoder.network

def counted(pixels):
    with open(log, "a") as file:
        file.write("x")
    time.sleep(0.004)
    return encode(pixels)

encoder = replace(encoder, network=counted)

def extract(store):
    source = EncoderSource(backbone="timm:test_vit", precision="fp32")
    plans = plan(store, keys, [(source, encoder, recipe_of(encoder, "original", dtype="float16"))], options)
    store.path.mkdir(parents=True, exist_ok=True)
    task = task_of(plans, options, keys=keys, images=faces, store=store)
    compute_task(task, Encoders("cpu", {{source: encoder}}))
    finish(store, plans, keys)

def start(store):
    child = os.fork()
    if not child:
        try:
            extract(store)
        finally:
            os._exit(0)
    return child

began = time.perf_counter()
os.waitpid(start(Store(store.path.with_name("calm"), new=True)), 0)
longest = 0.8 * (time.perf_counter() - began)
needed = len(Path(log).read_text())
Path(log).write_text("")

draw, killed, finished = random.Random(0), 0, 0
while killed < kills:
    child = start(store)
    time.sleep(draw.uniform(0, longest))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        killed += 1
    else:
        finished += 1
        for path in store.path.glob("*.h5"):  # done before the kill came: begin again
            path.unlink()
extract(store)
print(json.dumps({{"killed": killed, "finished": finished, "longest": round(longest, 3), "batches needed": needed}}))
"""


@pytest.mark.slow
def test_kills_lose_nothing(drawn, tmp_path):
    kills = int(os.environ.get("TWOFOLD_KILLS", "25"))
    table, keys = tmp_path / "faces.csv", list(drawn.table.keys)
    write_manifest(Manifest(drawn.table.table), table)
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER.format(root=str(ROOT)))
    log = tmp_path / "batches"
    words = map(str, (driver, table, drawn.root, tmp_path / "killed", log, kills, SHARD_ROWS, BATCH))
    done = subprocess.run([sys.executable, *words], text=True, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr
    counts, batches = json.loads(done.stdout), len(log.read_text())
    calm, rough = (Store(tmp_path / name).find("timm:test_vit") for name in ("calm", "killed"))
    assert rough.keys.tolist() == calm.keys.tolist() == keys
    np.testing.assert_array_equal(rough.read(), calm.read())
    assert not (tmp_path / "killed" / ".shards").exists() and not list((tmp_path / "killed").glob(".tmp-*"))
    assert counts["killed"] == kills and counts["batches needed"] == -(-len(keys) // BATCH)
    again = batches - (counts["finished"] + 1) * counts["batches needed"]
    print(f"{counts}: {again} batches of {BATCH} faces computed again after {kills} kills, parts of {SHARD_ROWS} faces")
    assert 0 <= again <= kills * (SHARD_ROWS // BATCH + 1)
