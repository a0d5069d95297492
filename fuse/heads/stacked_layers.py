"""Layers of several members (seeds, folds) side by side: parameters (M, in, out), one batched product for all."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from twofold.fuse.heads.member_rng import Noise


class StackedLinear(nn.Module):
    """M affine maps: x (M, B, in), or (B, in) for all members alike, to (M, B, out)."""

    def __init__(self, members: int, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(members, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dim() == 2:
            x = x.expand(len(self.weight), *x.shape)
        return torch.baddbmm(self.bias, x, self.weight)

    @torch.no_grad()
    def draw(self, member: int, generator: torch.Generator) -> None:
        """Fill one member as torch.nn.Linear does: uniform within 1 / sqrt(inputs)."""
        bound = 1 / math.sqrt(self.weight.shape[1])
        for values in (self.weight[member], self.bias[member]):
            values.copy_(torch.empty(values.shape).uniform_(-bound, bound, generator=generator))


class StackedMLP(nn.Module):
    """Affine, ReLU, dropout, affine: (M, B, in) to (M, B, out)."""

    def __init__(self, members: int, inputs: int, hidden: int, outputs: int, dropout: float):
        super().__init__()
        self.first = StackedLinear(members, inputs, hidden)
        self.last = StackedLinear(members, hidden, outputs)
        self.dropout = dropout

    def hidden(self, x: torch.Tensor, noise: Noise | None = None) -> torch.Tensor:
        """(M, B, hidden) after ReLU and, given noise, dropout."""
        h = self.first(x).relu()
        return h * noise.keep(self.dropout, *h.shape[1:]) if noise and self.dropout else h

    def forward(self, x: torch.Tensor, noise: Noise | None = None) -> torch.Tensor:
        return self.last(self.hidden(x, noise))


def initialise(module: nn.Module, seeds: Sequence[int]) -> None:
    """Draw the weights of member m from seeds[m] alone, so that it starts the same in any company."""
    for member, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        for part in module.modules():
            if isinstance(part, StackedLinear):
                part.draw(member, generator)
