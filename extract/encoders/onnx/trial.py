"""A foreign ONNX model tried in a process of its own, before it is loaded here: one face, bounded time and memory.

onnxruntime stops a run between two nodes only, and computes what is constant while it loads: one huge operator, or a
loop of them, would keep us for hours or take all memory. There it ends that process.
"""

import json
import signal
import subprocess
from pathlib import Path

from twofold.cache.child import child
from twofold.data.utils.errors import InputError

CPU_SECONDS = 6  #: of one core, to load the model and for its first face; more where the model is large
BYTES_A_SECOND = 100 << 20  #: of the model's files
MEMORY = 768 << 20  #: bytes, and several times the model's
COPIES = 4
WALL_SECONDS = 120  #: on a machine that is busy with other things
TRIAL = "from twofold.extract.encoders.onnx.child import main; main(*sys.argv[1:])"
OUT_OF_MEMORY = ("allocat", "bad_alloc", "memory")


def try_model(path: Path, *, bytes: int, size: int, output: str) -> None:
    """Raises InputError for a model that does not load, or does not embed one face, within the limits.

    bytes: of the model and its data files; size: of the picture's side, 0 for the model's own; output: its name, empty
    for the only one. What else is wrong with its inputs and outputs is left for the caller to say.
    """
    seconds = CPU_SECONDS + bytes // BYTES_A_SECOND
    command = child(TRIAL, path, size, output, seconds, MEMORY + COPIES * bytes)
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=WALL_SECONDS + seconds)
    except subprocess.TimeoutExpired:
        raise _too_long(path, seconds) from None
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise _too_long(path, seconds)
    if done.returncode:
        raise InputError(f"{path} is not an ONNX model that onnxruntime can load: it ends the process that tries it")
    try:
        step, reason = json.loads(done.stdout.decode("utf-8", "replace").splitlines()[-1])
    except (ValueError, IndexError):
        raise InputError(f"{path} is not an ONNX model that onnxruntime can load: it says nothing") from None
    if any(word in reason.lower() for word in OUT_OF_MEMORY):
        raise InputError(f"{path} takes more than {(MEMORY + COPIES * bytes) >> 20} MB for one face: it was refused")
    reason = reason[:200]
    if step == "load":
        raise InputError(f"{path} is not an ONNX model that onnxruntime can load: {reason}")
    if step == "run":
        raise InputError(f"{path} does not run on pictures of {f'side {size}' if size else 'its own size'}: {reason}")


def _too_long(path: Path, seconds: int) -> InputError:
    return InputError(f"{path} takes more than {seconds} seconds for one face, too long to be used")
