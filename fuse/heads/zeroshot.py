"""Compound expressions from basic ones alone: pair rules, and the basic classifiers that backbones bring along."""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from twofold.cache.classifier import BackboneClassifier
from twofold.data.labels import BASIC
from twofold.fuse.features import FusedFeatures, Stream
from twofold.fuse.training.ensemble import Body, Noise, Output, Spec, StackedLinear, StackedMLP

THRESHOLD = 1 / 7  #: AVCER zeroes basic probabilities up to chance level of its seven basics
#: AVCER's weights d: how many facial regions take part in a basic emotion (arXiv 2403.12687)
REGIONS = {"anger": 5, "disgust": 6, "fear": 5, "happiness": 6, "sadness": 4, "surprise": 2}


def pair_scores(basic: torch.Tensor, pairs: Sequence[Sequence[str]], *, rule: str) -> torch.Tensor:
    """(..., C) scores, not normalised, of basic probabilities (..., 8) in BASIC's order; pairs: of each class.

    threshold: zero what is <= 1/7, then sum the pair, and where nothing is left of any pair, take the plain sums;
    weighted: sum weighted by d_i / (d_i + d_j) (both AVCER, arXiv 2403.12687; where d is not published, neutral and
    contempt, the mean d of 4.67 stands in).
    mean, geometric, harmonic: that mean of the pair (arXiv 2407.13184).
    """
    first, second = (torch.tensor([BASIC.index(basics[side]) for basics in pairs], device=basic.device)
                     for side in (0, 1))
    a, b = basic[..., first], basic[..., second]
    if rule == "threshold":
        scores = a * (a > THRESHOLD) + b * (b > THRESHOLD)
        return torch.where(scores.sum(dim=-1, keepdim=True) > 0, scores, a + b)
    if rule == "weighted":
        mean = sum(REGIONS.values()) / len(REGIONS)
        d = torch.tensor([REGIONS.get(name, mean) for name in BASIC], device=basic.device)
        return (a * d[first] + b * d[second]) / (d[first] + d[second])
    if rule == "mean":
        return (a + b) / 2
    if rule == "geometric":
        return (a * b).sqrt()
    return 2 * a * b / (a + b).clamp_min(1e-12)


class ZeroShot(Body):
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


class OwnLogits(Body):
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


NONE = "has no classifier"
NEVER = -1e4  #: the logit of a basic emotion that the backbone does not know


def own_classifiers(features: FusedFeatures) -> tuple[list[BackboneClassifier], str]:
    """The classifier of each stream, weight (D, 8) and bias (8,) in the order of BASIC, or none at all where a stream
    has none; and what is to be said about it."""
    of_streams = [_of_stream(stream) for stream in features.streams]
    reasons = {stream.name: reason for stream, reason in zip(features.streams, of_streams, strict=True)
               if isinstance(reason, str)}
    if not reasons:
        return ([classifier for classifier in of_streams if not isinstance(classifier, str)],
                "zero-shot from the backbones' own classifiers: nothing is trained")
    if set(reasons.values()) == {NONE} and len(reasons) == len(of_streams):
        return [], "zero-shot from a basic classifier trained on basic labels: no stream has a classifier of its own"
    return [], ("zero-shot from a basic classifier trained on basic labels, not from the backbones' own: "
                + ", ".join(f"{name} {reason}" for name, reason in reasons.items()))


def _of_stream(stream: Stream) -> BackboneClassifier | str:
    """Of the first file that has one, since all have one recipe; or why there is none."""
    for file in stream.files:
        if file.classifier is not None:
            return _of_basics(file.classifier)
    return NONE


def _of_basics(classifier: BackboneClassifier) -> BackboneClassifier | str:
    """The same classifier with all basic emotions, in the order of BASIC."""
    strange = [name for name in classifier.classes if name not in BASIC]
    if strange:
        return f"has a classifier of {strange[0]!r}, which is no basic emotion"
    columns = [BASIC.index(name) for name in classifier.classes]
    weight = np.zeros((len(classifier.weight), len(BASIC)), np.float32)
    bias = np.full(len(BASIC), NEVER, np.float32)
    weight[:, columns], bias[columns] = classifier.weight, classifier.bias
    return BackboneClassifier(BASIC, weight, bias)
