"""From a spec to its head, and a head with the standardisation of its features."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import nn

from twofold.fuse.heads.concat import Concat, Gated, Linear
from twofold.fuse.heads.late import Late
from twofold.fuse.heads.paper import Paper
from twofold.fuse.heads.spec import Output, Spec
from twofold.fuse.heads.zeroshot import OwnLogits, ZeroShot


def build(spec: Spec) -> nn.Module:
    """The head of a spec, its weights zero. kind `logreg` is a Linear that scikit-learn fills."""
    kinds = {"linear": Linear, "logreg": Linear, "mlp": Concat, "gated": Gated, "paper": Paper,
             "zeroshot": OwnLogits if spec.own else ZeroShot, "late": Late}
    return kinds[spec.kind](spec)


def members_of(head: nn.Module, spec: Spec, first: int, count: int) -> nn.Module:
    """A head of `count` members from number `first` on that shares their weights: training it trains `head`.

    spec: what `build` made `head` of; its parameters must be all that it learns and knows.
    """
    part = build(replace(spec, members=count)).to(next(head.parameters()).device)
    for shared, p in zip(part.parameters(), head.parameters(), strict=True):
        shared.data = p.data[first:first + count]
    return part


class StandardisedHead(nn.Module):
    """A head with the standardisation of its features: raw (B, D) to the head's output, members first."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, spec: Spec):
        super().__init__()
        self.spec = spec
        self.register_buffer("mean", torch.zeros(spec.members, 1, sum(spec.dims)))
        self.register_buffer("std", torch.ones(spec.members, 1, sum(spec.dims)))
        self.body = build(spec)

    def forward(self, x: torch.Tensor) -> Output:
        return self.body((x - self.mean) / self.std)


def side_by_side(heads: Sequence[StandardisedHead]) -> StandardisedHead:
    """One head with the members of all; they must have the same spec but for their number."""
    spec = heads[0].spec
    members = sum(head.spec.members for head in heads)
    joined = StandardisedHead(replace(spec, members=members))
    states = [head.state_dict() for head in heads]
    joined.load_state_dict({name: torch.cat([state[name] for state in states]) for name in states[0]})
    return joined


def without_streams(head: StandardisedHead, absent: Collection[int]) -> StandardisedHead:
    """The same head, weights shared, with these streams at their mean, which an infinite spread makes of any value."""
    with torch.device("meta"):
        part = StandardisedHead(head.spec)
    part.body, part.mean, part.std = head.body, head.mean, head.std.clone()
    for k, columns in enumerate(part.std.split(list(head.spec.dims), dim=-1)):
        if k in absent:
            columns.fill_(torch.inf)
    return part.eval()
