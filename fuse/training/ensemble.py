"""Ensemble members (seeds, folds) side by side: layers with parameters (M, in, out), a random generator for each."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from twofold.data.labels import basic_emotions
from twofold.fuse.core.kinds import Classification, link_of


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a head is, besides its weights. dims: of the streams, in the order of the columns; own: for zero-shot, the
    basic classifiers that the backbones bring along, instead of a trained one; pairs: as in `Taxonomy`; task: its
    layout, which says what becomes of the logits; pieces: of each stream the widths of its pieces, none where no stream
    has several; frames: a sample is a clip, its row the frames one after the other, nan beyond its end; views: how many
    views of each backbone are averaged, the streams of one view after those of another."""

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
    task: str = Classification.kind
    pieces: tuple[tuple[int, ...], ...] = ()
    frames: bool = False
    views: int = 1

    @property
    def averaged(self) -> "Spec":
        """What the body sees: the streams of one view."""
        return replace(self, dims=self.dims[:len(self.dims) // self.views], views=1)

    def link(self, logits: torch.Tensor) -> torch.Tensor:
        """Outputs of logits (..., C)."""
        return link_of(self.task, logits)

    @property
    def parts(self) -> tuple[tuple[str, ...], ...]:
        """The basic emotions that each class is made of, as in `Taxonomy`."""
        return self.pairs or tuple(basic_emotions(name) for name in self.classes)


@dataclass(frozen=True)
class Output:
    """logits (M, B, C). Of some heads: basic (M, B, 8) logits; stream_weights (M, B, K); piece_weights (M, B, P) of the
    pieces of each stream, or of the frames of a clip."""

    logits: torch.Tensor
    basic: torch.Tensor | None = None
    stream_weights: torch.Tensor | None = None
    piece_weights: torch.Tensor | None = None


class MemberRandom:
    """One random generator per ensemble member, from its seed, so that results do not depend on the other members.

    Results are (M, ...) tensors on `device`.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device):
        self.generators = [np.random.default_rng((seed, 1)) for seed in seeds]
        self.device = device

    def _stack(self, draws: list[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack(draws)).to(self.device)

    def uniform(self, *shape: int) -> torch.Tensor:
        """(M, *shape) float32 in [0, 1)."""
        return self._stack([generator.random(shape, np.float32) for generator in self.generators])

    def beta(self, alpha: float, *shape: int) -> torch.Tensor:
        """(M, *shape) float32 from Beta(alpha, alpha)."""
        return self._stack([generator.beta(alpha, alpha, shape).astype(np.float32) for generator in self.generators])

    def keep(self, drop: float, *shape: int) -> torch.Tensor:
        """(M, *shape) float32 mask of inverted dropout: 0, or the number that keeps the mean at one.

        Drawn from bytes, eight times as fast as from floats: `drop` is rounded to 1/256.
        """
        bar = round(drop * 256)
        draws = [np.frombuffer(generator.bytes(int(np.prod(shape))), np.uint8).reshape(shape)
                 for generator in self.generators]
        return (self._stack(draws) >= bar).float() * (256 / (256 - bar))

    def order(self, rows: int) -> torch.Tensor:
        """(M, rows) a permutation for each member."""
        return self._stack([generator.permutation(rows) for generator in self.generators])

    def sample(self, weights: np.ndarray, draws: int) -> torch.Tensor:
        """(M, draws) row numbers drawn with replacement in proportion to `weights` (rows,)."""
        edges = np.cumsum(weights / weights.sum())
        return self._stack([np.minimum(np.searchsorted(edges, generator.random(draws), "right"), len(weights) - 1)
                            for generator in self.generators])


class StackedLinear(nn.Module):
    """M affine maps: x (M, B, in), or (B, in) for all members alike, to (M, B, out)."""

    def __init__(self, members: int, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(members, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dim() == 2:
            x = x.expand(len(self.weight), *x.shape)
        return torch.baddbmm(self.bias, x, self.weight)


class StackedMLP(nn.Module):
    """Affine, ReLU, dropout, affine: (M, B, in) to (M, B, out)."""

    def __init__(self, members: int, inputs: int, hidden: int, outputs: int, dropout: float):
        super().__init__()
        self.first = StackedLinear(members, inputs, hidden)
        self.last = StackedLinear(members, hidden, outputs)
        self.dropout = dropout

    def hidden(self, x: torch.Tensor, random: MemberRandom | None = None) -> torch.Tensor:
        """(M, B, hidden) after ReLU and, given random, dropout."""
        h = self.first(x).relu()
        return h * random.keep(self.dropout, *h.shape[1:]) if random and self.dropout else h

    def forward(self, x: torch.Tensor, random: MemberRandom | None = None) -> torch.Tensor:
        return self.last(self.hidden(x, random))


@torch.no_grad()
def initialise(module: nn.Module, seeds: Sequence[int]) -> None:
    """Draw the weights of member m from seeds[m] alone, as torch.nn.Linear does: uniform within 1 / sqrt(inputs)."""
    for member, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        for layer in module.modules():
            if isinstance(layer, StackedLinear):
                bound = 1 / math.sqrt(layer.weight.shape[1])
                for values in (layer.weight[member], layer.bias[member]):
                    values.copy_(torch.empty(values.shape).uniform_(-bound, bound, generator=generator))


@contextlib.contextmanager
def torch_defaults() -> Iterator[None]:
    """torch as it starts: gradients on, float32, no autocast. A notebook may have set each otherwise, and gets it
    back."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with (torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False),
              torch.autocast("cuda", enabled=False)):
            yield
    finally:
        torch.set_default_dtype(dtype)


class Body(nn.Module):
    """What a head is behind the standardisation of its features: (M, B, D), or (B, D) for all members alike."""

    @property
    def output_layer(self) -> StackedLinear:
        """The layer that gives the logits, of heads that learn other tasks than classes, too."""
        raise NotImplementedError

    def add_losses(self, loss: torch.Tensor, output: Output, batch: Any, settings: Any) -> torch.Tensor:
        """(M,) the loss of each member with what this head adds to its cross-entropy."""
        return loss
