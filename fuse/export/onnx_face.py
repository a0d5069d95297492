"""Encoders and head as one ONNX model: from a face to what the run says of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from twofold.fuse.export.onnx_head import CalibratedHead, write_onnx
from twofold.fuse.runs.run import Run

CLOSE = 1e-4  #: how far the written model's probabilities may be from the run's own
FACES = 6  #: that they are compared on


class FaceEncoders(Protocol):
    """The encoders of a run's streams, and the way that features are made without ONNX.

    modules: (N, side, side, 3) uint8 faces to (N, dim) features, one a stream; licences: of each; features: (N, D) of
    faces by the program's own way.
    """

    @property
    def modules(self) -> Sequence[nn.Module]: ...
    @property
    def licences(self) -> Sequence[str]: ...
    @property
    def side(self) -> int: ...
    def features(self, faces: np.ndarray) -> np.ndarray: ...


class FaceModel(nn.Module):
    """(N, side, side, 3) uint8 RGB faces to the run's calibrated probabilities (N, C)."""

    def __init__(self, run: Run, encoders: Sequence[nn.Module]):
        super().__init__()
        self.encoders, self.head = nn.ModuleList(encoders), CalibratedHead(run)

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([encoder(faces) for encoder in self.encoders], dim=1))


def write_onnx_face(run: Run, encoders: FaceEncoders, path: Path) -> float:
    """Write the model, then run it beside the program's own way on drawn faces; returns the largest difference.

    Its input is `faces` (N, side, side, 3) uint8 RGB; everything else, resizing included, is inside. Raises InputError
    as `write_onnx` does, and if the model does not say what the run says.
    """
    faces = np.stack([_picture(encoders.side, seed) for seed in range(FACES)])
    return write_onnx(FaceModel(run, encoders.modules), torch.from_numpy(faces),
                      run.probabilities(encoders.features(faces)), path, run=run, name="faces", close=CLOSE,
                      facts={"licences": list(encoders.licences)})


def _picture(side: int, seed: int) -> np.ndarray:
    """(side, side, 3) uint8: smooth waves and noise, so that all that resizing can do wrong would show."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side] / side
    waves = [np.sin(2 * np.pi * (random.uniform(0, 3) * rows + random.uniform(0, 3) * columns)) for _ in range(3)]
    return np.clip(128 + 90 * np.stack(waves, axis=-1) + random.normal(0, 20, (side, side, 3)), 0, 255).astype(np.uint8)
