"""A few trials of `trials.py`, of each contest, with real processes; figures of many are in cache/MEASURED.md."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cache.contenders import CONTESTS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_two_processes_at_once_lose_nothing(tmp_path):
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run([sys.executable, "-m", "tests.cache.trials", "--trials", "3", "--folder", str(tmp_path)],
                          cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, text=True, capture_output=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": 3 trials (seed 0), 0 with something lost") == len(CONTESTS)
