"""Compounds from basic expressions alone."""

import functools

import torch
from torch import nn

from twofold.data.labels import BASIC
from twofold.fuse.heads.member_rng import Noise
from twofold.fuse.heads.pair_rules import pair_scores
from twofold.fuse.heads.spec import Output, Spec
from twofold.fuse.heads.stacked_layers import StackedLinear, StackedMLP


class ZeroShot(nn.Module):
    """A basic classifier whose probabilities make compounds by a pair rule; learns from basic labels alone."""

    absent: torch.Tensor

    def __init__(self, spec: Spec):
        super().__init__()
        self.pairs, self.rule = spec.parts, spec.rule
        self.mlp = StackedMLP(spec.members, sum(spec.dims), spec.hidden, len(BASIC), spec.dropout)
        self.register_buffer("absent", torch.zeros(spec.members, 1, len(BASIC)))  #: -inf for untaught basics

    def forward(self, x: torch.Tensor, noise: Noise | None = None) -> Output:
        basic = self.mlp(x, noise) + self.absent
        scores = pair_scores(basic.float().softmax(dim=-1), self.pairs, rule=self.rule)
        return Output(scores.clamp_min(1e-12).log(), basic=basic)


class OwnLogits(nn.Module):
    """The basic classifiers that the backbones brought along, their probabilities averaged, and a pair rule: nothing
    is learned. The bias of a basic emotion that a backbone does not know is far below all others."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.dims, self.pairs, self.rule = list(spec.dims), spec.parts, spec.rule
        self.own = nn.ModuleList(StackedLinear(spec.members, dim, len(BASIC)) for dim in spec.dims)

    def forward(self, x: torch.Tensor, noise: Noise | None = None) -> Output:
        parts = [layer(part).float().softmax(dim=-1)
                 for layer, part in zip(self.own, x.split(self.dims, dim=-1), strict=True)]
        basic = functools.reduce(torch.add, parts) / len(parts)
        scores = pair_scores(basic, self.pairs, rule=self.rule)
        return Output(scores.clamp_min(1e-12).log(), basic=basic.clamp_min(1e-12).log())
