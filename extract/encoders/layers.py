"""Layers and tokens of a network from the forward pass that gives the embedding: `NAME?layers=all`, `NAME?tokens=49`.

Where to read is found by running the network, whatever library it is from. Its layers are the children of its outermost
sequences of modules: the longest chain of which each reads the output of the one before, and through whose end all goes
that reaches the embedding. Maps of one size and number of channels are one stage; its last block is read. Each layer
gives the means of its map or patch tokens, and its class token where there is one, as it leaves the layer (before the
final norm); the embedding, as the network gives it without these options, belongs to the last layer.
"""

import contextlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from twofold.cache.recipe import EMBEDDING, Piece
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.preprocessing import LAYERS, TOKENS

SAME = 1e-4  #: of the largest value: what a pooled layer may differ from the embedding that it is
ROUNDING = 1e-3  #: of what the embeddings of two images differ by: what may be left where they read the same


@dataclass(frozen=True, eq=False)
class Call:
    """A module that was called once, with the tensors that it read and gave."""

    module: nn.Module
    read: torch.Tensor | None
    gave: torch.Tensor


@dataclass(frozen=True)
class Layout:
    """Of an output: `map` (B, C, H, H), `map last` (B, H, H, C), or `tokens` (B, T, C), of which `front` stand before
    the patches: class token and registers. side: of the grid of patches, 0 where they have none."""

    kind: str
    side: int
    front: int = 0

    def pooled(self, output: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, C) each: `class`, where there is a class token, and `mean`."""
        if self.kind == "map":
            return {"mean": F.adaptive_avg_pool2d(output, 1).flatten(1)}
        if self.kind == "map last":
            return {"mean": output.mean((1, 2))}
        return ({"class": output[:, 0]} if self.front else {}) | {"mean": output[:, self.front:].mean(1)}

    def grid(self, output: torch.Tensor, side: int) -> torch.Tensor:
        """(B, side side C): means of as many cells of the map, row by row."""
        if self.kind == "tokens":
            output = output[:, self.front:].transpose(1, 2).unflatten(2, (self.side, self.side))
        output = output.permute(0, 3, 1, 2) if self.kind == "map last" else output
        output = F.adaptive_avg_pool2d(output, side) if side < self.side else output
        return output.flatten(2).transpose(1, 2).flatten(1)


class PieceNetwork(nn.Module):
    """(B, 3, S, S) to (B, D): chosen pieces of one forward pass of a network, side by side.

    taps: a module whose output is read, and what is taken of it: the grid of `side` cells a side, or, where side is 0,
    pooled under a number; chosen: names of pooled pieces.
    """

    def __init__(self, network: nn.Module, taps: Sequence[tuple[nn.Module, Layout, int]], *, chosen: Sequence[str] = (),
                 side: int = 0):
        super().__init__()
        self.network, self.chosen, self._taken = network, chosen, {}
        for module, layout, number in taps:
            def keep(_module: nn.Module, _inputs: Any, output: Any, layout: Layout = layout, number: int = number
                     ) -> None:
                values = {f"token{number}": layout.grid(_tensor(output), side)} if side else {
                    f"{number}.{name}": value for name, value in layout.pooled(_tensor(output)).items()}
                self._taken |= values

            module.register_forward_hook(keep)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        embedding = self.network(images)
        taken, self._taken = self._taken | {EMBEDDING: embedding}, {}
        return torch.cat([taken[name] for name in self.chosen], dim=1)


def with_pieces(network: nn.Module, name: str, options: dict[str, str], images: torch.Tensor
                ) -> tuple[nn.Module, tuple[Piece, ...]]:
    """The network that gives the layers or tokens of the options, and what stands side by side in its rows.

    network: in evaluation mode, ready for images (B, 3, S, S), at least two different ones. Raises InputError for a
    network whose layers or tokens are not found, and for options that ask for what it does not have.
    """
    backbone = f"backbone {name}"
    if LAYERS in options and TOKENS in options:
        raise InputError(f"{backbone}: give layers or tokens; two backbones side by side give both")
    calls, embedding = _run(network, images)
    trunk = _trunk(network, calls, images, embedding)
    if not trunk or (len(trunk) == 1 and LAYERS in options):
        raise InputError(f"{backbone} has no layers to read: its blocks do not stand in one row")
    stages = [(call, layout) for call in trunk if (layout := _layout(call, _patches(calls, trunk[0])))]
    if len(stages) < len(trunk):
        raise InputError(f"{backbone} has no layers to read: their outputs are neither square maps nor patch tokens")
    if TOKENS in options:
        return _token_network(network, backbone, options[TOKENS], calls, stages[-1], images, embedding)
    pieces, numbers = {}, {}
    for number, (call, layout) in enumerate(stages, start=1):
        for kind, value in layout.pooled(call.gave).items():
            if number == len(stages) and value.shape == embedding.shape and \
                    (value - embedding).abs().max() <= SAME * embedding.abs().max():
                continue  # it is the embedding
            pieces[f"{number}.{kind}"], numbers[f"{number}.{kind}"] = value.shape[1], number
    pieces[EMBEDDING], numbers[EMBEDDING] = embedding.shape[1], len(stages)
    chosen = _choose(options[LAYERS], numbers, len(stages), backbone=backbone)
    taps = [(call.module, layout, number) for number, (call, layout) in enumerate(stages, start=1)
            if any(piece.startswith(f"{number}.") for piece in chosen)]
    return PieceNetwork(network, taps, chosen=chosen), tuple((piece, pieces[piece]) for piece in chosen)


def _choose(text: str, numbers: dict[str, int], count: int, *, backbone: str) -> list[str]:
    """The pieces of `all`, `last4`, or numbers and pieces between commas, in the order of the network."""
    wanted: set[str] = set()
    for part in text.split(","):
        last = re.fullmatch(r"(last)?([1-9][0-9]{0,3})", part)
        if part in ("all", *numbers):
            wanted |= {*numbers} if part == "all" else {part}
        elif last and int(last[2]) <= count:
            first, end = (count - int(last[2]) + 1, count) if last[1] else (int(last[2]),) * 2
            wanted |= {piece for piece, number in numbers.items() if first <= number <= end}
        else:
            raise InputError(f"{backbone}: layers={text}: say all, last4, 3,6,9 or pieces; it has layers 1 to {count} "
                             f"(pieces {', '.join(numbers)})")
    return [piece for piece in numbers if piece in wanted]


def _token_network(network: nn.Module, backbone: str, text: str, calls: Sequence[Call], last: tuple[Call, Layout],
                   images: torch.Tensor, embedding: torch.Tensor) -> tuple[nn.Module, tuple[Piece, ...]]:
    """Tokens are read at the last module that gives a grid of the last layer's size, behind the final norm."""
    (call, layout), side = last, math.isqrt(int(text)) if re.fullmatch("[1-9][0-9]{0,5}", text) else 0
    if not side or side * side != int(text):
        raise InputError(f"{backbone}: tokens={text} is no square number, as 49 for 7 x 7")
    if side > layout.side:
        raise InputError(f"{backbone}: tokens={text}: its last layer has only {layout.side} x {layout.side} patches"
                         if layout.side else f"{backbone} has no square of patches to take tokens from")
    same = (call.gave.shape[1:] if layout.kind == "tokens" else (layout.side,) * 2)
    ends = [each for each in calls[calls.index(call):] if
            (each.gave.shape[1:] if layout.kind == "tokens" else each.gave.shape[2:] if layout.kind == "map" else
             each.gave.shape[1:3]) == same and each.gave.ndim == call.gave.ndim]
    end = next(each for each in reversed(ends)
               if each is call or _goes_through(network, each.module, images, embedding))
    width = end.gave.shape[1 if layout.kind == "map" else -1]
    names = [f"token{row}.{column}" for row in range(1, side + 1) for column in range(1, side + 1)]
    return (PieceNetwork(network, [(end.module, layout, 0)], chosen=["token0"], side=side),
            tuple((name, width) for name in names))


# ------------------------------------------------------------------------------------------------ where the layers are
def _tensor(output: Any) -> Any:
    """A module's output; the first of several."""
    return output[0] if isinstance(output, tuple | list) and output else output


def _run(network: nn.Module, images: torch.Tensor) -> tuple[list[Call], torch.Tensor]:
    """The modules that are called once, in the order in which they end, and the embedding."""
    calls: list[Call] = []
    times: dict[nn.Module, int] = {}

    def called(module: nn.Module, inputs: tuple, named: dict[str, Any], output: Any) -> None:
        times[module] = times.get(module, 0) + 1
        read = next((each for each in (*inputs, *named.values()) if isinstance(each, torch.Tensor)), None)
        if isinstance(output := _tensor(output), torch.Tensor):
            calls.append(Call(module, read, output))

    with contextlib.ExitStack() as hooks, torch.no_grad():
        for module in network.modules():
            if module is not network:
                hooks.enter_context(module.register_forward_hook(called, with_kwargs=True))
        embedding = network(images)
    return [call for call in calls if times[call.module] == 1], embedding


def _trunk(network: nn.Module, calls: Sequence[Call], images: torch.Tensor, embedding: torch.Tensor) -> list[Call]:
    """The layers in order, of a stage its last block; none where no chain of modules carries all that reaches the
    embedding."""
    for candidates in (set(_in_sequences(network)), set(network.children())):
        chains: list[list[Call]] = []
        for call in (call for call in calls if call.module in candidates and (
                call.gave.ndim == 3 or (call.gave.ndim == 4 and call.gave.shape[2] > 1))):  # not what is pooled
            before = next((chain for chain in chains if call.read is not None and (
                chain[-1].gave is call.read or chain[-1].gave.data_ptr() == call.read.data_ptr())), None)
            if before:
                before.append(call)
            else:
                chains.append([call])
        stages = [[call for call, after in zip(chain, [*chain[1:], None], strict=True)
                   if not (after and call.gave.ndim == 4 and after.gave.shape == call.gave.shape)] for chain in chains]
        stages.reverse()  # of equally long ones the last comes first
        for chain in sorted(stages, key=len, reverse=True):
            if _goes_through(network, chain[-1].module, images, embedding):
                return chain
    return []


def _in_sequences(module: nn.Module) -> list[nn.Module]:
    """The children of the outermost sequences of modules."""
    if isinstance(module, nn.Sequential | nn.ModuleList):
        return list(module)
    return [layer for child in module.children() for layer in _in_sequences(child)]


def _goes_through(network: nn.Module, module: nn.Module, images: torch.Tensor, embedding: torch.Tensor) -> bool:
    """Whether the embedding depends on the image through this module's output alone: with that of the first image for
    all, all embeddings are the first one's. embedding: without that."""
    def replaced(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        first = _tensor(output)[:1].expand_as(_tensor(output)).clone()
        return (first, *output[1:]) if isinstance(output, tuple) else first

    with module.register_forward_hook(replaced), torch.no_grad():
        of_first = network(images)
    left, differ = ((each - each[:1]).abs().max() for each in (of_first, embedding))
    return bool(left < ROUNDING * differ)


def _patches(calls: Sequence[Call], first: Call) -> int:
    """The number of patches: places of the last map in front of the first layer; 0 if there is none."""
    maps = [call.gave for call in calls[:calls.index(first)]
            if isinstance(call.module, nn.Conv2d) and call.gave.ndim == 4]
    return maps[-1].shape[2] * maps[-1].shape[3] if maps else 0


def _layout(call: Call, patches: int) -> Layout | None:
    """How to read an output of square images; None where that is not known."""
    shape = call.gave.shape
    if len(shape) == 4:
        if shape[2] == shape[3]:
            return Layout("map", shape[2])
        return Layout("map last", shape[1]) if shape[1] == shape[2] else None
    front = shape[1] - patches if patches and shape[1] >= patches else 0
    if not patches or (shape[1] < patches and patches % shape[1]):
        return None
    side = math.isqrt(shape[1] - front)
    return Layout("tokens", side if side * side == shape[1] - front else 0, front)
