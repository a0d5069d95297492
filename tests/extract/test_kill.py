"""`kill -9` at random moments: nothing published is lost, at most the open part is computed again.

The killed processes are forked from one that has loaded the networks already, so that a kill costs a fraction of a
second. `TWOFOLD_KILLS=200 pytest tests/extract/test_kill.py` gives the README's figure.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.extract.stores import assert_equal_stores

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

from twofold.extract.encoders.registry import load_encoder
from twofold.extract.engine import task
from twofold.extract.extract import extract
from twofold.extract.plan import ExtractOptions, open_workspace
from twofold.extract.streams import parse_streams

manifest, root, store, log, kills, shard_rows, batch = sys.argv[1:]
kills, options, store = int(kills), ExtractOptions(shard_rows=int(shard_rows), workers=1), Path(store)
encoder = load_encoder("timm:test_vit", weights="random:0", device="cpu", precision="fp32", batch_size=int(batch))

def counted(pixels):
    with open(log, "a") as file:
        file.write("x")
    time.sleep(0.004)
    return encoder.network(pixels)

task.load_encoder = lambda *_, **how: replace(encoder, network=counted)

def run(store):
    extract(open_workspace(Path(manifest), [root], store), parse_streams(["timm:test_vit"], precision="fp32"), options)

def start(store):
    child = os.fork()
    if not child:
        try:
            run(store)
        finally:
            os._exit(0)
    return child

began = time.perf_counter()
os.waitpid(start(store.with_name("calm")), 0)
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
        for path in store.glob("*.h5"):  # done before the kill came: begin again
            path.unlink()
run(store)
print(json.dumps({{"killed": killed, "finished": finished, "longest": round(longest, 3), "batches needed": needed}}))
"""


@pytest.mark.slow
def test_kills_lose_nothing(drawn, tmp_path):
    kills = int(os.environ.get("TWOFOLD_KILLS", "12"))
    driver, log = tmp_path / "driver.py", tmp_path / "batches"
    driver.write_text(DRIVER.format(root=str(ROOT)))
    words = map(str, (driver, drawn.manifest, drawn.root, tmp_path / "killed", log, kills, SHARD_ROWS, BATCH))
    done = subprocess.run([sys.executable, *words], text=True, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr
    counts, batches = json.loads(done.stdout), len(log.read_text())
    assert_equal_stores(tmp_path / "killed", tmp_path / "calm")
    assert counts["killed"] == kills and counts["batches needed"] == -(-len(drawn.table) // BATCH)
    again = batches - (counts["finished"] + 1) * counts["batches needed"]
    print(f"{counts}: {again} batches of {BATCH} faces computed again after {kills} kills")
    assert 0 <= again <= kills * (SHARD_ROWS // BATCH + 1)
