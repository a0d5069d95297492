"""Fixtures that several test modules share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real faces and weights beside the checkout; skips where it does not exist."""
    folder = ROOT.parent / "shared" / "real"
    if not folder.is_dir():
        pytest.skip("no real faces beside this checkout (../shared/real)")
    return folder


@pytest.fixture(scope="session")
def pipeline():
    """Run `python pipeline.py ARGS` as a person would; returns the finished process (text)."""

    def run(*arguments: object, cwd: Path = ROOT, timeout: float = 240, **env: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, str(ROOT / "pipeline.py"), *map(str, arguments)],
            cwd=cwd, env={**os.environ, **env}, timeout=timeout, text=True, capture_output=True,
        )

    return run
