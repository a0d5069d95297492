"""Adam is torch's, to the bit."""

import pytest
import torch

from twofold.fuse.training.optimiser import AdamW


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_it_is_torchs_fused_adamw(decay):
    start = [torch.randn(40, 30), torch.randn(30)]
    ours, theirs = ([p.clone().requires_grad_() for p in start] for _ in range(2))
    optimiser = AdamW(ours, weight_decay=decay)
    reference = torch.optim.AdamW(theirs, lr=1.0, weight_decay=decay, fused=True)
    for step in range(20):
        rate = 1e-2 / (1 + step)
        reference.param_groups[0]["lr"] = rate
        for p, q in zip(ours, theirs, strict=True):
            q.grad = torch.randn(p.shape)
            p.grad = q.grad.clone()
        optimiser.step(rate)
        reference.step()
    assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))
    assert all(p.grad is None for p in ours)
