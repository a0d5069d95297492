"""The ResNet-50 of FER+ as the lineage published it: Caffe's names and Caffe's strides on torchvision's network.

Source: `resnet50_ferplus_dag`, https://www.robots.ox.ac.uk/~albanie/pytorch-models.html
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

_LAYER = re.compile(r"conv([2-5])_(\d)_(1x1_reduce|3x3|1x1_increase|1x1_proj)(_bn)?\.(.+)")
_LAYER_NAMES = {"1x1_reduce": ("conv1", "bn1"), "3x3": ("conv2", "bn2"), "1x1_increase": ("conv3", "bn3"),
           "1x1_proj": ("downsample.0", "downsample.1")}


def is_caffe(tensors: Mapping[str, torch.Tensor]) -> bool:
    """True for weights with these names."""
    return "conv2_1_1x1_reduce.weight" in tensors


def torchvision_name(name: str) -> str:
    """The name that torchvision's ResNet has for an entry: `conv3_1_1x1_reduce_bn.bias` is `layer2.0.bn1.bias`."""
    layer = _LAYER.fullmatch(name)
    if layer:
        stage, block, part, norm, rest = layer.groups()
        return f"layer{int(stage) - 1}.{int(block) - 1}.{_LAYER_NAMES[part][bool(norm)]}.{rest}"
    return re.sub(r"^conv1_7x7_s2(_bn)?\.", lambda stem: "bn1." if stem[1] else "conv1.", name)


def with_caffe_strides(resnet: nn.Module) -> nn.Module:
    """Change torchvision's ResNet-50, in place: blocks halve the map in their first 1x1, and pooling rounds up."""
    stages: list[Any] = [resnet.layer2, resnet.layer3, resnet.layer4]
    resnet.maxpool = nn.MaxPool2d(3, 2, padding=0, ceil_mode=True)
    for stage in stages:
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    return resnet


class Conv5(nn.Module):
    """A ResNet-50 up to its last 3x3 convolution (normed, rectified), averaged over the map: (B, 512)."""

    def __init__(self, resnet: Any) -> None:
        super().__init__()
        last = resnet.layer4[2]
        self.body = nn.Sequential(
            resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool, resnet.layer1, resnet.layer2, resnet.layer3,
            *resnet.layer4[:2], last.conv1, last.bn1, last.relu, last.conv2, last.bn2, last.relu,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x).mean((2, 3))
