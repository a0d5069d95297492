"""Encoders: a named network with its weights, ready to turn prepared pictures into embeddings."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from data.errors import InputError
from extract.architectures import Architecture, build
from extract.checkpoints import read_checkpoint
from extract.devices import PRECISIONS, parse_device, resolve_precision
from extract.loading import digest, load_strictly
from extract.preprocessing import Preprocessing
from extract.presets import PRESETS
from extract.untrained import draw_weights, seeded
from extract.weights import find_weights

__all__ = ["PRESETS", "Encoder", "Preprocessing", "load_encoder", "parse_device", "resolve_precision"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoder:
    """One backbone, loaded: (B, S, S, 3) uint8 pictures made by `preprocessing.prepare` to (B, dim) float32."""

    name: str
    architecture: str
    weights: str  #: `sha256:<hex>` over the tensors that are used, or `random:<seed>`
    tap: str
    dim: int
    preprocessing: Preprocessing
    precision: str
    device: torch.device
    network: Callable[[torch.Tensor], torch.Tensor] = field(repr=False)

    @property
    def batch_size(self) -> int:
        """Faces in one forward pass."""
        return 32 if self.device.type == "cpu" else 256

    @property
    def untrained(self) -> bool:
        return self.weights.startswith("random:")

    def encode(self, pictures: torch.Tensor | np.ndarray) -> np.ndarray:
        """Embed a batch, in order. Raises torch.OutOfMemoryError where it does not fit the device."""
        with torch.inference_mode(), exact_fp32():
            embeddings = self.network(self._normalised(torch.as_tensor(pictures)))
            return embeddings.float().cpu().numpy()

    def _normalised(self, pictures: torch.Tensor) -> torch.Tensor:
        """(B, S, S, 3) uint8 to (B, 3, S, S), laid out channels-last, which it already is in memory."""
        how = self.preprocessing
        std = torch.tensor(how.std, device=self.device)
        shift = torch.tensor(how.mean, device=self.device) / std
        pixels = pictures.to(self.device, non_blocking=True).float()
        return pixels.mul_(how.scale / std).sub_(shift).to(PRECISIONS[self.precision]).permute(0, 3, 1, 2)


def exact_fp32():
    """fp32 means fp32: without this, cuDNN computes convolutions in TF32, with ten bits of mantissa."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False)


def load_encoder(name: str, *, weights: str | None = None, device: str = "auto", precision: str = "auto",
                 folder: Path | None = None) -> Encoder:
    """Build a backbone and give it its weights.

    weights: a file, `random:SEED`, `hub`, or None for the weights folder and then the hub; folder: the weights
    folder, by default that of TWOFOLD_WEIGHTS or `weights/`. Raises InputError for an unknown name, device or
    precision, weights that are not to be found, and weights that are not exactly this network's.
    """
    target = parse_device(device)
    arithmetic = resolve_precision(precision, target)
    folder = folder or Path(os.environ.get("TWOFOLD_WEIGHTS", "weights"))
    if weights is not None and weights.startswith("random:"):
        built, network, identity = _untrained(name, weights)
    else:
        built, network, identity = _trained(name, weights, folder)
    network.eval().requires_grad_(False)
    dim = _measure(network, name, built.preprocessing.size)
    network.to(device=target, dtype=PRECISIONS[arithmetic], memory_format=torch.channels_last)
    return Encoder(name=name, architecture=built.name, weights=identity, tap=built.tap, dim=dim,
                   preprocessing=built.preprocessing, precision=arithmetic, device=target, network=network)


def _untrained(name: str, weights: str) -> tuple[Architecture, nn.Module, str]:
    seed = weights.removeprefix("random:")
    if not seed.isdecimal() or int(seed) >= 2**63:
        raise InputError(f"weights {weights!r} of {name}: random:SEED wants a whole number, as random:0")
    with seeded(int(seed)):
        built = build(name, file=None)
    draw_weights(built.network, seed=int(seed), size=built.preprocessing.size)
    return built, built.trim(built.network), f"random:{int(seed)}"


def _trained(name: str, weights: str | None, folder: Path) -> tuple[Architecture, nn.Module, str]:
    file = find_weights(name, weights=weights, folder=folder)
    with seeded(0):  # what the constructors draw is thrown away
        built = build(name, file=file)
    load_strictly(built.network, read_checkpoint(file).tensors, heads=built.heads, source=file)
    network = built.trim(built.network)
    return built, network, digest(network)


def _measure(network: nn.Module, name: str, size: int) -> int:
    """Length of an embedding, found by making one. Raises InputError if the network gives anything but (B, D)."""
    with torch.inference_mode():
        embedding = network(torch.zeros((1, 3, size, size)))
    if not isinstance(embedding, torch.Tensor) or embedding.ndim != 2:
        raise InputError(f"backbone {name!r} does not give one vector a face, so it cannot be used here")
    return embedding.shape[1]
