"""Extraction as an array job of SLURM: a shard a task, and one more task that assembles once all others have ended.

One script is both: the array's tasks take a shard each, the task after the last one takes what is left. Plain `sbatch`
suffices for that; what is submitted is what `--slurm-script` writes.
"""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from twofold.data.utils.errors import InputError
from twofold.data.utils.outputs import Output, OutputKind, read_head
from twofold.data.utils.terminal import Summary

WARNING_SECONDS = 60  #: before the time limit, at which a task finishes its batches and asks for another turn
OURS = ("--array", "-a", "--dependency", "-d", "--requeue", "--no-requeue", "--signal", "--wrap")

SCRIPT = """\
#!/bin/bash
# Twofold: submit this file, and then once more for what is left and for assembling:
#   job=$(sbatch --parsable {file}) && sbatch --dependency=afterany:$job --array={tasks} {file}
#SBATCH --job-name=twofold-extract
#SBATCH {options}
#SBATCH --array=0-{last}
#SBATCH --requeue --open-mode=append
#SBATCH --signal=B:USR1@{warning}

shard="--shard $SLURM_ARRAY_TASK_ID/{tasks}"
[ "$SLURM_ARRAY_TASK_ID" -eq {tasks} ] && shard=""
again=""
trap 'again=yes; kill -TERM "$child"' USR1  # the time is nearly over: whatever is computed stays, the rest goes on
trap 'kill -TERM "$child"' TERM
{command} $shard &
child=$!
while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done
if [ -n "$again" ] && [ "$code" -eq 143 ]; then
    exec scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
fi
exit "$code"
"""
JOB_SCRIPT = OutputKind("a job script of `extract`", lambda path: "# Twofold: submit this file" in read_head(path),
                        repeatable=True)


def submit_or_write(words: Sequence[str], *, options: str, tasks: int, path: Path | None, overwrite: bool = False
                    ) -> Summary:
    """Submit the array and the job that depends on it; with a path write the job script there instead.

    words: the arguments of `extract`; options: as `sbatch` takes them. Raises InputError for options that Twofold sets,
    fewer than one task, a file name of several lines, another file there, and with what SLURM says if it refuses.
    """
    if tasks < 1:
        raise InputError(f"--slurm-tasks {tasks}: there is at least one task")
    file = str(path or "FILE")
    if not file.isprintable():  # it is named in a comment of the script
        raise InputError(f"--slurm-script {file!r}: a line end or control character in the name of a script")
    try:
        switches = shlex.split(options)
    except ValueError as error:
        raise InputError(f"--slurm {options!r}: {error}") from None
    taken = [word for word in switches if word.split("=")[0] in OURS]
    if taken or "\n" in options:
        what = taken[0] if taken else "a line end"
        raise InputError(f"--slurm: {what} cannot be among the options: {', '.join(OURS)} are given by Twofold "
                         "(--slurm-tasks says how many tasks)")
    pipeline = str(Path(__file__).parents[2] / "pipeline.py")  # the command line, installed or in a plain clone
    text = SCRIPT.format(options=options or "--ntasks=1", tasks=tasks, last=tasks - 1, warning=WARNING_SECONDS,
                         command=shlex.join([sys.executable, pipeline, "extract", *words]), file=shlex.quote(file))
    record = {"tasks": tasks, "script": str(path or text), "job": "", "last": ""}
    if path:
        Output(path, JOB_SCRIPT, overwrite).write_text(text)
        name = shlex.quote(file)
        return Summary([f"{tasks} tasks -> {path}: submit it with", f"  job=$(sbatch --parsable {name}) && "
                        f"sbatch --dependency=afterany:$job --array={tasks} {name}"], record)
    job = _sbatch(text)
    try:
        last = _sbatch(text, f"--dependency=afterany:{job}", f"--array={tasks}")
    except InputError:
        subprocess.run(["scancel", job], check=False)
        raise
    return Summary([f"job {job}: {tasks} tasks; then job {last} computes what is left and assembles",
                    f"`squeue --job {job},{last}` shows how far they are, `cache ls` what is there"],
                   record | {"job": job, "last": last})


def _sbatch(text: str, *options: str) -> str:
    """Submit a script through standard input; return the number of the job."""
    if shutil.which("sbatch") is None:
        raise InputError("--slurm: there is no sbatch on this machine: submit where there is, or write the script with "
                         "--slurm-script FILE and take it there")
    done = subprocess.run(["sbatch", "--parsable", *options], input=text, text=True, capture_output=True)
    if done.returncode:
        raise InputError(f"--slurm: SLURM refuses the job: {' '.join(done.stderr.split())}")
    return done.stdout.strip().split(";")[0]
