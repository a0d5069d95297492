"""Low-rank adaptation (LoRA, arXiv 2106.09685): frozen linear layers learn the product of two thin matrices."""

import torch
from torch import nn
from torch.nn import functional

from twofold.data.utils.errors import InputError

PREFIX = "lora:"  #: before the rank, in `--train`


class Adapter(nn.Module):
    """A change of a linear layer's weight (O, I), up (O, R) @ down (R, I): zero before training, as up is."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, layer.in_features))
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return functional.linear(functional.linear(inputs, self.down), self.up)


def add_adapters(encoder: nn.Module, rank: int, images: torch.Tensor, name: str) -> None:
    """Give each linear layer of attention and MLPs an adapter, and freeze all else of the encoder.

    images: (B, 3, S, S), to see that every adapter is reached. Raises InputError for a network without such layers,
    with layers thinner than the rank, or which uses their weights in another way.
    """
    layers = {place: module for place, module in encoder.named_modules() if type(module) is nn.Linear}
    if not layers:
        raise InputError(f"train {PREFIX}{rank}: {name} has no linear layers of attention or MLPs: use --train last:N")
    thinnest = min(min(layer.weight.shape) for layer in layers.values())
    if rank > thinnest:
        raise InputError(f"train {PREFIX}{rank}: the thinnest layer of {name} has {thinnest} channels: choose less")
    encoder.requires_grad_(False)
    for layer in layers.values():
        layer.add_module("adapter", Adapter(layer, rank))
        layer.register_forward_hook(_add)
    with torch.enable_grad():
        encoder(images).square().sum().backward()
    unused = [place for place, layer in layers.items() if layer.get_parameter("adapter.up").grad is None]
    if unused:
        raise InputError(f"train {PREFIX}{rank}: {name} does not call its layer {unused[0]}, so that an adapter would "
                         "learn nothing: use --train last:N")
    encoder.zero_grad(set_to_none=True)


def _add(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    """Not a closure, so that a copy of the network uses its own adapters."""
    return output + layer.get_submodule("adapter")(inputs[0])


@torch.no_grad()
def merge_adapters(encoder: nn.Module) -> None:
    """Add each adapter to the weight that it changes; it is zero from then on."""
    for layer in encoder.modules():
        if isinstance(adapter := getattr(layer, "adapter", None), Adapter):
            layer.get_parameter("weight").add_(adapter.up @ adapter.down)
            adapter.up.zero_()
