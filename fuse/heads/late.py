"""Late fusion: probabilities of one head a stream, averaged."""

import functools
from dataclasses import replace

import torch
from torch import nn

from twofold.fuse.heads.concat import Concat
from twofold.fuse.heads.member_rng import Noise
from twofold.fuse.heads.spec import Output, Spec


class Late(nn.Module):
    """The probabilities of one head a stream, averaged with weights (M, K, C) that sum to one over the streams."""

    weights: torch.Tensor

    def __init__(self, spec: Spec):
        super().__init__()
        self.dims = list(spec.dims)
        self.single = nn.ModuleList(Concat(replace(spec, kind="mlp", dims=(dim,))) for dim in spec.dims)
        self.register_buffer("weights", torch.full((spec.members, len(spec.dims), len(spec.classes)),
                                                   1 / len(spec.dims)))

    def forward(self, x: torch.Tensor, noise: Noise | None = None) -> Output:
        parts = [head(part).logits.float().softmax(dim=-1)
                 for head, part in zip(self.single, x.split(self.dims, dim=-1), strict=True)]
        mixed = functools.reduce(torch.add, (self.weights[:, None, k] * part for k, part in enumerate(parts)))
        shares = self.weights.mean(dim=-1)[:, None].expand(-1, x.shape[-2], -1)
        return Output(mixed.clamp_min(1e-12).log(), gates=shares)
