"""Writing a module as an ONNX model, and running it: what the head and the whole from a face on have in common."""

import json
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from twofold.data.errors import InputError, first_line
from twofold.fuse.runs.run import Run


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
