"""Array jobs: the script, and a real SLURM on this machine where its daemons can be started."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.extract.stores import assert_equal_stores

CONFIG = """\
ClusterName=twofold
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmUser=root
SlurmctldPort={port}
SlurmdPort={next_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MpiDefault=none
MailProg=/bin/true
SchedulerParameters=batch_sched_delay=0,sched_interval=1
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=9 PreemptMode=OFF
"""


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


@pytest.fixture
def slurm(tmp_path_factory):
    """The environment in which `sbatch` reaches a SLURM of this machine alone; skips where it cannot be started."""
    programs = ("munged", "slurmctld", "slurmd", "sbatch")
    path = f"{os.environ['PATH']}:/usr/sbin"
    if os.getuid() != 0 or any(shutil.which(name, path=path) is None for name in programs):
        pytest.skip("no SLURM here (Debian: slurm-wlm, munge), or not root")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(mode=0o700)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    port, next_port = free_ports()
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=socket.gethostname().split(".")[0], folder=folder, port=port,
                                    next_port=next_port, cpus=os.cpu_count()))
    environment = {**os.environ, "PATH": path, "SLURM_CONF": str(config)}
    munge = [f"--{name}={folder}/munge{end}" for name, end in (
        ("socket", ".socket"), ("key-file", "/key"), ("pid-file", ".pid"), ("seed-file", ".seed"),
        ("log-file", ".log"))]
    try:
        for command in (["munged", "--force", *munge], ["slurmctld"], ["slurmd"]):
            subprocess.run(command, env=environment, check=True, capture_output=True)
        deadline = time.monotonic() + 30
        while slurm_says(environment, "sinfo", "-h", "-p", "main", "-o", "%t") != "idle":
            if time.monotonic() > deadline:
                pytest.skip("SLURM's node does not come up here")
            time.sleep(0.2)
        yield environment
    except subprocess.CalledProcessError as error:
        pytest.skip(f"SLURM does not start here: {error.stderr.decode(errors='replace').strip()[-200:]}")
    finally:
        for name in ("slurmd", "slurmctld", "munge"):
            if (folder / f"{name}.pid").exists():
                os.kill(int((folder / f"{name}.pid").read_text()), 15)


@pytest.mark.slow
def test_a_preempted_array_job_makes_the_file_of_one_process(slurm, cli, drawn, extract_args, tmp_path, monkeypatch):
    """Somebody's urgent job takes all cores in the middle; the tasks are queued again, and go on."""
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    args, store = ("--shard-rows", 7), tmp_path / "s"
    networks = ("timm:resnet50",)  # large enough to be in the middle for seconds
    assert cli(*extract_args(drawn.manifest, drawn.root, tmp_path / "alone", *args, networks=networks)).returncode == 0
    done = cli(*extract_args(drawn.manifest, drawn.root, store, *args, "--slurm", "--ntasks=1 --time=10",
                             "--slurm-tasks", "2", networks=networks), cwd=tmp_path)
    assert done.returncode == 0 and "2 tasks; then job" in done.stdout, done.stderr
    wait_until(lambda: any(store.glob(".shards/*/*.h5")), "no task publishes a part")
    subprocess.run(["sbatch", "--partition=urgent", f"--ntasks={os.cpu_count()}", "--wrap=true", "--output=/dev/null"],
                   env=slurm, check=True, capture_output=True)
    wait_until(lambda: not slurm_says(slurm, "squeue", "-h"), "the job does not end")
    logs = "\n".join(path.read_text() for path in sorted(tmp_path.glob("slurm-*.out")))
    assert "PREEMPTION" in logs and logs.count("left for other shards") >= 1, logs
    assert_equal_stores(store, tmp_path / "alone")


def wait_until(holds: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + 240
    while not holds():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.2)


def slurm_says(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=environment, text=True, capture_output=True).stdout.strip()


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
