"""How threads wait, in every entry; and the names of devices."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from twofold.data.utils.errors import InputError
from twofold.data.utils.machine import free_memory, limit_openmp_spinning, openmp_settings, resolve_device, usable_cores

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = [str(path) for place in find_spec("torch").submodule_search_locations
             for path in (Path(place) / "lib").glob("libgomp*")]
LOAD = f"import ctypes; ctypes.CDLL(*{LIBRARIES[:1]!r})"  #: torch's OpenMP without torch, which takes seconds
ENTRIES = {
    "python -c 'import twofold'": ["-c", f"import twofold; {LOAD}"],
    "python pipeline.py": ["-c", f"import sys, runpy; sys.argv = ['pipeline.py', '--help']\n"
                                 f"try: runpy.run_path({str(ROOT / 'pipeline.py')!r}, run_name='__main__')\n"
                                 f"except SystemExit: {LOAD}"],
    "a worker process": ["-c", "import twofold, subprocess, sys\n"
                               f"subprocess.run([sys.executable, '-c', {LOAD!r}], check=True)"],
}


def displayed(words: list[str], **environment: str) -> str:
    """What GNU's OpenMP says of itself when it is loaded."""
    if not LIBRARIES:
        pytest.skip("torch does not use GNU's OpenMP here")
    inherited = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, *words], text=True, capture_output=True, timeout=120, cwd=ROOT, env={
        **inherited, "OMP_DISPLAY_ENV": "VERBOSE", **environment})
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("entry", ENTRIES)
def test_openmp_threads_give_up_spinning_soon_in_every_entry(entry):
    assert "GOMP_SPINCOUNT = '1000'" in displayed(ENTRIES[entry])


def test_the_users_own_waiting_is_kept():
    assert "GOMP_SPINCOUNT = '77'" in displayed(["-c", f"import twofold; {LOAD}"], GOMP_SPINCOUNT="77")
    environment = {"OMP_WAIT_POLICY": "active"}
    limit_openmp_spinning(environment)
    assert environment == {"OMP_WAIT_POLICY": "active"}
    assert openmp_settings(environment) == "OMP_WAIT_POLICY=active"
    assert openmp_settings({}) == "as the OpenMP library likes"


@pytest.mark.parametrize(("text", "cuda", "mps", "says"), [
    *((text, 2, True, "unknown device") for text in ("gpu", "", "cpu:1", "cuda:", "cuda:x", "cuda:²", "cuda:-1", "meta",
                                                     "auto:0", "CPU")),
    *((text, 0, False, f"device {text} is not on this machine") for text in ("cuda", "cuda:0", "mps"))])
def test_a_name_that_is_no_device_or_none_that_is_here(text, cuda, mps, says):
    with pytest.raises(InputError, match=says):
        resolve_device(text, cuda_devices=cuda, mps=mps)


def test_auto_takes_the_best_device_there_is():
    assert resolve_device("auto", cuda_devices=1, mps=True) == "cuda"
    assert resolve_device("auto", cuda_devices=0, mps=True) == "mps"
    assert resolve_device("auto", cuda_devices=0, mps=True, auto=("cuda", "cpu")) == "cpu"
    assert [resolve_device(text, cuda_devices=2, mps=False) for text in ("auto", "cpu", "cuda:1")] == [
        "cuda", "cpu", "cuda:1"]


LIMITS = {
    "version 2": ("0::/job/step\n", {"job/memory.max": "600000000", "job/memory.current": "250000000",
                  "job/memory.stat": "anon 1\ninactive_file 50000000\n", "job/step/memory.max": "max",
                  "job/step/memory.current": "1", "job/cpu.max": "100000 100000", "job/step/cpu.max": "max 100000"}),
    "version 1": ("7:cpu,cpuacct:/job\n5:memory:/job\n", {"memory/job/memory.limit_in_bytes": "600000000",
                  "memory/job/memory.usage_in_bytes": "250000000",
                  "memory/job/memory.stat": "inactive_file 1\ntotal_inactive_file 50000000\n",
                  "memory/memory.limit_in_bytes": "9223372036854771712", "memory/memory.usage_in_bytes": "9e9",
                  "cpu/job/cpu.cfs_quota_us": "100000", "cpu/job/cpu.cfs_period_us": "100000",
                  "cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}),
    "version 1, controllers in one folder, a line of another kind": (
        "garbage\n7:cpu,cpuacct:/job\n5:memory:/job\n", {
            "cpu,cpuacct/job/cpu.cfs_quota_us": "100000", "cpu,cpuacct/job/cpu.cfs_period_us": "100000",
            "memory/job/memory.limit_in_bytes": "500000000", "memory/job/memory.usage_in_bytes": "100000000"}),
    "a soft limit": ("0::/job\n", {"job/memory.max": "max", "job/memory.high": "500000000",
                                   "job/memory.current": "100000000", "job/cpu.max": "50000 100000"}),
}


@pytest.mark.parametrize("version", LIMITS)
def test_the_limits_of_containers_and_jobs_count(tmp_path, monkeypatch, version):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {*range(64)}, raising=False)
    groups, files = LIMITS[version]
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 64000000 kB\n")
    assert (free_memory(tmp_path), usable_cores(tmp_path)) == (64e6 * 1024, 64)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert (free_memory(tmp_path), usable_cores(tmp_path)) == (400e6, 1)
