"""The network of the run `starter`: a small ResNet of timm's blocks on grey faces, trained from random weights."""

import torch
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

SIZE = 48  #: side of the input in pixels, that of FER2013's faces
LUMA = (0.299, 0.587, 0.114)  #: of red, green and blue (ITU-R BT.601), as Pillow makes grey of colours


class Starter(nn.Module):
    """(B, 3, 48, 48) to (B, 256). The input becomes grey, so that colour says nothing: FER2013's faces have none.

    Three 3 x 3 convolutions, the first with a stride of 2, then four stages of residual blocks (arXiv 1512.03385) of 32
    to 256 channels, without max-pooling: the stages see 24, 12, 6 and 3 pixels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = ResNet(BasicBlock, layers=[1, 1, 2, 1], channels=(32, 64, 128, 256), num_classes=0, in_chans=1,
                           stem_type="deep", stem_width=16)
        self.body.maxpool = nn.Identity()
        self.register_buffer("luma", torch.tensor(LUMA)[:, None, None], persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.body((images * self.luma).sum(dim=1, keepdim=True))
