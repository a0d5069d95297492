"""The process in which a foreign ONNX model is tried (see `trial`): it imports onnxruntime and numpy alone."""

import json
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


def main(path: str, size: str, output: str, seconds: str, memory: str) -> None:
    """Load the model and run it on one grey picture; prints [step, reason] of what failed, ["", ""] if nothing did."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    _limit(int(seconds), int(memory))
    step = "load"
    try:
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        fed, names = _picture(session, int(size)), [part.name for part in session.get_outputs()]
        step = "run"
        if fed is not None and (output in names or len(names) == 1):
            session.run([output or names[0]], {session.get_inputs()[0].name: fed})
        step, reason = "", ""
    except Exception as error:  # onnxruntime's own kinds
        reason = " ".join(str(error).split())[:2_000] or type(error).__name__
    print(json.dumps([step, reason]))


def _picture(session: Any, size: int) -> np.ndarray | None:
    """What the model is to be fed with; None for inputs that are no batch of pictures, or of unknown size."""
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in TYPES:
        return None
    batch, *shape = inputs[0].shape
    last = shape[2] == 3 and shape[0] != 3
    side = size or (shape[1] if last else shape[2])
    if not isinstance(side, int):
        return None
    count = batch if isinstance(batch, int) and batch > 0 else 1
    return np.zeros((count, side, side, 3) if last else (count, 3, side, side), TYPES[inputs[0].type])


def _limit(seconds: int, memory: int) -> None:
    """Of the processor's time and of address space, beyond what this process has taken until now."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime) + 1 + seconds
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CPU, (most, most + 1))
    status = Path("/proc/self/statm")
    if status.exists():
        taken = int(status.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + memory, taken + memory))
