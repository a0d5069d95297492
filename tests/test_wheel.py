"""What `pip install .` gives, away from the clone: the wheel is built and installed into an environment of its own."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STARTER = Path("fuse/starter")
PAGE = Path("fuse/serve/page")  #: what `serve` shows: files that are no modules


def run(*words: object, cwd: Path, **env: str) -> str:
    """What a command prints; it must end with code 0."""
    done = subprocess.run([str(word) for word in words], cwd=cwd, text=True, capture_output=True, timeout=240,
                          env={**os.environ, **env})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installation(tmp_path_factory) -> Path:
    """The folder of an environment into which the wheel was installed; its other packages are this environment's."""
    pytest.importorskip("setuptools", "77", reason="building a wheel without network takes setuptools 77 or newer")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    with (ROOT / "pyproject.toml").open("rb") as file:
        packages = tomllib.load(file)["tool"]["setuptools"]["packages"]
    shutil.copytree(ROOT / PAGE, source / PAGE)
    for place in [Path(*package.split(".")[1:]) for package in packages]:
        (source / place).mkdir(parents=True, exist_ok=True)
        for path in (ROOT / place).glob("*.py"):
            shutil.copy(path, source / place)
    (source / STARTER).mkdir()
    (source / STARTER / "encoder.safetensors").write_bytes(b"weights")
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements.txt"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    run(*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder, source, cwd=folder)
    run(sys.executable, "-m", "venv", "--without-pip", folder / "env", cwd=folder)
    wheel, = folder.glob("twofold-*.whl")
    run(*pip, "--python", folder / "env", "install", "--no-deps", "--no-index", wheel, cwd=folder)
    return folder / "env"


@pytest.fixture
def away(installation, tmp_path):
    """Run a program of that environment in an empty folder."""
    libraries = sysconfig.get_path("purelib")

    def run_away(program: str, *words: object) -> str:
        return run(installation / "bin" / program, *words, cwd=tmp_path, PYTHONPATH=libraries)

    return run_away


def test_the_command_answers_and_importing_it_loads_nothing_heavy(away, tmp_path):
    assert "manifest" in away("twofold", "--help") and away("twofold", "cache", "ls", "--help")
    (tmp_path / "store").mkdir()
    assert "no feature files" in away("twofold", "cache", "ls", "store")
    code = "import twofold, sys; print(*{'torch', 'pandas', 'h5py', 'numpy', 'typer'} & sys.modules.keys())"
    assert away("python", "-c", code).split() == []


def test_every_module_and_the_page_of_serve_are_in_the_wheel(installation):
    library, = installation.glob("lib/python*/site-packages/twofold")
    tracked = {path.relative_to(ROOT) for folder in ("data", "cache", "extract", "fuse")
               for path in (ROOT / folder).rglob("*.py")}
    assert {path.relative_to(library) for path in library.rglob("*.py")} == tracked | {Path("__init__.py"),
                                                                                     Path("pipeline.py")}
    assert {path.name: path.read_bytes() for path in (library / PAGE).iterdir()} == {
        path.name: path.read_bytes() for path in (ROOT / PAGE).iterdir()}
    assert (library / STARTER / "encoder.safetensors").read_bytes() == b"weights"
