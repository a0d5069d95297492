"""Fixtures that several test modules share."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The tests' small networks gain nothing from a second thread, and lose much where threads wait for a busy core.
# Set before torch is imported, and handed on to the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test looks for weights on the network
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as twofold sets it, whichever of the two is imported first

# Tests start some hundred processes: where Python may keep nothing, each of them would compile all of twofold again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_configure(config: pytest.Config) -> None:
    """With pytest-xdist: hand out the files in the order below, not those of the most tests first."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that of several workers none is left alone with one in the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real faces and weights beside the checkout; skips where it does not exist."""
    folder = ROOT.parent / "shared" / "real"
    if not folder.is_dir():
        pytest.skip("no real faces beside this checkout (../shared/real)")
    return folder


@pytest.fixture(scope="session")
def cli():
    """Run `python pipeline.py ARGS` within this process, which has torch loaded already; returns as `pipeline` does."""
    from twofold import pipeline

    def run(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess:
        words, out, err = [str(word) for word in arguments], io.StringIO(), io.StringIO()
        with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = pipeline.main(words)
        return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def pipeline():
    """Run `python pipeline.py ARGS` as a person would; returns the finished process (text)."""

    def run(*arguments: object, cwd: Path = ROOT, timeout: float = 240, **env: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, str(ROOT / "pipeline.py"), *map(str, arguments)],
            cwd=cwd, env={**os.environ, **env}, timeout=timeout, text=True, capture_output=True,
        )

    return run


@pytest.fixture
def forked(tmp_path):
    """Start `python pipeline.py ARGS`, perhaps with `code` run before it, in a process that has torch loaded already;
    what still runs when the test ends is killed."""
    from tests.forked import start

    processes = []

    def run(*arguments: object, code: str = ""):
        processes.append(start([str(word) for word in arguments], tmp_path / f"streams{len(processes)}", code=code))
        return processes[-1]

    yield run
    for process in processes:
        process.process.kill()
        process.process.join()
