"""Heads on the concatenation of all streams: from standardised features (M, B, D), or (B, D) for all members alike,
to logits (M, B, C)."""

import functools
from collections.abc import Sequence

import torch
from torch import nn

from twofold.fuse.heads.member_rng import Noise
from twofold.fuse.heads.spec import Output, Spec
from twofold.fuse.heads.stacked_layers import StackedLinear, StackedMLP


def weighted_sum(parts: Sequence[torch.Tensor], weights: torch.Tensor) -> torch.Tensor:
    """(M, B, W) sum of K parts (M, B, W), each times its column of the weights (..., K)."""
    return functools.reduce(torch.add, (weights[..., k, None] * part for k, part in enumerate(parts)))


class Linear(nn.Module):
    """One affine map of all streams: multinomial logistic regression."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.only = StackedLinear(spec.members, sum(spec.dims), len(spec.classes))

    def forward(self, x: torch.Tensor, noise: Noise | None = None) -> Output:
        return Output(self.only(x))


class Concat(nn.Module):
    """An MLP on the concatenation of all streams (arXiv 2407.12257, equations 2 to 4, without its stray softmax)."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.mlp = StackedMLP(spec.members, sum(spec.dims), spec.hidden, len(spec.classes), spec.dropout)

    def forward(self, x: torch.Tensor, noise: Noise | None = None) -> Output:
        return Output(self.mlp(x, noise))


class Gated(nn.Module):
    """Each stream through its own layer; their sum, weighted by a gate that sees all streams, to the classes.

    The gate is a softmax over the streams, one for each face (Arevalo et al., arXiv 1702.01992, for K streams).
    """

    def __init__(self, spec: Spec):
        super().__init__()
        self.dims, self.dropout = list(spec.dims), spec.dropout
        self.streams = nn.ModuleList(StackedLinear(spec.members, dim, spec.hidden) for dim in spec.dims)
        self.gate = StackedLinear(spec.members, sum(spec.dims), len(spec.dims))
        self.last = StackedLinear(spec.members, spec.hidden, len(spec.classes))

    def forward(self, x: torch.Tensor, noise: Noise | None = None) -> Output:
        gates = self.gate(x).softmax(dim=-1)
        hidden = [layer(columns).relu()
                  for layer, columns in zip(self.streams, x.split(self.dims, dim=-1), strict=True)]
        h = weighted_sum(hidden, gates) * len(hidden)
        if noise and self.dropout:
            h = h * noise.keep(self.dropout, *h.shape[1:])
        return Output(self.last(h), gates=gates)
