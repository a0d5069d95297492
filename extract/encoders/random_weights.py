"""Random weights with which embeddings still differ between faces: for demonstrations and tests, never for results."""

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import nn

from twofold.extract.encoders.preprocessing import Preprocessing


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's CPU random numbers depend on `seed` alone; afterwards they go on as if nothing had happened."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reset the state of GPUs
        yield


def init_random_weights(network: nn.Module, preprocessing: Preprocessing, *, seed: int) -> None:
    """Give a network on the CPU weights that depend on `seed` alone.

    Convolutions and linear layers get He-normal weights, and batch norms the statistics that noise images, as
    `preprocessing` gives them, have in front of them, so that signals neither vanish nor explode however deep the
    network is. Other parameters stay as the constructor drew them.
    """
    draw = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = math.prod(module.weight.shape[1:])
            gain = 2.0 if isinstance(module, nn.Conv2d) else 1.0
            nn.init.normal_(module.weight, std=math.sqrt(gain / fan_in), generator=draw)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.02, generator=draw)
    _set_norm_statistics(network.eval(), noise_images(preprocessing, draw))


def noise_images(how: Preprocessing, draw: torch.Generator) -> torch.Tensor:
    """(4, 3, S, S): normalised images of smooth noise, as bright and as contrasty as photographs."""
    coarse = torch.randn((4, 3, 8, 8), generator=draw)
    smooth = nn.functional.interpolate(coarse, size=(how.size, how.size), mode="bilinear")
    pixels = (128 + 64 * smooth + 16 * torch.randn(smooth.shape, generator=draw)).clamp(0, 255)
    mean, std = torch.tensor(how.mean)[:, None, None], torch.tensor(how.std)[:, None, None]
    return (pixels * how.scale - mean) / std


def _set_norm_statistics(network: nn.Module, images: torch.Tensor) -> None:
    """Give every batch norm the mean and variance that `images` have in front of it."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        network(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
