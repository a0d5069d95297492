"""POSTER++ (POSTER V2, arXiv 2301.12149): landmarks look at the picture on three scales, a small ViT joins the scales.

Attribute names are those of the published checkpoints, so that they load strictly. DropPath and dropout are left out.
"""

from collections import OrderedDict
from functools import partial
from typing import Any

import torch
from timm.layers.mlp import Mlp
from timm.models.vision_transformer import Block
from torch import nn
from torch.nn import functional as F

HEAD_DIM = 32
WIDTH = 768
SCALES = ((64, 28), (128, 14), (256, 7))  #: channels and side of the map, which one window covers, fine to coarse


def conv_block(inputs: int, outputs: int, *, kernel: int = 1, stride: int = 1, groups: int = 1,
               activated: bool = True) -> nn.Sequential:
    """Convolution, batch norm, PReLU."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        bn=nn.BatchNorm2d(outputs))
    if activated:
        layers["prelu"] = nn.PReLU(outputs)
    return nn.Sequential(layers)


class DepthWise(nn.Module):
    """Expand by 1x1, filter each channel by 3x3, project by 1x1; `residual` adds the input."""

    def __init__(self, inputs: int, outputs: int, *, width: int, stride: int = 1, residual: bool = False) -> None:
        super().__init__()
        self.conv = conv_block(inputs, width)
        self.conv_dw = conv_block(width, width, kernel=3, stride=stride, groups=width)
        self.project = conv_block(width, outputs, activated=False)
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
            "conv_6_dw": conv_block(512, 512, kernel=7, groups=512, activated=False),
            "linear": nn.Linear(512, 136, bias=False), "bn": nn.BatchNorm1d(136)})

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
        self.body1, self.body2, self.body3 = (
            nn.Sequential(Unit(inputs, width, stride=2), *(Unit(width, width, stride=1) for _ in range(units - 1)))
            for inputs, width, units in ((64, 64, 3), (64, 128, 4), (128, 256, 14)))
        self.output_layer = nn.Sequential(  # of the face recogniser it was trained as: never in the forward pass
            nn.BatchNorm2d(512), nn.Dropout(), nn.Flatten(), nn.Linear(512 * 7 * 7, 512), nn.BatchNorm1d(512))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        fine = self.body1(self.input_layer(x))
        middle = self.body2(fine)
        return fine, middle, self.body3(middle)


class CrossAttention(nn.Module):
    """Landmark queries (B, N, C) look at the picture's tokens (B, N, C), with a bias for each relative position."""

    relative_position_index: torch.Tensor  #: a buffer

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.heads = channels // HEAD_DIM
        self.qkv = nn.Linear(channels, 2 * channels)  # keys and values; queries come from the landmarks
        self.proj = nn.Linear(channels, channels)
        table = torch.empty((2 * side - 1) ** 2, self.heads)
        self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        # (N, N): for two cells of the map, the row of the bias table for their offset
        cells = torch.arange(side * side)
        down, right = (axis[:, None] - axis[None] + side - 1 for axis in (cells // side, cells % side))
        self.register_buffer("relative_position_index", down * (2 * side - 1) + right)

    def forward(self, landmarks: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        batch, count, channels = tokens.shape
        queries = landmarks.reshape(batch, count, self.heads, HEAD_DIM).transpose(1, 2)
        keys, values = self.qkv(tokens).reshape(batch, count, 2, self.heads, HEAD_DIM).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias[None], scale=HEAD_DIM**-0.5)
        return self.proj(mixed.transpose(1, 2).reshape(batch, count, channels))


class FeedForward(nn.Module):
    """Adds attention and a perceptron to the shortcut, each scaled by a learnt vector that starts near nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma1 = nn.Parameter(torch.full((channels,), 1e-5))
        self.gamma2 = nn.Parameter(torch.full((channels,), 1e-5))
        self.norm = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, 4 * channels)

    def forward(self, attended: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
        x = shortcut + self.gamma1 * attended
        return x + self.gamma2 * self.mlp(self.norm(x))


class VisionTransformer(nn.Module):
    """Tokens (B, 147, 768) of three scales to the gated class token (B, 768), which is the embedding."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, WIDTH), std=0.02))
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 148, WIDTH), std=0.02))
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.Sequential(*(Block(WIDTH, num_heads=8, qkv_bias=True, norm_layer=norm) for _ in range(2)))
        self.norm = norm(WIDTH)
        self.se_block = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in ("linear1", "linear2")})
        self.head = nn.ModuleDict({"linear": nn.Linear(WIDTH, classes)})
        # what follows is in the checkpoints and unused
        for block in self.blocks:
            block.conv = nn.Conv1d(148, 148, 1)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(256, WIDTH, 1)})
        self.eca_block = nn.ModuleDict({"conv": nn.Conv1d(1, 1, 5, padding=2, bias=False)})
        self.CON1 = nn.Conv2d(256, WIDTH, 1, bias=False)
        self.IRLinear1 = nn.Linear(1024, WIDTH)
        self.IRLinear2 = nn.Linear(WIDTH, 512)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.pos_embed
        x = self.norm(self.blocks(x)[:, 0])
        return x * torch.sigmoid(self.se_block["linear2"](F.relu(self.se_block["linear1"](x))))  # weighs each channel


class PosterV2(nn.Module):
    """(B, 3, 224, 224) RGB normalised as ImageNet to (B, 768); `VIT.head.linear` of that gives the basic logits."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.face_landback = MobileFaceNet()
        self.last_face_conv = nn.Conv2d(512, 256, 3, 1, 1)
        self.ir_back = IR50()
        for number, (channels, side) in enumerate(SCALES, start=1):
            setattr(self, f"conv{number}", nn.Conv2d(channels, channels, 3, 2, 1))
            setattr(self, f"window{number}", nn.Sequential(OrderedDict(norm=nn.LayerNorm(channels))))
            setattr(self, f"attn{number}", CrossAttention(channels, side))
            setattr(self, f"ffn{number}", FeedForward(channels))
        self.embed_q = nn.Sequential(nn.Conv2d(64, WIDTH, 3, 2, 1), nn.Conv2d(WIDTH, WIDTH, 3, 2, 1))
        self.embed_k = nn.Sequential(nn.Conv2d(128, WIDTH, 3, 2, 1))
        self.embed_v = nn.ModuleDict({"proj": nn.Conv2d(256, WIDTH, 1)})
        self.VIT = VisionTransformer(classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(x, size=112)  # nearest: every second pixel, as the weights were trained
        faces = list(self.face_landback(x))
        faces[2] = self.last_face_conv(faces[2])
        scales = [self._attend(number, face, picture)
                  for number, (face, picture) in enumerate(zip(faces, self.ir_back(x), strict=True), start=1)]
        embedded = (self.embed_q(scales[0]), self.embed_k(scales[1]), self.embed_v["proj"](scales[2]))
        return self.VIT(torch.cat([scale.flatten(2).transpose(1, 2) for scale in embedded], dim=1))

    def _attend(self, number: int, face: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        """One scale: (B, C, S, S) landmarks and (B, C, 2S, 2S) picture to (B, C, S, S)."""
        conv, norm, attn, ffn = (getattr(self, f"{part}{number}") for part in ("conv", "window", "attn", "ffn"))
        x = conv(picture)
        shape = x.shape
        tokens = norm(x.flatten(2).transpose(1, 2))
        out = ffn(attn(face.flatten(2).transpose(1, 2), tokens), tokens)
        return out.transpose(1, 2).reshape(shape)

    def trimmed(self) -> "PosterV2":
        """Let go, in place, of the weights that the forward pass never uses (14.6 M of 58.3 M parameters)."""
        del self.face_landback.output_layer, self.ir_back.output_layer
        for part in ("patch_embed", "eca_block", "CON1", "IRLinear1", "IRLinear2"):
            delattr(self.VIT, part)
        for block in self.VIT.blocks:
            del block.conv
        return self
