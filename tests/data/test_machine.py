"""How threads wait, in every entry; and the names of devices."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from twofold.data.utils.errors import InputError
from twofold.data.utils.machine import limit_openmp_spinning, openmp_settings, resolve_device

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = {
    "python -c 'import twofold'": ["-c", "import twofold, torch"],
    "python pipeline.py": ["-c", f"import sys, runpy; sys.argv = ['pipeline.py', '--help']\n"
                                 f"try: runpy.run_path({str(ROOT / 'pipeline.py')!r}, run_name='__main__')\n"
                                 f"except SystemExit: import torch"],
    "a worker process": ["-c", "import twofold, subprocess, sys\n"
                               "subprocess.run([sys.executable, '-c', 'import torch'], check=True)"],
}


def displayed(words: list[str], **environment: str) -> str:
    """What GNU's OpenMP says of itself when it is loaded."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, *words], text=True, capture_output=True, timeout=120, cwd=ROOT, env={
        **inherited, "OMP_DISPLAY_ENV": "VERBOSE", **environment})
    assert done.returncode == 0, done.stderr
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("torch does not use GNU's OpenMP here")
    return done.stderr


@pytest.mark.parametrize("entry", ENTRIES)
def test_openmp_threads_give_up_spinning_soon_in_every_entry(entry):
    assert "GOMP_SPINCOUNT = '1000'" in displayed(ENTRIES[entry])


def test_the_users_own_waiting_is_kept():
    assert "GOMP_SPINCOUNT = '77'" in displayed(["-c", "import twofold, torch"], GOMP_SPINCOUNT="77")


def test_a_wait_policy_of_the_user_is_all_that_counts():
    environment = {"OMP_WAIT_POLICY": "active"}
    limit_openmp_spinning(environment)
    assert environment == {"OMP_WAIT_POLICY": "active"}
    assert openmp_settings(environment) == "OMP_WAIT_POLICY=active"
    assert openmp_settings({}) == "as the OpenMP library likes"


@pytest.mark.parametrize("text", ["gpu", "", "cpu:1", "cuda:", "cuda:x", "cuda:²", "cuda:-1", "meta", "auto:0", "CPU"])
def test_a_name_that_is_no_device(text):
    with pytest.raises(InputError, match="unknown device"):
        resolve_device(text, cuda_devices=2, mps=True)


@pytest.mark.parametrize("text", ["cuda", "cuda:0", "mps"])
def test_a_device_that_is_not_here(text):
    with pytest.raises(InputError, match=f"device {text} is not on this machine"):
        resolve_device(text, cuda_devices=0, mps=False)


def test_auto_takes_the_best_device_there_is():
    assert resolve_device("auto", cuda_devices=1, mps=True) == "cuda"
    assert resolve_device("auto", cuda_devices=0, mps=True) == "mps"
    assert resolve_device("auto", cuda_devices=0, mps=True, auto=("cuda", "cpu")) == "cpu"
    assert [resolve_device(text, cuda_devices=2, mps=False) for text in ("auto", "cpu", "cuda:1")] == [
        "cuda", "cpu", "cuda:1"]
