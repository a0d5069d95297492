"""The network of the run `starter`: a small ResNet on grey faces, trained from random weights.

Written out, with timm's names, since importing timm takes longer than an answer for one photograph.
"""

import torch
from torch import nn

SIZE = 48  #: side of the input in pixels, that of FER2013's faces
LUMA = (0.299, 0.587, 0.114)  #: of red, green and blue (ITU-R BT.601), as Pillow makes grey of colours
STEM, CHANNELS, BLOCKS = 16, (32, 64, 128, 256), (1, 1, 2, 1)  #: of the first convolutions; of each stage


def convolution(inputs: int, outputs: int, *, side: int = 3, stride: int = 1) -> nn.Conv2d:
    """Without a bias: a batch norm follows."""
    return nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False)


class Block(nn.Module):
    """Two convolutions around which the input goes (He et al., arXiv 1512.03385), the second's norm zero at first."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = convolution(inputs, outputs, stride=stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = convolution(outputs, outputs), nn.BatchNorm2d(outputs)
        nn.init.zeros_(self.bn2.weight)
        self.downsample = nn.Sequential() if inputs == outputs else nn.Sequential(
            convolution(inputs, outputs, side=1, stride=stride), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.bn1(self.conv1(x)).relu()
        return (self.bn2(self.conv2(inner)) + self.downsample(x)).relu()


class Body(nn.Module):
    """(B, 1, 48, 48) to (B, 256): three 3 x 3 convolutions, the first with a stride of 2, then four stages of residual
    blocks, without max-pooling: the stages see 24, 12, 6 and 3 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            convolution(1, STEM, stride=2), nn.BatchNorm2d(STEM), nn.ReLU(),
            convolution(STEM, STEM), nn.BatchNorm2d(STEM), nn.ReLU(), convolution(STEM, CHANNELS[0]))
        self.bn1 = nn.BatchNorm2d(CHANNELS[0])
        inputs = CHANNELS[0]
        for number, (channels, count) in enumerate(zip(CHANNELS, BLOCKS, strict=True), 1):
            strides = [1 if number == 1 else 2] + [1] * (count - 1)
            blocks = [Block(inputs if each == 0 else channels, channels, stride) for each, stride in enumerate(strides)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            inputs = channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn1(self.conv1(x)).relu()
        for number in range(1, len(BLOCKS) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return x.mean(dim=(2, 3))


class Starter(nn.Module):
    """(B, 3, 48, 48) to (B, 256). The input becomes grey, so that colour says nothing: FER2013's faces have none."""

    luma: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = Body()
        self.register_buffer("luma", torch.tensor(LUMA)[:, None, None], persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.body((images * self.luma).sum(dim=1, keepdim=True))
