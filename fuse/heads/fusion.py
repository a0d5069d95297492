"""Networks that learn from the classes: linear, MLP, gated, the paper's, and late fusion of one MLP per stream."""

import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from twofold.data.labels import BASIC
from twofold.data.splits import stratified_group_folds
from twofold.fuse.core.losses import soft_cross_entropy
from twofold.fuse.core.settings import Settings
from twofold.fuse.metrics import scores
from twofold.fuse.training.data import Batch, Samples, membership
from twofold.fuse.training.ensemble import Body, MemberRandom, Output, Spec, StackedLinear, StackedMLP, initialise
from twofold.fuse.training.loop import Epoch, contrastive_loss, positive_pairs, train
from twofold.fuse.training.optimiser import resolve_precision

DRAWS = 2000  #: of weights for late fusion
VAL_FOLDS = 3  #: of validation, to score weights on samples that did not choose them


class GradientBody(Body):
    """A network that the training loop trains."""

    def fit(self, data: Samples, val: Samples, *, spec: Spec, settings: Settings) -> list[Epoch]:
        """Draw the weights of each member from its seed, and train all members on the device of the data."""
        body, seeds = self.to(data.device), range(settings.seed, settings.seed + settings.seeds)
        initialise(body, seeds)
        return train(body, data, val, spec=spec, settings=settings, seeds=seeds,
                     precision=resolve_precision(settings.precision, data.device))


class Linear(GradientBody):
    """One affine map of all streams: multinomial logistic regression."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.only = StackedLinear(spec.members, sum(spec.dims), len(spec.classes))

    @property
    def output_layer(self) -> StackedLinear:
        return self.only

    def forward(self, x: torch.Tensor, random: MemberRandom | None = None) -> Output:
        return Output(self.only(x))


class MLP(GradientBody):
    """An MLP on the concatenation of all streams (arXiv 2407.12257, equations 2 to 4, without its stray softmax)."""

    def __init__(self, spec: Spec):
        super().__init__()
        self.mlp = StackedMLP(spec.members, sum(spec.dims), spec.hidden, len(spec.classes), spec.dropout)

    @property
    def output_layer(self) -> StackedLinear:
        return self.mlp.last

    def forward(self, x: torch.Tensor, random: MemberRandom | None = None) -> Output:
        return Output(self.mlp(x, random))


class Gated(GradientBody):
    """Each stream through its own layer; their sum, weighted by a gate that sees all streams, to the classes.

    The gate is a softmax over the streams, one for each sample (Arevalo et al., arXiv 1702.01992, for K streams).
    """

    def __init__(self, spec: Spec):
        super().__init__()
        self.dims, self.dropout = list(spec.dims), spec.dropout
        self.streams = nn.ModuleList(StackedLinear(spec.members, dim, spec.hidden) for dim in spec.dims)
        self.gate = StackedLinear(spec.members, sum(spec.dims), len(spec.dims))
        self.last = StackedLinear(spec.members, spec.hidden, len(spec.classes))

    @property
    def output_layer(self) -> StackedLinear:
        return self.last

    def forward(self, x: torch.Tensor, random: MemberRandom | None = None) -> Output:
        gates = self.gate(x).softmax(dim=-1)
        hidden = [layer(columns).relu()
                  for layer, columns in zip(self.streams, x.split(self.dims, dim=-1), strict=True)]
        h = functools.reduce(torch.add, (gates[..., k, None] * part for k, part in enumerate(hidden))) * len(hidden)
        if random and self.dropout:
            h = h * random.keep(self.dropout, *h.shape[1:])
        return Output(self.last(h), stream_weights=gates)


class Paper(GradientBody):
    """The paper's Fig. 1: two MLPs on the original view; the basic prediction joins the compound logits.

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

    def forward(self, x: torch.Tensor, random: MemberRandom | None = None) -> Output:
        original = x[..., :self.width]
        basic = self.basic(original, random)
        joined = torch.bmm(basic.softmax(dim=-1), self.pairs)
        return Output(self.compound(original, random) + joined, basic=basic)

    def add_losses(self, loss: torch.Tensor, output: Output, batch: Batch, settings: Settings) -> torch.Tensor:
        """L_ce + a L_basic + b L_CL."""
        assert output.basic is not None
        loss = loss + settings.basic_weight * soft_cross_entropy(output.basic, batch.basic, batch.basic.sum(-1))
        if settings.contrastive_weight:
            z = self.projections(batch.x)
            loss = loss + settings.contrastive_weight * contrastive_loss(
                z, positive_pairs(batch.label, z.shape[1]), settings.contrastive_temperature)
        return loss

    def projections(self, x: torch.Tensor) -> torch.Tensor:
        """(M, V B, P) unit vectors of the V versions whose columns stand side by side in x (M, B, V D)."""
        versions = torch.cat(x.split(self.width, dim=-1), dim=1)
        return nn.functional.normalize(self.project(self.compound.hidden(versions)).float(), dim=-1)


class Late(Body):
    """The probabilities of one head per stream, averaged with weights (M, K, C) that sum to one over the streams."""

    weights: torch.Tensor

    def __init__(self, spec: Spec):
        super().__init__()
        self.dims = list(spec.dims)
        self.single = nn.ModuleList(MLP(replace(spec, kind="mlp", dims=(dim,))) for dim in spec.dims)
        self.register_buffer("weights", torch.full((spec.members, len(spec.dims), len(spec.classes)),
                                                   1 / len(spec.dims)))

    def forward(self, x: torch.Tensor, random: MemberRandom | None = None) -> Output:
        parts = [head(part).logits.float().softmax(dim=-1)
                 for head, part in zip(self.single, x.split(self.dims, dim=-1), strict=True)]
        mixed = functools.reduce(torch.add, (self.weights[:, None, k] * part for k, part in enumerate(parts)))
        weights = self.weights.mean(dim=-1)[:, None].expand(-1, x.shape[-2], -1)
        return Output(mixed.clamp_min(1e-12).log(), stream_weights=weights)

    def average_singles(self, singles: Sequence[nn.Module], val: np.ndarray, target: np.ndarray, groups: np.ndarray, *,
                        settings: Settings) -> tuple[dict[str, torch.Tensor], np.ndarray | None]:
        """The state of a StandardisedHead of trained single heads, with weights found on validation.

        val: (K, M, n, C) probabilities of the singles for the validation samples of these classes and groups (n,). Also
        returns (n, C) probabilities of them by weights that they did not choose (`cross_fitted`), where any are chosen.
        """
        states, how = [single.state_dict() for single in singles], {"how": settings.late, "seed": settings.seed}
        weights = np.stack([find_weights(val[:, member], target, **how) for member in range(val.shape[1])])
        state = {f"body.single.{k}.{name.removeprefix('body.')}": values for k, state in enumerate(states)
                 for name, values in state.items() if name.startswith("body.")}
        state |= {name: torch.cat([state[name] for state in states], dim=-1) for name in ("mean", "std")}
        state["body.weights"] = torch.from_numpy(weights.astype(np.float32))
        chosen = len(val) > 1 and settings.late != "mean"
        return state, cross_fitted(val, target, groups, **how) if chosen else None


def cross_fitted(val: np.ndarray, target: np.ndarray, groups: np.ndarray, *, how: str, seed: int) -> np.ndarray:
    """(n, C) mean over members of late fusion on validation samples, each with weights found without its group.

    val: (K, M, n, C), target and groups: (n,). In a single group, each sample is a group of its own.
    """
    names = groups.astype(str) if len(np.unique(groups.astype(str))) >= VAL_FOLDS else [""] * len(groups)
    fold = stratified_group_folds(target.astype(str), names, folds=min(VAL_FOLDS, len(target)), seed=seed)
    mixed = np.empty(val.shape[1:])
    for number in np.unique(fold):
        inside, outside = fold == number, fold != number
        for member in range(val.shape[1]):
            weights = find_weights(val[:, member, outside], target[outside], how=how, seed=seed)
            mixed[member, inside] = np.einsum("kc,knc->nc", weights, val[:, member, inside])
    return (mixed / mixed.sum(axis=-1, keepdims=True)).mean(axis=0)


def find_weights(probabilities: np.ndarray, target: np.ndarray, *, how: str, seed: int, draws: int = DRAWS
                 ) -> np.ndarray:
    """(K, C) weights, summing to one over K, of K heads' probabilities (K, N, C) for the targets (N,).

    mean: all alike. weighted: one weight per head, the draw with the best score. per-class: weights of each class drawn
    by themselves, the draw with the best mean recall (AVCER, arXiv 2403.12687). Draws are Dirichlet(1); all alike is
    tried first and kept unless beaten.
    """
    heads, _, classes = probabilities.shape
    metric = scores.uar if how == "per-class" else scores.SCORE.value

    def score(weights: np.ndarray) -> float:
        prediction = np.einsum("kc,knc->nc", weights, probabilities).argmax(axis=1)
        return float(metric(scores.confusion_matrix(target, prediction, classes)))

    best = np.full((heads, classes), 1 / heads)
    if how == "mean" or heads == 1:
        return best
    generator, best_score = np.random.default_rng((seed, 3)), score(best)
    for _ in range(draws):
        drawn = generator.dirichlet(np.ones(heads), classes if how == "per-class" else 1).T
        weights = np.broadcast_to(drawn, (heads, classes))
        if (reached := score(weights)) > best_score:
            best, best_score = weights, reached
    return best
