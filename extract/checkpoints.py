"""Reading weights files as data."""

from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Checkpoint:
    """The weights in a file: flat names to tensors."""

    tensors: dict[str, torch.Tensor]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a weights file without running anything in it."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return Checkpoint(load_file(path))
    return Checkpoint(torch.load(path, map_location="cpu", weights_only=True))
