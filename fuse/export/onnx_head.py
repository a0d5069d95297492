"""A run's head as an ONNX model, for programs that have neither Python nor torch; and writing any such model."""

import json
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from twofold.data.utils.errors import InputError, first_line
from twofold.fuse.runs.run import Run

CLOSE = 1e-5  #: how far the written model's probabilities may be from the run's own
TAIL_BYTES = 1 << 20
FACES = 64  #: that they are compared on


class CalibratedHead(nn.Module):
    """Raw features (N, D) to the run's calibrated probabilities (N, C): standardisation, all members, temperature."""

    def __init__(self, run: Run):
        super().__init__()
        self.head, self.temperature = run.head, run.temperature

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        mean = self.head(features).logits.softmax(dim=-1).mean(dim=0)
        return (mean.clamp_min(1e-12).log() / self.temperature).softmax(dim=-1)


def is_onnx_head(path: Path) -> bool:
    """True for a file that `write_onnx_head` wrote: its properties, which stand last, tell."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        tail = file.read()
    return b"classes" in tail and b"streams" in tail


def write_onnx_head(run: Run, path: Path) -> float:
    """Write the head, then run it beside the run on drawn features; returns the largest difference.

    The model's input is `features` (N, D) float32, streams side by side in the run's order, its output
    `probabilities` (N, C); the names of both stand in its metadata. Raises InputError if the packages for it are
    absent, or if the written model does not say what the run says.
    """
    dim = sum(run.head.spec.dims)
    features = torch.randn(FACES, dim, generator=torch.Generator().manual_seed(0))
    features = features * run.head.std.mean(dim=0) + run.head.mean.mean(dim=0)
    return write_onnx(CalibratedHead(run), features, run.probabilities(features.numpy()), path, run=run,
                      name="features", close=CLOSE, facts={})


def write_onnx(module: nn.Module, example: torch.Tensor, expected: np.ndarray, path: Path, *, run: Run, name: str,
               close: float, facts: dict[str, object]) -> float:
    """Write `module` as a model of any number of rows, from `name` to `probabilities`, and run it on the example;
    returns the largest difference from what is expected.

    Classes, streams and `facts` stand as JSON in its metadata. Raises InputError if the packages for it are absent, if
    the module cannot be traced, or if the difference is not below `close`.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 (the exporter wants it)
    except ImportError as error:
        raise InputError(f"writing ONNX needs {error.name}: pip install onnx onnxscript onnxruntime") from None
    logging.getLogger("onnxscript").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                module.eval(), (example,), dynamo=True, verbose=False, input_names=[name],
                output_names=["probabilities"], dynamic_shapes=({0: torch.export.Dim("faces")},))
        except Exception as error:  # the tracer's own kinds
            raise InputError(f"{run.path}: it cannot be traced into ONNX: {first_line(error)}") from None
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in {
        "classes": run.taxonomy.classes,
        "streams": [[backbone, view, recipe.fingerprint] for backbone, view, recipe in run.streams], **facts}.items()})
    onnx.save(model, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    difference = float(np.abs(np.asarray(session.run(None, {name: example.numpy()})[0]) - expected).max())
    if not difference < close:
        raise InputError(f"{path}: the written model differs from the run by {difference:.2g}: do not use it")
    return difference
