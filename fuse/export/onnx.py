"""A run as ONNX models, for programs that have neither Python nor torch: its head, and encoders with head."""

import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from twofold.data.utils.errors import InputError, first_line
from twofold.fuse.runs.read import Run

TAIL_BYTES = 1 << 20
FRAMES = 12  #: of the drawn clips that a model is tried on


class Encoders(Protocol):
    """The encoders of a run's streams, as `extract.portable.ExportedEncoders` has them."""

    @property
    def modules(self) -> Sequence[nn.Module]: ...
    @property
    def inputs(self) -> Sequence[dict[str, Any]]: ...
    @property
    def input_of(self) -> Sequence[int]: ...
    @property
    def licences(self) -> Sequence[str]: ...
    def features(self, pixels: Sequence[np.ndarray]) -> np.ndarray: ...


class CalibratedHead(nn.Module):
    """Raw features (N, D), of clips (N, T, D), to the run's calibrated outputs (N, C): standardisation, all members,
    temperature."""

    def __init__(self, run: Run):
        super().__init__()
        self.head, self.task, self.calibration = run.head, run.task, run.calibration

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.task.calibrate_in_torch(
            self.head.spec.link(self.head(features.flatten(1)).logits).mean(dim=0), self.calibration)


class FaceModel(nn.Module):
    """Pixels (N, 3, H, W) uint8 RGB of each input to the run's calibrated outputs (N, C)."""

    def __init__(self, run: Run, encoders: Encoders):
        super().__init__()
        self.encoders, self.head = nn.ModuleList(encoders.modules), CalibratedHead(run)
        self.input_of = list(encoders.input_of)

    def forward(self, *pixels: torch.Tensor) -> torch.Tensor:
        features = [encoder(pixels[number]) for encoder, number in zip(self.encoders, self.input_of, strict=True)]
        return self.head(torch.cat(features, dim=1))


def output_name(run: Run) -> str:
    """What the outputs are."""
    return "numbers" if all(run.task.numbers) else "outputs" if any(run.task.numbers) else "probabilities"


def _output_facts(run: Run) -> dict[str, object]:
    """What the columns of the output are."""
    facts: dict[str, object] = {"task": run.task.kind, "classes": list(run.task.outputs)}
    return facts | {"thresholds": list(run.calibration.thresholds)} if run.calibration.thresholds else facts


def is_exported_model(path: Path) -> bool:
    """True for a file that was written here: its properties, which stand last, tell."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        tail = file.read()
    return b"classes" in tail and b"streams" in tail


def face_record(run: Run, encoders: Encoders) -> dict[str, Any]:
    """What a program must know to use the model with encoders: how a face becomes its inputs, and its classes."""
    names = ["faces"] if len(encoders.inputs) == 1 else [f"faces_{n}" for n in range(1, len(encoders.inputs) + 1)]
    return {
        "inputs": [{"name": name, "shape": ["N", 3, *each["size"]], "dtype": "uint8", "colour": "RGB",
                    "preprocessing": each} for name, each in zip(names, encoders.inputs, strict=True)],
        "normalisation": "inside the model", "crops": list(run.record.crops),
        "output": {"name": output_name(run), "shape": ["N", len(run.task.outputs)], **_output_facts(run)},
        "streams": [{"backbone": backbone, "view": view, "fingerprint": recipe.fingerprint, "licence": licence}
                    for (backbone, view, recipe), licence in zip(run.streams, encoders.licences, strict=True)]}


def write_model(run: Run, path: Path, encoders: Encoders | None = None) -> float:
    """Write the head, or encoders and head, as a model of any number of rows; run it beside the run on drawn inputs and
    return the largest difference, of numbers beyond one its share of them.

    The head's input is `features` (N, D) float32, streams side by side in the run's order, of clips (N, T, D) with nan
    beyond their end; those of encoders and head
    are (N, 3, H, W) uint8 RGB, resized and cropped as `face_record` says. The output is `probabilities`, `numbers` or,
    of several tasks, `outputs` (N, C). Task, classes, thresholds and streams stand as JSON in the metadata. Raises
    InputError if the packages for it are missing, if it cannot be traced, or if the difference is not below the
    tolerance.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 (the exporter imports it)
    except ImportError as error:
        raise InputError(f"writing ONNX needs {error.name}: pip install 'twofold[onnx]'") from None
    logging.getLogger("onnxscript").setLevel(logging.WARNING)
    facts: dict[str, object] = _output_facts(run) | {"streams": [
        [backbone, view, recipe.fingerprint] for backbone, view, recipe in run.streams]}
    if encoders is None:
        size = (64, FRAMES, sum(run.head.spec.dims)) if run.head.spec.frames else (64, sum(run.head.spec.dims))
        features = torch.randn(size, generator=torch.Generator().manual_seed(0))
        features = features * run.head.std.mean(dim=0) + run.head.mean.mean(dim=0)
        if run.head.spec.frames:
            features[::2, FRAMES // 2:] = torch.nan
        module, inputs = CalibratedHead(run), {"features": features.numpy()}
        expected, tolerance = run.probabilities(inputs["features"])[0], 1e-5
    else:
        names = [each["name"] for each in face_record(run, encoders)["inputs"]]
        module, inputs = FaceModel(run, encoders), {
            name: np.stack([_drawn_pixels(*each["size"], seed=seed) for seed in range(6)])
            for name, each in zip(names, encoders.inputs, strict=True)}
        expected, tolerance = run.probabilities(encoders.features(list(inputs.values())))[0], 1e-4
        facts["licences"] = list(encoders.licences)
    rows = torch.export.Dim("rows")
    shapes = tuple({0: rows, 1: torch.export.Dim("frames")} if values.ndim == 3 else {0: rows}
                   for values in inputs.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                module.eval(), tuple(map(torch.from_numpy, inputs.values())), dynamo=True, verbose=False,
                input_names=list(inputs), output_names=[output_name(run)],
                dynamic_shapes=(shapes,) if encoders else shapes)
        except Exception as error:  # the tracer's own kinds
            raise InputError(f"{run.path}: it cannot be traced into ONNX: {first_line(error)}") from None
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in facts.items()})
    onnx.save(model, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    output = np.asarray(session.run(None, inputs)[0])
    difference = float((np.abs(output - expected) / np.maximum(np.abs(expected), 1)).max())
    if not difference < tolerance:
        raise InputError(f"{path}: the written model differs from the run by {difference:.2g}: do not use it")
    return difference


def _drawn_pixels(height: int, width: int, *, seed: int) -> np.ndarray:
    """(3, height, width) uint8: smooth waves and noise."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(2 * np.pi * (random.uniform(0, 3) * rows + random.uniform(0, 3) * columns)) for _ in range(3)]
    return np.clip(128 + 90 * np.stack(waves) + random.normal(0, 20, (3, height, width)), 0, 255).astype(np.uint8)
