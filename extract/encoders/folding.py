"""Fold batch norms into the convolutions in front of them: fewer passes over memory for the same values."""

import contextlib
import logging

import torch
from torch import nn

TOLERANCE = 1e-3  # of the largest value; folding in float64 stays near 1e-6, a wrong pairing is far off

log = logging.getLogger(__name__)


def fold_batch_norms(network: nn.Module, images: torch.Tensor) -> int:
    """Fold, in place, every batch norm that directly follows a convolution; returns how many.

    network: in evaluation mode on the CPU in float32; images: (B, 3, S, S) normalised, run through it to see which
    norm reads which convolution's output, and to check the result. A network that comes out different is put back
    as it was, with a warning.
    """
    pairs, before = _pairs(network, images)
    if not pairs:
        return 0
    with torch.no_grad():
        undo = [_fold(network, convolution, norm) for convolution, norm in pairs]
        after = network(images)
    if (after - before).abs().max() <= TOLERANCE * before.abs().max():
        return len(pairs)
    log.warning("batch norms of %s are left as they are: folded, the network gave other values", type(network).__name__)
    for name, norm, convolution, weight, bias in reversed(undo):
        network.set_submodule(name, norm)
        convolution.weight, convolution.bias = weight, bias
    return 0


def _pairs(network: nn.Module, images: torch.Tensor) -> tuple[list[tuple[nn.Conv2d, nn.BatchNorm2d]], torch.Tensor]:
    """Convolutions and the batch norms that read exactly their output, each used once; and what the network gives."""
    outputs: dict[int, tuple[nn.Conv2d, torch.Tensor, int]] = {}  # by identity of the output, which is kept alive
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    calls: dict[nn.Module, int] = {}

    def convolved(module: nn.Conv2d, _: tuple, output: torch.Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        outputs[id(output)] = module, output, output._version

    def normed(module: nn.BatchNorm2d, inputs: tuple) -> None:
        calls[module] = calls.get(module, 0) + 1
        if id(inputs[0]) in outputs:
            convolution, output, version = outputs[id(inputs[0])]
            if output._version == version:  # nothing changed it in place on the way
                pairs.append((convolution, module))

    with contextlib.ExitStack() as hooks, torch.no_grad():
        for module in network.modules():
            # a convolution whose weight is what it multiplies with, as a weight-standardised one's is not
            if type(module) is nn.Conv2d or type(module).__name__ == "Conv2dSame":
                hooks.enter_context(module.register_forward_hook(convolved))
            elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
                hooks.enter_context(module.register_forward_pre_hook(normed))
        output = network(images)
    return [pair for pair in pairs if all(calls[module] == 1 for module in pair)], output


def _fold(network: nn.Module, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple:
    """Fold one pair; returns what undoes it."""
    name = next(name for name, module in network.named_modules() if module is norm)
    weight, bias = convolution.weight, convolution.bias
    scale = (norm.get_buffer("running_var").double() + norm.eps).rsqrt()
    shift = -norm.get_buffer("running_mean").double() * scale
    if norm.affine:
        scale, shift = scale * norm.weight.double(), shift * norm.weight.double() + norm.bias.double()
    folded_bias = shift if bias is None else shift + bias.double() * scale
    convolution.weight = nn.Parameter((weight.double() * scale[:, None, None, None]).float(), requires_grad=False)
    convolution.bias = nn.Parameter(folded_bias.float(), requires_grad=False)
    activation = norm.get_submodule("act") if hasattr(norm, "act") else nn.Identity()  # timm's norms carry one
    network.set_submodule(name, activation)
    return name, norm, convolution, weight, bias
