"""Array jobs of SLURM: the job script, run by bash as SLURM would run it."""

import os
import subprocess
from pathlib import Path

import pytest


def script(cli, drawn, extract_args, path: Path, *more: object):
    return cli(*extract_args(drawn.manifest, drawn.root, path.parent / "a store", "--shard-rows", "7",
                             networks=("timm:test_vit",)), "--slurm-script", path, *more)


def test_the_script_runs_what_was_asked_for(cli, drawn, extract_args, tmp_path):
    """Run by bash as SLURM would run it: three shards, then the last task."""
    path = tmp_path / "job.sbatch"
    done = script(cli, drawn, extract_args, path, "--slurm", "--partition=gpu --gres=gpu:1", "--slurm-tasks", "3")
    assert done.returncode == 0 and f"sbatch --parsable {path}" in done.stdout
    text = path.read_text()
    assert "#SBATCH --partition=gpu --gres=gpu:1\n" in text and "#SBATCH --array=0-2\n" in text
    assert "--shard-rows 7" in text and "--slurm" not in text.split("\n\n")[1] and "'" in text
    subprocess.run(["bash", "-n", path], check=True)
    task = {**os.environ, "SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_JOB_ID": "7"}
    ran = subprocess.run(["bash", path], env=task, text=True, capture_output=True, timeout=240)
    assert ran.returncode == 0 and "47 left for other shards" in ran.stdout, ran.stderr


@pytest.mark.parametrize(("more", "sentence"), [
    (["--slurm", "--array=0-9"], "--array=0-9 cannot be among the options"),
    (["--slurm", "-p 'gpu"], "No closing quotation"), (["--slurm-tasks", "0"], "there is at least one task"),
    (["--shard", "0/2"], "leave out --shard"), (["--views", "sideways"], "unknown view"),
    (["--slurm-script", "a\ntouch b.sbatch"], "a line end or control character"),
])
def test_what_makes_no_sense_is_said_before_anything_is_submitted(cli, drawn, extract_args, tmp_path, more, sentence):
    done = script(cli, drawn, extract_args, tmp_path / "job.sbatch", *more)
    assert done.returncode == 2 and sentence in done.stderr and not (tmp_path / "job.sbatch").exists()


def test_another_file_is_not_overwritten_and_no_slurm_is_said(cli, drawn, extract_args, tmp_path, monkeypatch):
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    done = script(cli, drawn, extract_args, path)
    assert done.returncode == 2 and "not a job script of `extract`" in done.stderr and path.read_text() == "mine"
    monkeypatch.setenv("PATH", str(tmp_path))
    done = cli(*extract_args(drawn.manifest, drawn.root, tmp_path / "s", "--slurm", ""))
    assert done.returncode == 2 and "no sbatch on this machine" in done.stderr
