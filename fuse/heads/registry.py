"""The heads by name and what each declares: no other module names one. None is imported before it is built."""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twofold.fuse.training.ensemble import Body, Spec


@dataclass(frozen=True, kw_only=True)
class HeadType:
    """What a head needs and gives.

    body: module and class of its network; pretrained_body: of what stands there when the backbones bring their own
    classifiers along. learns_classes: False for one that learns from basic labels and only is scored by the classes.
    needs_basic: samples with a basic label alone train it, too. outputs_basic: it predicts basic expressions on the
    way. views: `streams` of their own, or `versions` of one stream, of which the first predicts. averages_singles: it
    is made of one mlp per stream. seeded: its members differ by their seeds; else one member is all of it.
    """

    body: str
    pretrained_body: str = ""
    learns_classes: bool = True
    needs_basic: bool = False
    outputs_basic: bool = False
    views: str = "streams"
    averages_singles: bool = False
    seeded: bool = True


HEAD_TYPES = {
    "paper": HeadType(body="fusion:Paper", needs_basic=True, outputs_basic=True, views="versions"),
    "linear": HeadType(body="fusion:Linear"),
    "mlp": HeadType(body="fusion:MLP"),
    "gated": HeadType(body="fusion:Gated"),
    "late": HeadType(body="fusion:Late", averages_singles=True),
    "logreg": HeadType(body="sklearn:LogisticRegression", seeded=False),
    "zeroshot": HeadType(body="zeroshot:ZeroShot", pretrained_body="zeroshot:PretrainedClassifiers",
                         learns_classes=False, outputs_basic=True),
}
SINGLE = "mlp"  #: the head on one stream that a head with `averages_singles` is made of


def build(spec: "Spec") -> "Body":
    """The network of a head, its weights zero."""
    kind = HEAD_TYPES[spec.kind]
    module, _, name = (kind.pretrained_body if spec.own else kind.body).partition(":")
    return getattr(importlib.import_module(f"twofold.fuse.heads.{module}"), name)(spec)
