"""The two convolutional branches of POSTER++: MobileFaceNet for landmarks, IR-50 for the picture.

Attribute names are those of the published checkpoints. Parts that the forward pass never uses exist so that a
checkpoint loads strictly, and are dropped by `trimmed`.
"""

from collections import OrderedDict

import torch
from torch import nn


def conv_block(inputs: int, outputs: int, *, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, PReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(outputs), prelu=nn.PReLU(outputs)))


def linear_block(inputs: int, outputs: int, *, kernel: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution and batch norm without activation."""
    conv = nn.Conv2d(inputs, outputs, kernel, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(outputs)))


class DepthWise(nn.Module):
    """Expand by 1x1, filter each channel by 3x3, project by 1x1; `residual` adds the input."""

    def __init__(self, inputs: int, outputs: int, *, width: int, stride: int = 1, residual: bool = False) -> None:
        super().__init__()
        self.conv = conv_block(inputs, width)
        self.conv_dw = conv_block(width, width, kernel=3, stride=stride, groups=width)
        self.project = linear_block(width, outputs)
        self.residual = residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.project(self.conv_dw(self.conv(x)))
        return x + out if self.residual else out


def residuals(channels: int, *, width: int, count: int) -> nn.Sequential:
    """`count` depth-wise blocks that keep the shape."""
    blocks = (DepthWise(channels, channels, width=width, residual=True) for _ in range(count))
    return nn.Sequential(OrderedDict(model=nn.Sequential(*blocks)))


class MobileFaceNet(nn.Module):
    """(B, 3, 112, 112) to the maps (B, 64, 28, 28), (B, 128, 14, 14), (B, 512, 7, 7)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv_block(3, 64, kernel=3, stride=2)
        self.conv2_dw = conv_block(64, 64, kernel=3, groups=64)
        self.conv_23 = DepthWise(64, 64, width=128, stride=2)
        self.conv_3 = residuals(64, width=128, count=4)
        self.conv_34 = DepthWise(64, 128, width=256, stride=2)
        self.conv_4 = residuals(128, width=256, count=6)
        self.conv_45 = DepthWise(128, 128, width=512, stride=2)
        self.conv_5 = residuals(128, width=256, count=2)
        self.conv_6_sep = conv_block(128, 512)
        self.output_layer = nn.ModuleDict({  # from the last map to 68 landmarks: never in the forward pass
            "conv_6_dw": linear_block(512, 512, kernel=7, groups=512), "linear": nn.Linear(512, 136, bias=False),
            "bn": nn.BatchNorm1d(136)})

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        fine = self.conv_3(self.conv_23(self.conv2_dw(self.conv1(x))))
        middle = self.conv_4(self.conv_34(fine))
        return fine, middle, self.conv_6_sep(self.conv_5(self.conv_45(middle)))


class Unit(nn.Module):
    """Residual unit of IR-50: norm, 3x3, PReLU, 3x3 with stride, norm."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride) if inputs == outputs else nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class IR50(nn.Module):
    """(B, 3, 112, 112) to the maps (B, 64, 56, 56), (B, 128, 28, 28), (B, 256, 14, 14); stages 1 to 3 of 4."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
        self.body1 = self._stage(64, 64, units=3)
        self.body2 = self._stage(64, 128, units=4)
        self.body3 = self._stage(128, 256, units=14)
        self.output_layer = nn.Sequential(  # of the face recogniser it was trained as: never in the forward pass
            nn.BatchNorm2d(512), nn.Dropout(), nn.Flatten(), nn.Linear(512 * 7 * 7, 512), nn.BatchNorm1d(512))

    @staticmethod
    def _stage(inputs: int, outputs: int, *, units: int) -> nn.Sequential:
        rest = (Unit(outputs, outputs, stride=1) for _ in range(units - 1))
        return nn.Sequential(Unit(inputs, outputs, stride=2), *rest)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        fine = self.body1(self.input_layer(x))
        middle = self.body2(fine)
        return fine, middle, self.body3(middle)
