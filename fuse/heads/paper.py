"""The model of the paper's Fig. 1 (arXiv 2407.12257)."""

import torch
from torch import nn

from twofold.data.labels import BASIC
from twofold.fuse.heads.member_rng import Noise
from twofold.fuse.heads.pair_rules import membership
from twofold.fuse.heads.spec import Output, Spec
from twofold.fuse.heads.stacked_layers import StackedLinear, StackedMLP


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
        start = torch.from_numpy(membership(spec.parts))
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
