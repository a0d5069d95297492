"""What a head is, besides its weights, and what it gives."""

from dataclasses import dataclass

import torch

from twofold.data.labels import basic_emotions


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a head is, besides its weights. dims: of the streams, in the order of the columns; own: for zero-shot, the
    basic classifiers that the backbones brought along, instead of a trained one; pairs: as in `Taxonomy`."""

    kind: str
    dims: tuple[int, ...]
    classes: tuple[str, ...]
    members: int
    hidden: int = 512
    dropout: float = 0.0
    projection: int = 128
    rule: str = "geometric"
    own: bool = False
    pairs: tuple[tuple[str, ...], ...] = ()

    @property
    def parts(self) -> tuple[tuple[str, ...], ...]:
        """The basic emotions that each class is made of, as in `Taxonomy`."""
        return self.pairs or tuple(basic_emotions(name) for name in self.classes)


@dataclass(frozen=True)
class Output:
    """logits (M, B, C). Of some heads: basic (M, B, 8) logits; gates (M, B, K), shares of the streams."""

    logits: torch.Tensor
    basic: torch.Tensor | None = None
    gates: torch.Tensor | None = None
