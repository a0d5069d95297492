"""Worker processes in each way of starting: a plain clone that is not on the path, a script without a guard, a user
without a home."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = """
import runpy
main = runpy.run_path({pipeline!r})["main"]
print("the script ran")
raise SystemExit(main({words!r}))
"""


@pytest.fixture
def words(tmp_path):
    """A drawn store of two networks is made with two processes, and swept with two."""
    from twofold.data.labels import builtin_taxonomy
    from twofold.data.manifest import Manifest, write_manifest
    from twofold.data.synthetic.dataset import draw_dataset

    table = draw_dataset(tmp_path / "faces", taxonomy=builtin_taxonomy("cexpr7"), per_class=4, size=40, seed=0).table
    splits = ["train", "train", "val", "test"] * 7
    write_manifest(Manifest(table.assign(group=table["key"], split=splits)), tmp_path / "faces.csv")
    (tmp_path / "sweep.toml").write_text('heads = ["linear"]\n[settings]\nepochs = 1\n'
                                         '[grid]\nlr = [0.1, 0.01]\n')
    extract = ["extract", "faces.csv", "--root", "faces", "--store", "store", "--backbones", "timm:test_vit",
               "--weights", "timm:test_vit=random:0", "--precision", "fp32", "--device", "cpu,cpu"]
    return extract, ["sweep", "store", "--config", "sweep.toml", "--out", "swept", "--jobs", "2"]


def run(folder: Path, *command: object, before: tuple[str, ...] = (), **env: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HOME")}
    done = subprocess.run([*before, sys.executable, *map(str, command)], cwd=folder, env={**environment, **env},
                          text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_plain_clone(words, tmp_path):
    for verb in words:
        run(tmp_path, ROOT / "pipeline.py", *verb)
    assert len((tmp_path / "swept/leaderboard.csv").read_text().splitlines()) == 3


@pytest.mark.slow
def test_a_script_without_a_main_guard_runs_once(words, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT.format(pipeline=str(ROOT / "pipeline.py"), words=words[0]))
    assert run(tmp_path, tmp_path / "script.py").count("the script ran") == 1


@pytest.mark.slow
@pytest.mark.parametrize("home", ["", "read-only"])
def test_a_user_without_a_name_and_without_a_home_to_write_to(words, tmp_path, home):
    """As containers start: the user's number is in no list of users, HOME is missing or cannot be written to."""
    stranger = ("unshare", "--user", "--map-user=54321", "--map-group=54321")
    if not shutil.which("unshare") or subprocess.run([*stranger, "true"], capture_output=True).returncode:
        pytest.skip("this system starts no process of an unknown user")
    (tmp_path / "read-only").mkdir(mode=0o555)
    run(tmp_path, ROOT / "pipeline.py", *words[0], before=stranger, **({"HOME": str(tmp_path / home)} if home else {}))
    assert (tmp_path / "store/manifest.csv").is_file()
