"""MA-Net: local attention over four quarters of a face beside a multi-scale branch over the whole of it.

Source: Zhao, Liu, Wang, "Learning Deep Global Multi-Scale and Local Attention Features for Facial Expression
Recognition in the Wild", IEEE Transactions on Image Processing 30 (2021).
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, conv1x1, conv3x3

from twofold.extract.encoders.classifier import LinearLayer, single_linear_layer

HALF = 512  #: numbers that each branch gives
LOGIT_WEIGHTS = {"fc_1.": 0.6, "fc_2.": 0.4}  #: of the local and the global branch's logits, where one answer is wanted
CHAINS, GROUPS = (1, 2), (1, 2, 3, 4)


class ChannelGate(nn.Module):
    """(B, C, H, W) to itself, each channel weighed by what its mean and its maximum say."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Flatten(), nn.Linear(channels, channels // 16), nn.ReLU(),
                                 nn.Linear(channels // 16, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3)))
        return x * weight.sigmoid()[:, :, None, None]


class SpatialGate(nn.Module):
    """(B, C, H, W) to itself, each place weighed by the maximum and the mean over its channels."""

    def __init__(self) -> None:
        super().__init__()
        conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.spatial = nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        summary = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], dim=1)
        return x * self.spatial(summary).sigmoid()


class AttentionBlock(BasicBlock):
    """A residual block of ResNet-18 that goes through both gates before the shortcut is added."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, stride, _shortcut(inputs, outputs, stride))
        self.cbam = nn.Sequential(OrderedDict(ChannelGate=ChannelGate(outputs), SpatialGate=SpatialGate()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(self.cbam(out) + (x if self.downsample is None else self.downsample(x)))


class MultiScaleBlock(nn.Module):
    """A residual block whose second convolution is two chains over four groups of channels, each group seeing what
    the group before it made: from one to four 3x3 fields in one block."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        for chain in CHAINS:
            for group in GROUPS:
                self.add_module(f"conv{chain}_2_{group}", conv3x3(outputs // 4, outputs // 4))
                self.add_module(f"bn{chain}_2_{group}", nn.BatchNorm2d(outputs // 4))
        self.relu = nn.ReLU(inplace=False)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        groups = self.relu(self.bn1(self.conv1(x))).chunk(4, dim=1)
        first, second = (self._chain(chain, groups) for chain in CHAINS)
        return self.relu(first + second + (x if self.downsample is None else self.downsample(x)))

    def _chain(self, chain: int, groups: tuple[torch.Tensor, ...]) -> torch.Tensor:
        outputs: list[torch.Tensor] = []
        for number, group in zip(GROUPS, groups, strict=True):
            conv, norm = (self.get_submodule(f"{kind}{chain}_2_{number}") for kind in ("conv", "bn"))
            outputs.append(norm(conv(self.relu(outputs[-1]) + group if outputs else group)))
        return torch.cat(outputs, dim=1)


class MANet(nn.Module):
    """(B, 3, 224, 224) RGB in 0 to 1 to (B, 1024): the local branch's 512 numbers, then the global branch's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(BasicBlock(64, 64), BasicBlock(64, 64))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2, _shortcut(64, 128, 2)), BasicBlock(128, 128))
        for quarter in GROUPS:
            self.add_module(f"layer3_1_p{quarter}", _stage(AttentionBlock, 128, 256, 2))
            self.add_module(f"layer4_1_p{quarter}", _stage(AttentionBlock, 256, HALF, 1))
        self.layer3_2 = _stage(MultiScaleBlock, 128, 256, 2)
        self.layer4_2 = _stage(MultiScaleBlock, 256, HALF, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer2(self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x))))))
        quarters = [quarter for row in x.chunk(2, dim=2) for quarter in row.chunk(2, dim=3)]  # top left first
        for stage in (3, 4):  # each (B, 128, 14, 14) to (B, 512, 7, 7), all of one size: their mean is that of the face
            quarters = [self.get_submodule(f"layer{stage}_1_p{number}")(quarter)
                        for number, quarter in zip(GROUPS, quarters, strict=True)]
        local = torch.stack([quarter.mean((2, 3)) for quarter in quarters]).mean(0)
        return torch.cat([local, self.layer4_2(self.layer3_2(x)).mean((2, 3))], dim=1)


def combined_heads(entries: Mapping[str, torch.Tensor], *, dim: int) -> LinearLayer | None:
    """The classifiers of both branches as one layer of the whole embedding: weight (1024, C), bias (C,)."""
    local, of_all = (single_linear_layer({name: tensor for name, tensor in entries.items() if name.startswith(prefix)},
                                         dim=dim // 2) for prefix in LOGIT_WEIGHTS)
    if local is None or of_all is None or len(local[1]) != len(of_all[1]):
        return None
    first, second = map(np.float32, LOGIT_WEIGHTS.values())
    return np.concatenate([first * local[0], second * of_all[0]]), first * local[1] + second * of_all[1]


def _stage(block: Callable[[int, int, int], nn.Module], inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(block(inputs, outputs, stride), block(outputs, outputs, 1))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if inputs == outputs and stride == 1:
        return None
    return nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))
