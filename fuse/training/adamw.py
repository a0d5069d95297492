"""Adam with decoupled weight decay in one fused pass over the weights."""

from collections.abc import Sequence

import torch
from torch.optim.adamw import adamw


class Adam:
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
        """Move the parameters against their gradients, and forget these."""
        taught = [k for k, p in enumerate(self.parameters) if p.grad is not None]

        def of(values: list[torch.Tensor]) -> list[torch.Tensor]:
            return [values[k] for k in taught]

        gradients = [p.grad for p in self.parameters if p.grad is not None]
        adamw(of(self.parameters), gradients, of(self.first), of(self.second), [],
              of(self.steps), fused=True, amsgrad=False, beta1=0.9, beta2=0.999, lr=rate,
              weight_decay=self.weight_decay, eps=1e-8, maximize=False)
        for p in self.parameters:
            p.grad = None
