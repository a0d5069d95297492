"""Files as a stranger might send them: each is refused with one sentence, quickly, in little memory, and nothing
outside the store is opened (targets are pipes that nobody writes to: opening one would wait for ever)."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest

from tests.cache.attacks import HOSTILE
from tests.cache.version1 import seal
from twofold.cache.format.featurefile import FeatureFile

ROOT = Path(__file__).resolve().parents[2]
MEGABYTES = 1_000  #: of address space for the whole process; Python with h5py and numpy takes about half of it
SECONDS = 20  #: generous; each takes well under one

READ = """
import sys
from twofold.cache.errors import CacheError
from twofold.cache.format.featurefile import FeatureFile
from twofold.cache.verify import verify
from pathlib import Path
for path in map(Path, sys.argv[1:]):
    try:
        file = FeatureFile(path)
        file.check(), file.read(), file.failures, file.logits()
        print("ACCEPTED", flush=True)
    except CacheError as error:
        print(str(error).replace("\\n", "|"), flush=True)
    assert verify(path).exit_code == 1
"""


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEGABYTES << 20, MEGABYTES << 20))


def verdict_on(path: Path) -> str:
    """What reading the file says, in a process of limited memory and time."""
    done = subprocess.run([sys.executable, "-c", READ, str(path)], cwd=ROOT, text=True, capture_output=True,
                          timeout=SECONDS, preexec_fn=limited, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return line


@pytest.mark.parametrize("attack", HOSTILE, ids=lambda attack: attack.__name__)
def test_refused_in_little_memory_and_time(write, tmp_path, attack):
    path, _ = write(version=1)
    pipe = tmp_path / "outside" / "pipe"
    pipe.parent.mkdir()
    os.mkfifo(pipe)
    with h5py.File(path, "r+", locking=False) as file:
        attack(file, pipe)
    began = time.monotonic()
    line = verdict_on(path)
    assert line.startswith(str(path)) and any(part in line for part in HOSTILE[attack].split("|")), line
    assert time.monotonic() - began < SECONDS and len(line) < 600


def test_the_same_file_untouched_is_accepted(write):
    path, _ = write(version=1)
    with h5py.File(path, "r+", locking=False) as file:
        seal(file)
    done = subprocess.run([sys.executable, "-c", READ.replace("== 1", "== 0"), str(path)], cwd=ROOT, text=True,
                          capture_output=True, preexec_fn=limited, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.stdout == "ACCEPTED\n", done.stderr
    FeatureFile(path).check()


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + bytes(1000), b"PK\x03\x04",
                                     b"\x80\x04\x95."], ids=["empty", "signature", "zeros", "zip", "pickle"])
def test_what_is_no_hdf5_file(tmp_path, content):
    path = tmp_path / "x.h5"
    path.write_bytes(content)
    assert "not a whole HDF5 file" in verdict_on(path)


def test_a_folder_or_a_pipe_named_like_a_feature_file(cli, tmp_path):
    (tmp_path / "x.h5").mkdir()
    os.mkfifo(tmp_path / "y.h5")
    done = cli("cache", "ls", tmp_path)
    assert done.returncode == 0 and done.stdout.count("unreadable") == 2, done.stdout
    assert cli("cache", "verify", tmp_path).returncode == 1
