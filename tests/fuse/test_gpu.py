"""Heads trained on a CUDA device, where there is one."""

import numpy as np
import pytest
import torch

from twofold.fuse.core.settings import resolve
from twofold.fuse.fuse import fuse

CARD = "cuda"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]


@pytest.mark.parametrize("head", ["mlp", "gated", "paper"])
def test_many_seeds_on_the_card_learn_what_they_learn_on_the_host(make_store, head):
    store = make_store({"a": ("a", 24), "b": ("b", 16)})
    runs = [fuse([store], resolve(changes={"head": head, "seeds": 32, "epochs": 12, "device": device,
                                           "precision": "fp32"}), out=None).figures[-1] for device in (CARD, "cpu")]
    card, host = (np.array(run.of["accuracy"].seeds) for run in runs)
    assert len(card) == 32 and abs(card.mean() - host.mean()) < 0.04 and card.mean() > 0.5
