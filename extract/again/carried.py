"""The encoders of a run as modules that may leave this program: with their weights, and under their licences."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from torch import nn

from twofold.cache.recipe import Recipe
from twofold.data.utils.errors import InputError
from twofold.extract.again.loaded import LoadedEncoders
from twofold.extract.again.reproduce import find_encoder
from twofold.extract.encoders.licences import licences
from twofold.extract.encoders.onnx.portable import PortableEncoder
from twofold.extract.streams import Encoders, EncoderSource, parse_weights
from twofold.extract.weights.find import find_weights, weights_folder
from twofold.extract.weights.read import read_checkpoint

STATED = ("license", "licence")  #: entries of a safetensors file's metadata


@dataclass(frozen=True, eq=False)
class CarriedEncoders:
    """Encoders in fp32 on the CPU. modules: (N, side, side, 3) uint8 faces to features, one a stream; licences: of each
    stream."""

    loaded: LoadedEncoders
    side: int
    modules: list[nn.Module]
    licences: list[str]

    def features(self, faces: np.ndarray) -> np.ndarray:
        """(N, D) what `extract` stores of these faces, by its own way: Pillow and the encoders."""
        return self.loaded.embed_pictures([(Image.fromarray(face), "") for face in faces])


def carried_encoders(recipes: Sequence[Recipe], *, side: int, weights: Sequence[str], stated: Sequence[str]
                     ) -> CarriedEncoders:
    """Find the encoders of a run for faces of side x side pixels.

    weights: NAME=PATH; stated: NAME=LICENCE, by who knows it. Raises InputError where an encoder is not to be found,
    cannot be traced, or where nobody says under which licence its weights may be passed on.
    """
    models = [recipe.backbone for recipe in recipes if recipe.backbone.startswith("onnx:")]
    if models:
        raise InputError(f"{', '.join(models)}: an ONNX model already, which cannot be traced into another: leave out "
                         "--face; head.onnx takes its features")
    by_name = dict(_pair(text) for text in stated)
    files, loaded = parse_weights(weights, [recipe.backbone for recipe in recipes]), Encoders("cpu")
    exact = [replace(recipe, precision="fp32") for recipe in recipes]
    encoders, terms = [], []
    for recipe in exact:
        source, encoder = find_encoder(recipe, files.get(recipe.backbone, []), loaded)
        encoders.append(encoder)
        terms.append(by_name.get(recipe.backbone) or _licence(recipe, source))
    modules: list[nn.Module] = [PortableEncoder(encoder, recipe, side=side).eval()
                                for encoder, recipe in zip(encoders, exact, strict=True)]
    return CarriedEncoders(LoadedEncoders(tuple(exact), tuple(encoders)), side, modules, terms)


def _licence(recipe: Recipe, source: EncoderSource) -> str:
    """Under which licence weights are. Raises InputError where that is not stated."""
    if recipe.untrained:
        return "random numbers: none"
    written = "" if source.weights == "hub" else _written(source)
    published = licences([recipe.backbone]).get(recipe.backbone, "not stated")
    own = source.weights != "hub" and recipe.backbone.startswith("timm:")  # of which timm says nothing
    licence = written or ("not stated" if own else published)
    if licence.startswith("not stated"):
        raise InputError(f"nobody states under which licence the weights of {recipe.backbone} may be passed on: if you "
                         f"know that they may, say --licence {recipe.backbone}=LICENCE, or leave out --face")
    return licence


def _written(source: EncoderSource) -> str:
    """What the file itself says."""
    metadata = read_checkpoint(find_weights(source.backbone, weights=source.weights, folder=weights_folder())).metadata
    return next((metadata[name] for name in STATED if metadata.get(name)), "")


def _pair(text: str) -> tuple[str, str]:
    name, _, licence = text.partition("=")
    if not name or not licence.strip():
        raise InputError(f"--licence {text!r}: say NAME=LICENCE, as timm:resnet18=Apache-2.0")
    return name, licence.strip()
