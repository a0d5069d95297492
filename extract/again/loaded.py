"""The encoders of a run, loaded once and asked again and again: what a live page needs."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from twofold.cache.recipe import Recipe
from twofold.data.images.decode import FACE_LIMITS, ImageError, decode
from twofold.extract.again.reproduce import find_encoders
from twofold.extract.encoders.encoder import Encoder
from twofold.extract.encoders.preprocessing import Preprocessing
from twofold.extract.engine.lanes import storable
from twofold.extract.views import view


@dataclass(frozen=True)
class LoadedEncoders:
    """Encoders with the recipe that each makes, in the order of a head's columns."""

    recipes: tuple[Recipe, ...]
    encoders: tuple[Encoder, ...]

    def embed(self, images: Sequence[bytes]) -> np.ndarray:
        """(N, D) float32 features of the N faces in these image files, all streams side by side, rounded as stored.

        They are those that `extract` stores, but for the last digits: batches here are only as long as they need be.
        Raises ImageError for a face that cannot be read or encoded.
        """
        return self.embed_pictures([(decode(image, FACE_LIMITS), hashlib.sha256(image).hexdigest())
                                    for image in images])

    def embed_pictures(self, pictures: Sequence[tuple[Image.Image, str]]) -> np.ndarray:
        """The same of decoded faces, each with the hash of its file."""
        pixels: dict[tuple[str, Preprocessing], np.ndarray] = {}
        blocks = []
        for recipe, encoder in zip(self.recipes, self.encoders, strict=True):
            name, how = recipe.view["name"], encoder.preprocessing
            if (name, how) not in pixels:
                change = view(name).apply
                pixels[name, how] = np.stack([how.prepare(change(image, sha256)) for image, sha256 in pictures])
            features, faults = storable(encoder.encode(pixels[name, how]), recipe.dtype)
            if any(faults):
                raise ImageError(next(filter(None, faults)))
            blocks.append(features.astype(np.float32))
        return np.concatenate(blocks, axis=1)


def load_encoders(recipes: Sequence[Recipe], *, weights: Sequence[str], device: str, dims: Sequence[int]
                  ) -> LoadedEncoders:
    """The encoder of each recipe, found as `reproduce` finds it. Raises InputError where one cannot be made."""
    return LoadedEncoders(tuple(recipes), tuple(find_encoders(recipes, weights=weights, device=device, dims=dims)))
