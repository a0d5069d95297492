"""Encoders as modules that take faces of one size: for models that leave this program."""

import torch
from torch import nn
from torch.nn import functional

from twofold.cache.recipe import Recipe
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.encoder import Encoder
from twofold.extract.encoders.onnx.pillow_resize import FILTERS, PillowResize
from twofold.extract.encoders.preprocessing import Preprocessing

DTYPES = {"float16": torch.float16, "float32": torch.float32}


class PortableEncoder(nn.Module):
    """(N, side, side, 3) uint8 faces to the (N, dim) float32 features that `extract` stores, rounding included.

    Raises InputError for what cannot be carried: an encoder that is no torch network, a view that is drawn at random, a
    filter that is not written here.
    """

    fill: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, encoder: Encoder, recipe: Recipe, *, side: int):
        super().__init__()
        how = encoder.preprocessing
        if not isinstance(encoder.network, nn.Module):
            raise InputError(f"{recipe.backbone} cannot be traced: it is no torch network")
        if recipe.view["name"] not in ("original", "flip"):
            raise InputError(f"{recipe.backbone}: the view {recipe.view['name']} is drawn from the bytes of a file, "
                             "which a model does not see")
        if how.resize and how.interpolation not in FILTERS:
            raise InputError(f"{recipe.backbone}: pictures resized by {how.interpolation} cannot be carried, only "
                             f"{' and '.join(FILTERS)}")
        self.network, self.flip = encoder.network, recipe.view["name"] == "flip"
        self.dtype, after = DTYPES[recipe.dtype], how.resize or side
        self.resize = PillowResize(side, after, how.interpolation) if after != side else nn.Identity()
        self.cut = _cut(how, after)
        std = torch.tensor(how.std)
        fill = [round(255 * mean) if how.rule == "longer" else 0 for mean in how.mean]
        self.register_buffer("fill", torch.tensor(fill, dtype=torch.float64))
        self.register_buffer("scale", how.scale / std)
        self.register_buffer("shift", torch.tensor(how.mean) / std)

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        pixels = faces.double()
        pixels = self.resize(pixels.flip(2) if self.flip else pixels)
        before, behind = self.cut
        pixels = functional.pad(pixels - self.fill, (0, 0, before, behind, before, behind)) + self.fill
        normalised = pixels.float() * self.scale - self.shift
        return self.network(normalised.permute(0, 3, 1, 2)).to(self.dtype).float()


def _cut(how: Preprocessing, side: int) -> tuple[int, int]:
    """What is added before and behind each side to come to `how.size`; below nought what is cut off."""
    if side >= how.size:
        top = round((side - how.size) / 2)
        return -top, how.size + top - side
    top = (how.size - side) // 2
    return top, how.size - side - top
