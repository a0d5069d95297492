"""Files as a stranger might send them: each is refused with one sentence, quickly, in little memory, and nothing
outside the store is opened (targets are pipes that nobody writes to: opening one would wait for ever)."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import pytest

from tests.cache.attacks import HOSTILE
from tests.cache.conftest import write_random
from tests.cache.version1 import seal
from twofold.cache.format.featurefile import FeatureFile

ROOT = Path(__file__).resolve().parents[2]
MEGABYTES = 1_000  #: of address space for the whole process; Python with h5py and numpy takes about half of it
SECONDS = 20  #: generous; each takes well under one

READ = """
import sys, time
from twofold.cache.errors import CacheError
from twofold.cache.format.featurefile import FeatureFile
from twofold.cache.verify import verify
from pathlib import Path
for path in map(Path, sys.argv[1:]):
    began = time.monotonic()
    try:
        file = FeatureFile(path)
        file.check(), file.read(), file.failures, file.logits()
        sentence = "ACCEPTED"
    except CacheError as error:
        sentence = str(error).replace("\\n", "|")
    assert (verify(path).exit_code == 0) == (sentence == "ACCEPTED")
    print(time.monotonic() - began, sentence, flush=True)
"""


@dataclass(frozen=True)
class Verdict:
    """What reading a file says, and how long it took."""

    seconds: float
    sentence: str


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEGABYTES << 20, MEGABYTES << 20))


def verdicts_on(paths: list[Path]) -> dict[Path, Verdict]:
    """What a process of limited memory, that reads one after the other, says of the files that it came to."""
    done = subprocess.run([sys.executable, "-c", READ, *map(str, paths)], cwd=ROOT, text=True, capture_output=True,
                          timeout=SECONDS * len(paths), preexec_fn=limited, env={**os.environ, "OMP_NUM_THREADS": "1"})
    lines = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"it ended at {paths[len(lines)]}: {done.stderr}"
    return {path: Verdict(float(seconds), sentence) for path, (seconds, sentence) in zip(paths, lines, strict=True)}


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory) -> dict[Callable, tuple[Path, Verdict]]:
    """Of each attack the file and the verdict, all from one process: its limit holds for all of them together."""
    folder = tmp_path_factory.mktemp("hostile")
    pipe = folder / "outside" / "pipe"
    pipe.parent.mkdir()
    os.mkfifo(pipe)
    write_random(folder / "sound.h5", version=1)
    paths = {attack: folder / f"{attack.__name__}.h5" for attack in HOSTILE}
    for attack, path in paths.items():
        shutil.copy(folder / "sound.h5", path)
        with h5py.File(path, "r+", locking=False) as file:
            attack(file, pipe)
    verdicts = verdicts_on([*paths.values()])
    return {attack: (path, verdicts[path]) for attack, path in paths.items()}


@pytest.mark.parametrize("attack", HOSTILE, ids=lambda attack: attack.__name__)
def test_refused_in_little_memory_and_time(verdicts, attack):
    path, verdict = verdicts[attack]
    assert verdict.sentence.startswith(str(path)) and len(verdict.sentence) < 600
    assert any(part in verdict.sentence for part in HOSTILE[attack].split("|")), verdict
    assert verdict.seconds < SECONDS


def test_the_same_file_untouched_is_accepted(write):
    path, _ = write(version=1)
    with h5py.File(path, "r+", locking=False) as file:
        seal(file)
    assert verdicts_on([path])[path].sentence == "ACCEPTED"
    FeatureFile(path).check()


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + bytes(1000), b"PK\x03\x04",
                                     b"\x80\x04\x95."], ids=["empty", "signature", "zeros", "zip", "pickle"])
def test_what_is_no_hdf5_file(tmp_path, content):
    path = tmp_path / "x.h5"
    path.write_bytes(content)
    assert "not a whole HDF5 file" in verdicts_on([path])[path].sentence


def test_a_folder_or_a_pipe_named_like_a_feature_file(cli, tmp_path):
    (tmp_path / "x.h5").mkdir()
    os.mkfifo(tmp_path / "y.h5")
    done = cli("cache", "ls", tmp_path)
    assert done.returncode == 0 and done.stdout.count("unreadable") == 2, done.stdout
    assert cli("cache", "verify", tmp_path).returncode == 1
