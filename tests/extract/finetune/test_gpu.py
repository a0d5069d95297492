"""Training on a CUDA device, where there is one; `FILE.history.csv` has the seconds of each epoch."""

from dataclasses import replace

import pytest
import torch

from twofold.extract.finetune.finetune import finetune

CARD = "cuda"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]


def test_the_card_learns_what_the_host_learns(request_for):
    card, host = (finetune(replace(request_for(f"{number}.safetensors"), device=device))
                  for number, device in enumerate((CARD, "cpu")))
    for here, there in zip(card.progress.history, host.progress.history, strict=True):
        assert here.loss == pytest.approx(there.loss, rel=0.02)
        assert here.val_loss == pytest.approx(there.val_loss, rel=0.05)


def test_half_the_bits_learn_too(request_for):
    report = finetune(replace(request_for(precision="bf16", epochs=3), device=CARD))
    losses = [epoch.loss for epoch in report.progress.history]
    assert losses[-1] < losses[0]
