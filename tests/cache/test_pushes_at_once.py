"""Two processes push different backbones into one shared folder at the same moment: both are in its catalogue.

    TRIALS=1000 python -m pytest tests/cache/test_pushes_at_once.py
"""

import os
import random
import time
from collections import Counter

from twofold.cache.share.transfer import push, shared_listing
from twofold.cache.store import Store

TRIALS = int(os.environ.get("TRIALS", "20"))


def test_pushes_at_once_lose_no_entry_of_the_catalogue(tmp_path, write):
    stores = {}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / f"{name}.h5", rows=20, backbone=f"timm:{name}")
        (tmp_path / name / "manifest.csv").write_text("key\nx.jpg\n")
        stores[name] = Store(tmp_path / name)
        push(stores[name], str(tmp_path / f"warm-{name}"))  # all is imported before the processes start
    chance, outcomes = random.Random(0), Counter()
    for trial in range(TRIALS):
        there = tmp_path / f"there{trial}"
        reading, writing = os.pipe()
        children = [_pushing(store, str(there), chance.uniform(0, 0.005), reading, writing)
                    for store in stores.values()]
        os.close(reading)
        os.close(writing)  # the last end: now both begin
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        listed = {file.name for file in shared_listing(str(there)).catalogue.files}
        outcomes.update(lost=listed != {"a.h5", "b.h5"}, failed=codes != [0, 0], left=len(list(there.glob(".push-*"))))
    assert outcomes == Counter(lost=0, failed=0, left=0), outcomes


def _pushing(store: Store, url: str, delay: float, reading: int, writing: int) -> int:
    if child := os.fork():
        return child
    code = 1
    try:
        os.close(writing)
        os.read(reading, 1)
        time.sleep(delay)
        push(store, url)
        code = 0
    finally:
        os._exit(code)
