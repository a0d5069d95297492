"""The heads: from standardised features (M, B, D), or (B, D) for all members alike, to logits (M, B, C)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from data.labels import BASIC
from fuse.layers import StackedLinear, StackedMLP
from fuse.noise import Noise
from fuse.zeroshot import membership, pair_scores


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a head is, besides its weights. dims: of the streams, in the order of the columns; own: for zero-shot, the
    basic classifiers that the backbones brought along, instead of a trained one."""

    kind: str
    dims: tuple[int, ...]
    classes: tuple[str, ...]
    members: int
    hidden: int = 512
    dropout: float = 0.0
    projection: int = 128
    rule: str = "geometric"
    own: bool = False


@dataclass(frozen=True)
class Output:
    """logits (M, B, C). Of some heads: basic (M, B, 8) logits; gates (M, B, K), shares of the streams."""

    logits: torch.Tensor
    basic: torch.Tensor | None = None
    gates: torch.Tensor | None = None


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
        parts = [layer(part).relu() for layer, part in zip(self.streams, x.split(self.dims, dim=-1), strict=True)]
        h = sum(gates[..., k, None] * part for k, part in enumerate(parts)) * len(parts)
        if noise and self.dropout:
            h = h * noise.keep(self.dropout, *h.shape[1:])
        return Output(self.last(h), gates=gates)


class Paper(nn.Module):
    """The paper's Fig. 1: two MLPs on the original face; the basic prediction joins the compound logits.

    The softmax of the basic logits goes through a learned map (8, C) that starts at the taxonomy's pair membership.
    `x` may carry the columns of enhanced versions after those of the original; only the contrastive loss sees them.
    """

    def __init__(self, spec: Spec):
        super().__init__()
        self.width = sum(spec.dims)
        self.compound = StackedMLP(spec.members, self.width, spec.hidden, len(spec.classes), spec.dropout)
        self.basic = StackedMLP(spec.members, self.width, spec.hidden, len(BASIC), spec.dropout)
        self.project = StackedLinear(spec.members, spec.hidden, spec.projection)
        start = torch.from_numpy(membership(spec.classes))
        self.pairs = nn.Parameter(start.expand(spec.members, -1, -1).clone())

    def forward(self, x: torch.Tensor, noise: Noise | None = None) -> Output:
        original = x[..., :self.width]
        basic = self.basic(original, noise)
        joined = torch.bmm(basic.softmax(dim=-1), self.pairs)
        return Output(self.compound(original, noise) + joined, basic=basic)

    def projections(self, x: torch.Tensor) -> torch.Tensor:
        """(M, V B, P) unit vectors of the V versions whose columns stand side by side in x (M, B, V D)."""
        versions = torch.cat(x.split(self.width, dim=-1), dim=1)
        return nn.functional.normalize(self.project(self.compound.hidden(versions)).float(), dim=-1)


class ZeroShot(nn.Module):
    """A basic classifier whose probabilities make compounds by a pair rule; learns from basic labels alone."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.compounds, self.rule = spec.classes, spec.rule
        self.mlp = StackedMLP(spec.members, sum(spec.dims), spec.hidden, len(BASIC), spec.dropout)
        self.register_buffer("absent", torch.zeros(spec.members, 1, len(BASIC)))  #: -inf for untaught basics

    def forward(self, x: torch.Tensor, noise: Noise | None = None) -> Output:
        basic = self.mlp(x, noise) + self.absent
        found = pair_scores(basic.float().softmax(dim=-1), self.compounds, rule=self.rule)
        return Output(found.clamp_min(1e-12).log(), basic=basic)


class OwnLogits(nn.Module):
    """The basic classifiers that the backbones brought along, their probabilities averaged, and a pair rule: nothing
    is learned. The bias of a basic emotion that a backbone does not know is far below all others."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.dims, self.compounds, self.rule = list(spec.dims), spec.classes, spec.rule
        self.own = nn.ModuleList(StackedLinear(spec.members, dim, len(BASIC)) for dim in spec.dims)

    def forward(self, x: torch.Tensor, noise: Noise | None = None) -> Output:
        parts = [layer(part).float().softmax(dim=-1)
                 for layer, part in zip(self.own, x.split(self.dims, dim=-1), strict=True)]
        basic = sum(parts) / len(parts)
        found = pair_scores(basic, self.compounds, rule=self.rule)
        return Output(found.clamp_min(1e-12).log(), basic=basic.clamp_min(1e-12).log())


class Late(nn.Module):
    """The probabilities of one head a stream, averaged with weights (M, K, C) that sum to one over the streams."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.dims = list(spec.dims)
        self.single = nn.ModuleList(Concat(_only(spec, dim)) for dim in spec.dims)
        self.register_buffer("weights", torch.full((spec.members, len(spec.dims), len(spec.classes)),
                                                   1 / len(spec.dims)))

    def forward(self, x: torch.Tensor, noise: Noise | None = None) -> Output:
        parts = [head(part).logits.float().softmax(dim=-1)
                 for head, part in zip(self.single, x.split(self.dims, dim=-1), strict=True)]
        mixed = sum(self.weights[:, None, k] * part for k, part in enumerate(parts))
        shares = self.weights.mean(dim=-1)[:, None].expand(-1, x.shape[-2], -1)
        return Output(mixed.clamp_min(1e-12).log(), gates=shares)


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


class Classifier(nn.Module):
    """A head with the standardisation of its features: raw (B, D) to probabilities (M, B, C)."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.spec = spec
        self.register_buffer("mean", torch.zeros(spec.members, 1, sum(spec.dims)))
        self.register_buffer("std", torch.ones(spec.members, 1, sum(spec.dims)))
        self.body = build(spec)

    def forward(self, x: torch.Tensor) -> Output:
        return self.body((x - self.mean) / self.std)


def side_by_side(heads: Sequence[Classifier]) -> Classifier:
    """One classifier with the members of all; they must have the same spec but for their number."""
    spec = heads[0].spec
    members = sum(head.spec.members for head in heads)
    joined = Classifier(Spec(**{**vars(spec), "members": members}))
    states = [head.state_dict() for head in heads]
    joined.load_state_dict({name: torch.cat([state[name] for state in states]) for name in states[0]})
    return joined


def _only(spec: Spec, dim: int) -> Spec:
    return Spec(**{**vars(spec), "kind": "mlp", "dims": (dim,)})
