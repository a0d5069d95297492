"""Views of a face: the original, its mirror image, three crops, and two randomly enhanced versions (paper, Fig. 1).

What is random is drawn from the image's own hash, so that a view of a face is the same in any order, on any worker.
"""

import hashlib
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from twofold.data.utils.errors import InputError

VIEWS = ("original", "flip", "crop_left", "crop_centre", "crop_right", "enhanced1", "enhanced2")
#: Windows with this share of each side, for test-time averaging: as the recipe records them. place: of the room that is
#: left, the share on the left and at the top of it
CROPS: dict[str, dict[str, Any]] = {f"crop_{name}": {"side": 0.875, "place": [left, 0.5]} for name, left in (
    ("left", 0.0), ("centre", 0.5), ("right", 1.0))}
#: How far an enhanced view may stray from the original; the paper names the views, not their strength. scale: share of
#: the area kept by the random crop; ratio: width to height of the crop; flip, erase: probability of a mirror image, of
#: a grey rectangle; jitter: largest relative change of brightness, contrast and saturation; erase_scale: the
#: rectangle's share of the area; seed: chooses another draw for every face. As the recipe records them.
ENHANCEMENT: dict[str, Any] = {"scale": [0.6, 1.0], "ratio": [0.8, 1.25], "flip": 0.5, "jitter": 0.3, "erase": 0.5,
                               "erase_scale": [0.02, 0.15], "seed": 0}


def view_record(name: str) -> dict[str, Any]:
    """Return what the recipe says of a view. Raises InputError for an unknown name."""
    if name not in VIEWS:
        raise InputError(f"unknown view {name!r}: choose from {', '.join(VIEWS)}")
    return {"name": name} | CROPS.get(name, {}) | (ENHANCEMENT if name.startswith("enhanced") else {})


def apply_view(name: str, image: Image.Image, sha256: str) -> Image.Image:
    """Return a view of a decoded RGB image, before any backbone's own preprocessing. sha256: of the image's file."""
    if name == "original":
        return image
    if name == "flip":
        return ImageOps.mirror(image)
    if name in CROPS:
        size = [max(1, round(CROPS[name]["side"] * side)) for side in image.size]
        left, top = (round(share * (whole - part)) for share, whole, part in zip(
            CROPS[name]["place"], image.size, size, strict=True))
        return image.crop((left, top, left + size[0], top + size[1]))
    digest = hashlib.sha256(f"{sha256}/{name}/{ENHANCEMENT['seed']}".encode()).digest()
    draw = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
    width, height = image.size
    area = draw.uniform(*ENHANCEMENT["scale"]) * width * height
    ratio = np.exp(draw.uniform(*np.log(ENHANCEMENT["ratio"])))
    wide = int(np.clip(round((area * ratio) ** 0.5), 1, width))
    high = int(np.clip(round((area / ratio) ** 0.5), 1, height))
    left, top = int(draw.integers(0, width - wide + 1)), int(draw.integers(0, height - high + 1))
    image = image.resize((width, height), Image.Resampling.BICUBIC, box=(left, top, left + wide, top + high))
    if draw.random() < ENHANCEMENT["flip"]:
        image = ImageOps.mirror(image)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = change(image).enhance(1 + draw.uniform(-ENHANCEMENT["jitter"], ENHANCEMENT["jitter"]))
    if draw.random() < ENHANCEMENT["erase"]:
        side = draw.uniform(*ENHANCEMENT["erase_scale"]) ** 0.5
        wide, high = max(1, round(side * width)), max(1, round(side * height))
        left, top = int(draw.integers(0, width - wide + 1)), int(draw.integers(0, height - high + 1))
        image.paste((128, 128, 128), (left, top, left + wide, top + high))
    return image
