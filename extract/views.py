"""Views of a face: the original, its mirror image, and two randomly enhanced versions (paper, Fig. 1).

What is random is drawn from the image's own hash, so that a view of a face is the same in any order, on any worker.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from twofold.data.utils.errors import InputError

VIEWS = ("original", "flip", "enhanced1", "enhanced2")


@dataclass(frozen=True, kw_only=True)
class Enhancement:
    """How far an enhanced view may stray from the original; the paper names the views, not their strength.

    scale: share of the area kept by the random crop; ratio: width to height of the crop; jitter: largest relative
    change of brightness, contrast and saturation; erase: probability of a grey rectangle; erase_scale: its share of
    the area; seed: chooses another draw for every face.
    """

    scale: tuple[float, float] = (0.6, 1.0)
    ratio: tuple[float, float] = (0.8, 1.25)
    flip: float = 0.5
    jitter: float = 0.3
    erase: float = 0.5
    erase_scale: tuple[float, float] = (0.02, 0.15)
    seed: int = 0


@dataclass(frozen=True)
class View:
    """A named change of the decoded image, before any backbone's own preprocessing."""

    name: str
    parameters: dict
    apply: Callable[[Image.Image, str], Image.Image]  #: (RGB image, SHA-256 of its file) to RGB image

    def record(self) -> dict:
        """What the recipe says of the view."""
        return {"name": self.name} | self.parameters


def view(name: str) -> View:
    """The view of that name. Raises InputError listing the names there are."""
    if name == "original":
        return View(name, {}, lambda image, sha256: image)
    if name == "flip":
        return View(name, {}, lambda image, sha256: ImageOps.mirror(image))
    if name in ("enhanced1", "enhanced2"):
        how = Enhancement()
        parameters = json.loads(json.dumps(asdict(how)))  # tuples as the lists that a recipe read back has
        return View(name, parameters, lambda image, sha256: enhance(image, name, sha256, how))
    raise InputError(f"unknown view {name!r}: choose from {', '.join(VIEWS)}")


def enhance(image: Image.Image, name: str, sha256: str, how: Enhancement) -> Image.Image:
    """A random-resized crop, flip, colour jitter and erasing of `image`, drawn from (image hash, view, seed)."""
    digest = hashlib.sha256(f"{sha256}/{name}/{how.seed}".encode()).digest()
    draw = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
    image = _crop(image, draw, how)
    if draw.random() < how.flip:
        image = ImageOps.mirror(image)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = change(image).enhance(1 + draw.uniform(-how.jitter, how.jitter))
    return _erase(image, draw, how) if draw.random() < how.erase else image


def _crop(image: Image.Image, draw: np.random.Generator, how: Enhancement) -> Image.Image:
    """A crop of random area and shape, resized to the size of the image (bicubic)."""
    width, height = image.size
    area = draw.uniform(*how.scale) * width * height
    ratio = np.exp(draw.uniform(*np.log(how.ratio)))
    wide = int(np.clip(round((area * ratio) ** 0.5), 1, width))
    high = int(np.clip(round((area / ratio) ** 0.5), 1, height))
    left, top = draw.integers(0, width - wide + 1), draw.integers(0, height - high + 1)
    box = (int(left), int(top), int(left) + wide, int(top) + high)
    return image.resize((width, height), Image.Resampling.BICUBIC, box=box)


def _erase(image: Image.Image, draw: np.random.Generator, how: Enhancement) -> Image.Image:
    width, height = image.size
    side = (draw.uniform(*how.erase_scale)) ** 0.5
    wide, high = max(1, round(side * width)), max(1, round(side * height))
    left, top = int(draw.integers(0, width - wide + 1)), int(draw.integers(0, height - high + 1))
    image = image.copy()
    image.paste((128, 128, 128), (left, top, left + wide, top + high))
    return image
