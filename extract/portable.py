"""The encoders of a run as modules for an exported model: with their weights, and under their licences."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from twofold.cache.recipe import Recipe
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.encoder import Encoder
from twofold.extract.encoders.presets import licences as licences_of
from twofold.extract.encoders.presets import published_weights
from twofold.extract.engine.loop import storable
from twofold.extract.engine.task import EncoderSource
from twofold.extract.streams import MatchingEncoders
from twofold.extract.weights.find import find_weights, weights_folder
from twofold.extract.weights.read import read_checkpoint

DTYPES = {"float16": torch.float16, "float32": torch.float32}
LICENCE_KEYS = ("license", "licence")  #: in a safetensors file's metadata


class PortableEncoder(nn.Module):
    """(N, 3, H, W) uint8 RGB pixels, resized and cropped, to the (N, dim) float32 features that `extract` stores."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, encoder: Encoder, recipe: Recipe):
        super().__init__()
        how = encoder.preprocessing
        if not isinstance(encoder.network, nn.Module):
            raise InputError(f"{recipe.backbone} cannot be exported: it is not a torch network")
        if recipe.view["name"] not in ("original", "flip"):
            raise InputError(f"{recipe.backbone}: the view {recipe.view['name']} is made before a face is resized, "
                             "which an exported model does not see")
        self.network, self.flip = encoder.network, recipe.view["name"] == "flip"
        self.dtype = DTYPES[recipe.dtype]
        std = torch.tensor(how.std)
        self.register_buffer("scale", (how.scale / std)[:, None, None])
        self.register_buffer("shift", (torch.tensor(how.mean) / std)[:, None, None])

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        pixels = pixels.flip(3) if self.flip else pixels
        return self.network(pixels.float() * self.scale - self.shift).to(self.dtype).float()


@dataclass(frozen=True, eq=False)
class ExportedEncoders:
    """Encoders in fp32 on the CPU, one per stream. inputs: the preprocessing of each distinct input, as its recipes
    have it; input_of: for each stream the number of its input; licences: of the weights of each stream."""

    recipes: tuple[Recipe, ...]
    encoders: tuple[Encoder, ...]
    modules: list[nn.Module]
    inputs: list[dict[str, Any]]
    input_of: list[int]
    licences: list[str]

    def features(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """(N, D) the features that `extract` stores. pixels: (N, 3, H, W) uint8 of each input."""
        blocks = []
        for recipe, encoder, number in zip(self.recipes, self.encoders, self.input_of, strict=True):
            image = pixels[number][..., ::-1] if recipe.view["name"] == "flip" else pixels[number]
            features, _ = storable(encoder.encode(np.ascontiguousarray(image.transpose(0, 2, 3, 1))), recipe.dtype)
            blocks.append(features.astype(np.float32))
        return np.concatenate(blocks, axis=1)


def export_encoders(recipes: Sequence[Recipe], *, weights: Sequence[str], stated: Sequence[str],
                    beside: Path | None = None) -> ExportedEncoders:
    """Load the encoders of a run for export.

    weights: NAME=PATH; stated: NAME=LICENCE, from the user; beside: the run's folder. Raises InputError where an
    encoder is not to be found or cannot be exported, or where nobody states under which licence its weights may be
    passed on.
    """
    models = [recipe.backbone for recipe in recipes if recipe.backbone.startswith("onnx:")]
    if models:
        raise InputError(f"{', '.join(models)}: an ONNX model already, which cannot be exported into another: leave "
                         "out --face; head.onnx takes its features")
    terms: dict[str, str] = {}
    for text in stated:
        name, _, licence = text.partition("=")
        if not name or not licence.strip():
            raise InputError(f"--licence {text!r}: say NAME=LICENCE, as timm:resnet18=Apache-2.0")
        terms[name] = licence.strip()
    exact = tuple(replace(recipe, precision="fp32") for recipe in recipes)
    matching = MatchingEncoders(exact, weights=weights, beside=beside, device="cpu")
    sources = [matching.find(number) for number in range(len(exact))]
    licences = [terms.get(recipe.backbone) or _licence(recipe, source)
                for recipe, (source, _) in zip(exact, sources, strict=True)]
    encoders = tuple(encoder for _, encoder in sources)
    modules: list[nn.Module] = [PortableEncoder(encoder, recipe).eval()
                                for encoder, recipe in zip(encoders, exact, strict=True)]
    prepared = [{name: value for name, value in recipe.preprocessing.items() if name not in ("mean", "std", "scale")}
                | {"decoder": recipe.decoder} for recipe in exact]
    inputs = [each for number, each in enumerate(prepared) if each not in prepared[:number]]
    return ExportedEncoders(exact, encoders, modules, inputs, [inputs.index(each) for each in prepared], licences)


def _licence(recipe: Recipe, source: EncoderSource) -> str:
    """Return the licence of the weights. Raises InputError where none is stated."""
    if recipe.untrained:
        return "random numbers: none"
    licence = licences_of([recipe.backbone]).get(recipe.backbone, "not stated")
    if source.weights != "hub":
        path = find_weights(published_weights(source.backbone), weights=source.weights, folder=weights_folder())
        metadata = read_checkpoint(path).metadata
        own = recipe.backbone.startswith("timm:")  # a file that timm does not publish
        licence = next((metadata[name] for name in LICENCE_KEYS if metadata.get(name)),
                       "not stated" if own else licence)
    if licence.startswith("not stated"):
        raise InputError(f"nobody states under which licence the weights of {recipe.backbone} may be passed on: if you "
                         f"know that they may, say --licence {recipe.backbone}=LICENCE, or leave out --face")
    return licence
