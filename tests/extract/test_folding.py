"""Folded networks against the same networks as their libraries run them."""

import logging

import pytest
import torch
from torch import nn

from twofold.extract.encoders.folding import fold_batch_norms
from twofold.extract.encoders.registry import build, init_random_weights, noise_images


def drawn(name: str):
    built = build(name, checkpoint=None)
    init_random_weights(built.network, built.preprocessing, seed=0)
    for module in built.network.modules():  # what training would have left: scales and shifts of all sizes
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return built.trim(built.network).eval(), noise_images(built.preprocessing, torch.Generator().manual_seed(5))


@pytest.mark.slow
@pytest.mark.parametrize("name, folded, left", [
    ("resnet18", 20, 0), ("resnet50_conv5", 52, 0), ("torchvision:mobilenet_v2", 52, 0),
    ("timm:tf_efficientnet_lite0", 49, 0), ("timm:test_vit", 0, 0),
    ("posterv2", 72, 21),  # the norm that opens each IR unit stands before a padded convolution
    ("torchvision:densenet121", 59, 62), ("timm:resnetv2_50", 32, 17),
])
def test_folding_changes_no_value_that_matters(name, folded, left):
    network, pictures = drawn(name)
    with torch.inference_mode():
        before = network(pictures[:2])
    assert fold_batch_norms(network, pictures[2:]) == folded
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == left
    with torch.inference_mode():
        torch.testing.assert_close(network(pictures[:2]), before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))


class Tricky(nn.Module):
    """Places where a convolution stands before a norm and must be left alone."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.conv, self.norm, self.relu = kind, nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        if self.kind == "changed in place":
            y = self.relu(y)
        if self.kind == "used twice":
            return (self.norm(y) + self.norm(self.conv(x * 2))).mean((2, 3))
        if self.kind == "also read elsewhere":
            return (self.norm(y) + y).mean((2, 3))
        return self.norm(y).mean((2, 3))


@pytest.mark.parametrize("kind", ["changed in place", "used twice", "also read elsewhere", "plain"])
def test_what_may_not_be_folded_is_left_as_it_is(kind, caplog):
    torch.manual_seed(0)
    network = Tricky(kind).eval()
    nn.init.uniform_(network.norm.running_mean, -1, 1)
    nn.init.uniform_(network.norm.running_var, 0.1, 3)
    pictures = torch.randn(2, 3, 8, 8)
    before, state = network(pictures), {name: value.clone() for name, value in network.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        assert fold_batch_norms(network, pictures) == (kind == "plain")
    torch.testing.assert_close(network(pictures), before)
    if kind != "plain":
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert ("left as they are" in caplog.text) == (kind == "also read elsewhere")
