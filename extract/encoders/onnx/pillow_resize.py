"""Pillow's resizing of pictures of one known size as matrix products, equal to the pixel: what a network can carry.

Pillow (Resample.c) weights the pixels of a row by whole numbers of 22 bits, rounds to bytes, and does the same with the
columns. Doubles hold such sums exactly. The filters: Pillow's documentation, "Filters"; bicubic: Keys, 1981, a = -0.5.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

BITS = 22  #: of the weights


def triangle(x: float) -> float:
    return max(0.0, 1 - abs(x))


def cubic(x: float, a: float = -0.5) -> float:
    x = abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


FILTERS: dict[str, tuple[Callable[[float], float], float]] = {"bilinear": (triangle, 1.0), "bicubic": (cubic, 2.0)}


def weights(before: int, after: int, interpolation: str) -> np.ndarray:
    """(after, before) whole numbers: how much each pixel of a line of `before` gives to each of a line of `after`."""
    kernel, reach = FILTERS[interpolation]
    scale = before / after
    stretch = max(scale, 1.0)
    matrix = np.zeros((after, before))
    for row in range(after):
        centre = (row + 0.5) * scale
        first = max(0, int(centre - reach * stretch + 0.5))
        last = min(before, int(centre + reach * stretch + 0.5))
        shares = np.array([kernel((pixel - centre + 0.5) / stretch) for pixel in range(first, last)])
        shares = shares / shares.sum() * (1 << BITS)
        matrix[row, first:last] = [math.trunc(share + math.copysign(0.5, share)) for share in shares]
    return matrix


class PillowResize(nn.Module):
    """(N, before, before, 3) bytes as doubles to (N, after, after, 3): rows first, as Pillow does it."""

    weights: torch.Tensor

    def __init__(self, before: int, after: int, interpolation: str):
        super().__init__()
        self.register_buffer("weights", torch.from_numpy(weights(before, after, interpolation)))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        across = _bytes(self.weights @ pictures)  # (after, before) @ (N, height, width, 3): along the width
        return _bytes(self.weights @ across.transpose(1, 2)).transpose(1, 2)


def _bytes(sums: torch.Tensor) -> torch.Tensor:
    return ((sums + (1 << (BITS - 1))) / (1 << BITS)).floor().clamp(0, 255)
