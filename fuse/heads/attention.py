"""Heads that attend: softmax weights over the pieces of a row (layers, tokens) or the frames of a clip.

One network for three heads. Each stream is a sequence of tokens, of which a clip's frames beyond its end are masked.
Queries pool it, each by weights of its own; what they pool goes through one affine map, and the streams are summed.
"""

import math
from typing import ClassVar

import torch
from torch import nn

from twofold.fuse.heads.fusion import GradientBody
from twofold.fuse.training.ensemble import MemberRandom, Output, Spec, StackedLinear, StackedMLP

QUERIES = 8  #: at most; the number divides the width of the hidden layer
GAIN = 10.0  #: of scores that depend on the place alone: they must move by units, and Adam's steps are small
SPANS = 10  #: of a clip's time, by which its frames' weights are summed up
TERMS = 6  #: cosines that tell a frame's place in time, the first of half a period


class Pool(nn.Module):
    """The tokens of one stream, pooled by queries: (M, B, T, W) to (M, B, hidden), with their mean weights (M, B, T).

    Multi-query cross attention without projections of keys, each query pooling a share of the values (efficient
    probing, arXiv 2506.10178): as pooling is linear, what is pooled is projected, instead of each token. Pieces of
    unlike width first go through an affine map each to `hidden`. content: a weight depends on what a token holds;
    place: and on where it stands, of pieces by their number, of frames by their share of the clip's time.
    """

    def __init__(self, spec: Spec, dim: int, widths: tuple[int, ...], *, queries: int, content: bool, place: bool):
        super().__init__()
        members, self.widths, self.queries = spec.members, widths, queries
        alike = len(set(widths)) <= 1
        self.embed = nn.ModuleList() if alike else nn.ModuleList(
            StackedLinear(members, width, spec.hidden) for width in widths)
        width = (widths[0] if widths else dim) if alike else spec.hidden
        self.content = StackedLinear(members, width, queries) if content else None
        self.place = None
        if place:
            start = torch.zeros(len(widths), queries) if widths else windows(queries) / GAIN
            self.place = nn.Parameter(start.expand(members, -1, -1).clone())
        self.value = StackedLinear(members, width, spec.hidden) if queries > 1 else None
        self.width = spec.hidden if queries > 1 else width

    def forward(self, x: torch.Tensor, present: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """x: (M, B, D) of pieces, side by side; or (M, B, T, D) of frames, those not present (M, B, T) zero."""
        if present is not None:
            tokens = x
        elif len(self.embed):
            tokens = torch.stack([layer(part) for layer, part in
                                  zip(self.embed, x.split(self.widths, dim=-1), strict=True)], dim=2)
        else:
            tokens = x.unflatten(-1, (len(self.widths), -1))
        members, rows, length, _ = tokens.shape
        scores = torch.zeros((), device=x.device)
        if self.content is not None:  # in this order its gradient costs a third
            scores = self.content.weight.transpose(1, 2) @ tokens.flatten(1, 2).transpose(1, 2)
            scores = (scores + self.content.bias.transpose(1, 2)).unflatten(2, (rows, length))
        if self.place is not None:
            scores = scores + GAIN * (self.place.transpose(1, 2)[:, :, None] if present is None else
                                      torch.einsum("mbtk,mkq->mqbt", times(present), self.place))
        scores = scores.expand(members, self.queries, rows, length)
        if present is not None:
            scores = scores.masked_fill(~present[:, None], -torch.inf)
        weights = scores.float().softmax(dim=-1)
        pooled = torch.einsum("mqbt,mbtw->mqbw", weights.to(tokens.dtype), tokens)
        if self.value is None:
            return pooled[:, 0], weights[:, 0]
        value = self.value.weight.unflatten(2, (self.queries, -1)).transpose(1, 2)  # (M, Q, W, hidden / Q)
        return torch.matmul(pooled, value).transpose(1, 2).flatten(2) + self.value.bias, weights.mean(dim=1)


def times(present: torch.Tensor) -> torch.Tensor:
    """(M, B, T, TERMS) of frames (M, B, T) that are present: cosines of half periods over the time of the clip."""
    last = (present.sum(dim=-1, keepdim=True) - 1).clamp_min(1)
    share = torch.arange(present.shape[-1], device=present.device) / last
    terms = torch.arange(1, TERMS + 1, device=present.device)
    return torch.cos(math.pi * share[..., None] * terms)


def by_span(weights: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """(M, B, SPANS) sums of the weights (M, B, T) of frames that are present, over equal spans of the clip's time, of
    which each frame takes an equal part: one that reaches over several spans counts in each by its share."""
    length = present.sum(dim=-1)[..., None, None] / SPANS  # of a span, in frames
    frame = torch.arange(present.shape[-1], device=present.device)[:, None]
    first = torch.arange(SPANS, device=present.device) * length
    share = (torch.minimum(frame + 1, first + length) - torch.maximum(frame, first)).clamp_min(0)
    return torch.einsum("mbt,mbts->mbs", weights, share.to(weights.dtype))


def windows(queries: int) -> torch.Tensor:
    """(TERMS, queries) of weights with which the queries start: each prefers a time of its own, spread evenly."""
    centres = torch.linspace(0, 1, queries)
    return 0.7 * torch.cos(math.pi * torch.arange(1, TERMS + 1)[:, None] * centres)


class Attention(GradientBody):
    """The streams' pools, summed, through ReLU and dropout to the classes. queries: at most."""

    queries: ClassVar[int] = QUERIES
    content: ClassVar[bool] = True
    timed: ClassVar[bool] = False  #: weights of frames depend on their time, too

    def __init__(self, spec: Spec):
        super().__init__()
        self.dims, self.frames = list(spec.dims), spec.frames
        pieces = [()] * len(spec.dims) if spec.frames else spec.pieces or [(dim,) for dim in spec.dims]
        queries = math.gcd(spec.hidden, self.queries)
        pools = [Pool(spec, dim, widths, queries=queries, content=self.content, place=self.timed or not spec.frames)
                 for dim, widths in zip(spec.dims, pieces, strict=True)]
        self.pools = nn.ModuleList(pools)
        self.mlp = StackedMLP(spec.members, sum(pool.width for pool in pools), spec.hidden, len(spec.classes),
                              spec.dropout)

    @property
    def output_layer(self) -> StackedLinear:
        return self.mlp.last

    def forward(self, x: torch.Tensor, random: MemberRandom | None = None) -> Output:
        if x.dim() == 2:
            x = x.expand(len(self.mlp.last.weight), *x.shape)
        present = None
        if self.frames:
            x = x.unflatten(-1, (-1, sum(self.dims)))
            present = ~x[..., 0].isnan()
            x = torch.where(present[..., None], x, 0)
        pooled = [pool(part, present) for pool, part in zip(self.pools, x.split(self.dims, dim=-1), strict=True)]
        logits = self.mlp(torch.cat([part for part, _ in pooled], dim=-1), random)
        return Output(logits, piece_weights=torch.cat([
            weights if present is None else by_span(weights, present) for _, weights in pooled], dim=-1))


class Attentive(Attention):
    """Pieces weighted by what they hold and where they stand, frames by what they hold."""


class Layers(Attention):
    """An MLP on the pieces' mean, by one learned weight each (the scalar mix of ELMo, arXiv 1802.05365)."""

    queries, content = 1, False


class Temporal(Attention):
    """Frames weighted by what they hold and when."""

    timed = True
