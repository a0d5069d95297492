"""Compound expressions from basic ones alone: pair rules, and the basic classifiers that backbones bring along."""

import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from twofold.cache.classifier import BackboneClassifier
from twofold.data.labels import BASIC
from twofold.data.utils.errors import InputError
from twofold.fuse.core.features import Features
from twofold.fuse.core.settings import Settings
from twofold.fuse.heads.fusion import MLP
from twofold.fuse.training.data import Samples, membership
from twofold.fuse.training.ensemble import Body, MemberRandom, Output, Spec, StackedLinear, StackedMLP
from twofold.fuse.training.loop import Epoch

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
    first, second = torch.tensor([[BASIC.index(name) for name in pair] for pair in pairs], device=basic.device).T
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

    absent: torch.Tensor  #: -inf for basics without training samples

    def __init__(self, spec: Spec):
        super().__init__()
        self.pairs, self.rule = spec.parts, spec.rule
        self.mlp = StackedMLP(spec.members, sum(spec.dims), spec.hidden, len(BASIC), spec.dropout)
        self.register_buffer("absent", torch.zeros(spec.members, 1, len(BASIC)))

    def forward(self, x: torch.Tensor, random: MemberRandom | None = None) -> Output:
        basic = self.mlp(x, random) + self.absent
        scores = pair_scores(basic.float().softmax(dim=-1), self.pairs, rule=self.rule)
        return Output(scores.clamp_min(1e-12).log(), basic=basic)

    def fit(self, data: Samples, val: Samples, *, spec: Spec, settings: Settings) -> list[Epoch]:
        """Train the basic classifier as an MLP. Raises InputError for a class whose basics no sample shows."""
        needed = np.flatnonzero(membership(spec.parts).any(axis=1))
        count = np.bincount(data.label, minlength=len(BASIC))
        if absent := [BASIC[number] for number in needed if not count[number]]:
            raise InputError(f"zero-shot needs training samples with the basic labels {', '.join(absent)}: "
                             "add a store that has them (`fuse STORE STORE ...`)")
        self.to(data.device)
        self.absent[:, :, torch.from_numpy(count == 0).to(data.device)] = float("-inf")
        basic_spec = replace(spec, kind="mlp", classes=BASIC, pairs=())
        classifier = MLP(basic_spec)
        classifier.mlp = self.mlp
        return classifier.fit(data, val, spec=basic_spec, settings=settings)


class PretrainedClassifiers(Body):
    """The basic classifiers that the backbones bring along, their probabilities averaged, and a pair rule.

    Nothing is learned. The bias of a basic emotion that a backbone does not know is far below all others.
    """

    def __init__(self, spec: Spec):
        super().__init__()
        self.dims, self.pairs, self.rule = list(spec.dims), spec.parts, spec.rule
        self.own = nn.ModuleList(StackedLinear(spec.members, dim, len(BASIC)) for dim in spec.dims)

    def basic(self, x: torch.Tensor) -> torch.Tensor:
        """(M, B, 8) logarithms of the mean probabilities of the basic emotions."""
        parts = [layer(part).float().softmax(dim=-1)
                 for layer, part in zip(self.own, x.split(self.dims, dim=-1), strict=True)]
        return (functools.reduce(torch.add, parts) / len(parts)).clamp_min(1e-12).log()

    def forward(self, x: torch.Tensor, random: MemberRandom | None = None) -> Output:
        basic = self.basic(x)
        scores = pair_scores(basic.exp(), self.pairs, rule=self.rule)
        return Output(scores.clamp_min(1e-12).log(), basic=basic)

    @torch.no_grad()
    def copy_classifiers(self, classifiers: Sequence[BackboneClassifier], mean: torch.Tensor, std: torch.Tensor
                         ) -> None:
        """Take the classifier of each stream, for features (x - mean) / std, both (M, 1, D)."""
        parts = zip(self.own, classifiers, mean.split(self.dims, -1), std.split(self.dims, -1), strict=True)
        for layer, classifier, shift, scale in parts:
            weight, bias = torch.from_numpy(classifier.weight), torch.from_numpy(classifier.bias)
            layer.get_parameter("weight").copy_(scale.mT * weight)
            layer.get_parameter("bias").copy_(shift @ weight + bias)


class Tuned(MLP):
    """An MLP for the classes; basic emotions by the classifiers that the backbones bring along, averaged."""

    def __init__(self, spec: Spec):
        super().__init__(spec)
        self.own = PretrainedClassifiers(spec)

    def forward(self, x: torch.Tensor, random: MemberRandom | None = None) -> Output:
        return Output(self.mlp(x, random), basic=self.own.basic(x))

    def copy_classifiers(self, classifiers: Sequence[BackboneClassifier], mean: torch.Tensor, std: torch.Tensor
                         ) -> None:
        """Take the classifier of each stream, for features (x - mean) / std."""
        self.own.copy_classifiers(classifiers, mean, std)


UNKNOWN = -1e4  #: the logit of a basic emotion that the backbone does not know


def in_order_of_basics(own: BackboneClassifier) -> BackboneClassifier:
    """A classifier of basic emotions with weight (D, 8) and bias (8,) in the order of BASIC."""
    columns = [BASIC.index(name) for name in own.classes]
    weight = np.zeros((len(own.weight), len(BASIC)), np.float32)
    bias = np.full(len(BASIC), UNKNOWN, np.float32)
    weight[:, columns], bias[columns] = own.weight, own.bias
    return BackboneClassifier(BASIC, weight, bias)


def pretrained_classifiers(features: Features) -> tuple[list[BackboneClassifier], str]:
    """The classifier of each stream, weight (D, 8) and bias (8,) in the order of BASIC, or none at all where a stream
    has none; and a note that says so."""
    classifiers, reasons = [], {}
    for stream in features.streams:
        own = stream.classifier
        if own is None or stream.pool:
            reasons[stream.name] = "has no classifier" if own is None else "is pooled over frames"
        elif other := [name for name in own.classes if name not in BASIC]:
            reasons[stream.name] = f"has a classifier of {other[0]!r}, which is no basic emotion"
        else:
            classifiers.append(in_order_of_basics(own))
    if not reasons:
        return classifiers, "zero-shot from the backbones' own classifiers: nothing is trained"
    if set(reasons.values()) == {"has no classifier"} and not classifiers:
        return [], "zero-shot from a basic classifier trained on basic labels: no stream has a classifier of its own"
    return [], ("zero-shot from a basic classifier trained on basic labels, not from the backbones' own: "
                + ", ".join(f"{name} {reason}" for name, reason in reasons.items()))
