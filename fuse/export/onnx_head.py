"""A run's head as an ONNX model: for programs that have neither Python nor torch."""

from pathlib import Path

import torch
from torch import nn

from twofold.fuse.export.onnx_model import write_onnx
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
