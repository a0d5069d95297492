"""Heads on fused features, for all seeds at once: every parameter has the seed as its first axis."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

Parameters = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A head's architecture. hidden 0 is a linear head, else a perceptron with one hidden layer of that width."""

    inputs: int
    classes: int
    hidden: int = 512
    dropout: float = 0.0


def initial(shape: Shape, seeds: list[int]) -> Parameters:
    """Parameters (S, in, out) and biases (S, 1, out), drawn for each seed as torch's Linear draws them."""
    layers = [("hidden", shape.inputs, shape.hidden), ("out", shape.hidden, shape.classes)]
    if not shape.hidden:
        layers = [("out", shape.inputs, shape.classes)]
    drawn = [_drawn(layers, seed) for seed in seeds]
    return {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}


def logits(parameters: Parameters, x: Tensor, *, dropout: float = 0.0) -> Tensor:
    """(S, B, C) logits from (S, B, D) features."""
    if "hidden.weight" in parameters:
        x = torch.baddbmm(parameters["hidden.bias"], x, parameters["hidden.weight"]).relu()
        x = torch.nn.functional.dropout(x, dropout, training=dropout > 0)
    return torch.baddbmm(parameters["out.bias"], x, parameters["out.weight"])


def _drawn(layers: list[tuple[str, int, int]], seed: int) -> Parameters:
    generator = torch.Generator().manual_seed(seed)
    drawn: Parameters = {}
    for name, inputs, outputs in layers:
        bound = 1 / math.sqrt(inputs)
        for part, size in (("weight", (inputs, outputs)), ("bias", (1, outputs))):
            drawn[f"{name}.{part}"] = (torch.rand(size, generator=generator) * 2 - 1) * bound
    return drawn
