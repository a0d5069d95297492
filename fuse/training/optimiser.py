"""Adam, the learning rate on a plateau, the best epoch, and the device that heads train on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.optim.adamw import adamw

from twofold.data.utils.machine import cpu_has_bf16, resolve_device


class AdamW:
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101) with beta 0.9 and 0.999; without decay it is Adam.

    torch's own function, not its Optimizer class: the class imports torch's compiler at its first step, some three
    seconds before the first table for nothing. A test holds the two equal.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], *, weight_decay: float):
        self.parameters, self.weight_decay = list(parameters), weight_decay
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]
        self.steps = [torch.zeros((), device=p.device) for p in self.parameters]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move the parameters against their gradients, and clear these."""
        trained = [k for k, p in enumerate(self.parameters) if p.grad is not None]
        parameters, first, second, steps = ([values[k] for k in trained] for values in (
            self.parameters, self.first, self.second, self.steps))
        adamw(parameters, [p.grad for p in self.parameters if p.grad is not None], first, second, [], steps, fused=True,
              amsgrad=False, beta1=0.9, beta2=0.999, lr=rate, weight_decay=self.weight_decay, eps=1e-8, maximize=False)
        for p in self.parameters:
            p.grad = None


PATIENCE = 5  #: epochs without a better figure before the rate is halved
FALL = 0.5
LEAST = 0.01  #: of the first rate: from 5e-5 down to 5e-7, as the paper's authors ran it
MARGIN = 1e-4  #: how much better, relatively, a figure must be to count


@dataclass(frozen=True)
class Plateau:
    """torch's ReduceLROnPlateau for a figure that is to grow. factor: of the learning rate."""

    factor: float = 1.0
    best: float = float("-inf")
    epochs: int = 0  #: without a better figure

    def after(self, figure: float) -> "Plateau":
        """The state after an epoch with this figure."""
        if figure > self.best * (1 + MARGIN if self.best > 0 else 1 - MARGIN):
            return replace(self, best=figure, epochs=0)
        if self.epochs < PATIENCE:
            return replace(self, epochs=self.epochs + 1)
        return replace(self, factor=max(self.factor * FALL, LEAST), epochs=0)


class BestWeights:
    """The best weights so far of each of M members; a member whose patience is over (`done`) takes no new ones."""

    def __init__(self, parameters: Sequence[torch.Tensor], members: int):
        self.weights = [p.detach().clone() for p in parameters]
        self.score, self.since = np.full(members, -np.inf), np.zeros(members, int)
        self.done = np.zeros(members, bool)

    def update(self, parameters: Sequence[torch.Tensor], scores: Sequence[float], patience: int) -> None:
        """Keep the weights of members whose score is their best so far. patience: in epochs, 0 for no end of it."""
        for member, score in enumerate(scores):
            if score > self.score[member] and not self.done[member]:
                self.score[member], self.since[member] = score, 0
                for kept, p in zip(self.weights, parameters, strict=True):
                    kept[member].copy_(p.detach()[member])
            else:
                self.since[member] += 1
        self.done |= (self.since >= patience) & (patience > 0)


def parse_device(text: str) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps` as a device that is there. Raises InputError if it is not."""
    return torch.device(resolve_device(text, cuda_devices=torch.cuda.device_count(),
                                    mps=torch.backends.mps.is_available(), auto=("cuda", "cpu")))


def resolve_precision(text: str, device: torch.device) -> str:
    """`auto`, `fp32` or `bf16` as one of the last two; auto is bf16 where the hardware multiplies it natively."""
    if text != "auto":
        return text
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    native = device.type == "cpu" and cpu_has_bf16() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bf16" if native else "fp32"
