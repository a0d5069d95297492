"""POSTER++ against the key table of the published checkpoints, and the values of its embedding."""

import hashlib

import numpy as np
import pytest
import torch

from twofold.extract.encoders.posterv2 import PosterV2

#: SHA-256 over the 747 lines "name<TAB>shape<TAB>dtype" of a published 7-class checkpoint, sorted
KEYS_SHA256 = "d14da1051503155db8edbe9cc4c3bf0c1634fe79fcffa24a6da103a2865e5238"

def noisy(network: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """A state dict in which nothing is at its starting value, norms' statistics and scales included."""
    draw = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in network.state_dict().items():
        normal = torch.randn(tensor.shape, generator=draw)
        if not tensor.is_floating_point():
            state[name] = tensor
        elif name.endswith("running_var"):
            state[name] = 0.5 + torch.rand(tensor.shape, generator=draw)
        elif "gamma" in name or name.endswith("norm.weight") or (tensor.ndim == 1 and name.endswith("weight")):
            state[name] = 0.75 + 0.25 * normal
        elif tensor.ndim >= 2 and name.endswith("weight"):
            state[name] = normal * tensor[0].numel() ** -0.5
        else:
            state[name] = 0.1 * normal
    return state


@pytest.fixture(scope="module")
def network() -> PosterV2:
    network = PosterV2(7).eval()
    network.load_state_dict(noisy(network, 0), strict=True)
    return network


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.randn((2, 3, 224, 224), generator=torch.Generator().manual_seed(1))



def test_the_network_has_the_entries_of_the_published_checkpoints(network):
    lines = sorted(f"{name}\t{tuple(tensor.shape)}\t{tensor.dtype}" for name, tensor in network.state_dict().items())
    assert len(lines) == 747
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == KEYS_SHA256
    assert round(sum(weight.numel() for weight in network.parameters()) / 1e6, 2) == 58.32


def test_the_golden_number_is_that_of_the_key_table(real):
    lines = (real.parent / "facts" / "posterv2_state_dict.tsv").read_text().splitlines()
    assert hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest() == KEYS_SHA256


def test_the_embedding_with_noisy_weights(network, pictures):
    """Numbers of a network that was compared, step by step, with a re-computation in plain tensor arithmetic; trimming
    changes no value and frees a quarter of the weights."""
    small = PosterV2(7).eval()
    small.load_state_dict(network.state_dict())
    before = sum(weight.numel() for weight in small.parameters())
    small.trimmed()
    assert sum(weight.numel() for weight in small.parameters()) < 0.76 * before
    with torch.no_grad():
        embedding = network(pictures)
        torch.testing.assert_close(small(pictures), embedding, rtol=0, atol=0)
    np.testing.assert_allclose(embedding[0, :4], [0.2238, 0.423, 0.0378, 0.0748], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(embedding[1, -3:], [0.1152, -0.0474, -0.2947], rtol=1e-3, atol=1e-3)
    assert float(embedding.norm()) == pytest.approx(15.8927, rel=1e-3)
