"""The preprocessing of a backbone: pixels on the host, normalisation on the device; and as options behind its name."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from twofold.data.images.decode import ImageError
from twofold.data.utils.errors import InputError

INTERPOLATIONS = {mode.name.lower(): mode for mode in Image.Resampling}
RULES = ("shorter", "both", "longer")
MAX_PIXELS = 64 * 2**20  #: in a resized image
MAX_SIDE = 4096  #: pixels
OPTIONS = ("size", "resize", "rule", "interpolation", "mean", "std", "scale")
ENTRY = "entry"  #: option of a name: where in a checkpoint its weights are
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize, centre crop and normalise, equal to the pixel to what torchvision and timm do to a PIL image.

    `prepare` (host, any thread, picklable) gives uint8 pixels; the network then sees (pixel * scale - mean) / std.

    size: side of the square input; resize: side before the crop (0 leaves the image as it is);
    rule: which side becomes `resize`: "shorter" (aspect kept), "both" (aspect lost) or "longer" (aspect kept, padded
    with the mean colour); interpolation: a Pillow filter in lower case; mean, std: RGB, in units of pixel * scale.
    """

    size: int
    resize: int
    rule: str = "shorter"
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    scale: float = 1 / 255

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS or self.rule not in RULES:
            raise ValueError(f"no such interpolation or rule: {self.interpolation!r}, {self.rule!r}")

    def prepare(self, image: Image.Image) -> np.ndarray:
        """Turn an RGB image of any size into (size, size, 3) uint8.

        Raises ImageError for an image so long and thin that resizing its short side would fill the memory.
        """
        target = self._resized(*image.size) if self.resize else image.size
        if target[0] * target[1] > MAX_PIXELS:
            raise ImageError(f"too long and thin: {image.size[0]} x {image.size[1]}")
        if target != image.size:
            image = image.resize(target, INTERPOLATIONS[self.interpolation])
        return np.array(self._cropped(image))

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        if self.rule == "both":
            return self.resize, self.resize
        if self.rule == "longer":  # timm rounds here, torchvision truncates below
            ratio = max(width, height) / self.resize
            return round(width / ratio), round(height / ratio)
        if width <= height:
            return self.resize, int(self.resize * height / width)
        return int(self.resize * width / height), self.resize

    def _cropped(self, image: Image.Image) -> Image.Image:
        """The middle `size` x `size`; a side that is too short is padded first."""
        width, height = image.size
        wide, high = max(width, self.size), max(height, self.size)
        if (wide, high) != (width, height):
            fill = tuple(round(255 * mean) for mean in self.mean) if self.rule == "longer" else (0, 0, 0)
            canvas = Image.new("RGB", (wide, high), fill)
            canvas.paste(image, ((wide - width) // 2, (high - height) // 2))
            image = canvas
        top, left = round((high - self.size) / 2), round((wide - self.size) / 2)
        return image.crop((left, top, left + self.size, top + self.size))

    def record(self) -> dict[str, Any]:
        """What the recipe says of it."""
        return {
            "size": [self.size, self.size], "resize": self.resize, "resize_rule": self.rule,
            "interpolation": self.interpolation, "crop": "centre", "mean": list(self.mean), "std": list(self.std),
            "scale": self.scale,
        }


# ------------------------------------------------------------------------------- NAME?size=112&mean=0.5
def split_name(text: str, *, further: Sequence[str] = (ENTRY,)) -> tuple[str, dict[str, str]]:
    """`NAME?key=value&...` as the name and its options, in the order of OPTIONS and `further`.

    Raises InputError for an unknown, an empty or a repeated option.
    """
    name, _, query = text.partition("?")
    triples = [pair.partition("=") for pair in query.split("&") if pair]
    options = {key: value for key, _, value in triples}
    names = (*OPTIONS, *further)
    for key, value in options.items():
        if key not in names or not value:
            raise InputError(f"unknown option {key!r} of {name}: choose from {', '.join(names)}, as ?size=112")
    if len(options) != len(triples):
        raise InputError(f"an option of {name} is given twice: {query}")
    return name, {key: options[key] for key in names if key in options}


def join_name(name: str, options: Mapping[str, str]) -> str:
    """Undo `split_name`."""
    return f"{name}?{'&'.join(f'{key}={value}' for key, value in options.items())}" if options else name


def apply_options(how: Preprocessing, options: Mapping[str, str], *, name: str) -> Preprocessing:
    """Change what the options name. A size without `resize` is resized to directly, without a crop.

    name: of the backbone, for messages. Raises InputError for an impossible value.
    """
    size = _side(name, "size", options["size"]) if "size" in options else how.size
    resize = size if "size" in options else how.resize
    return replace(
        how, size=size, resize=_side(name, "resize", options["resize"]) if "resize" in options else resize,
        rule=_choice(name, "rule", options.get("rule", how.rule), RULES),
        interpolation=_choice(name, "interpolation", options.get("interpolation", how.interpolation), INTERPOLATIONS),
        mean=parse_rgb(name, "mean", options["mean"]) if "mean" in options else how.mean,
        std=parse_rgb(name, "std", options["std"]) if "std" in options else how.std,
        scale=_numbers(name, "scale", options["scale"], 1)[0] if "scale" in options else how.scale,
    )


def parse_rgb(name: str, key: str, text: str) -> tuple[float, float, float]:
    """Three numbers with commas, slashes or blanks between; one stands for all. Raises InputError."""
    red, green, blue = _numbers(name, key, text, 3)
    return red, green, blue


def _numbers(name: str, key: str, text: str, count: int) -> list[float]:
    try:
        values = [float(part) for part in re.split(r"[,/;\s]+", text.strip(" []()"))]
    except ValueError:
        values = []
    usable = all(abs(value) < float("inf") and (key == "mean" or value > 0) for value in values)
    if len(values) not in (1, count) or not usable:
        raise InputError(f"option {key}={text} of {name} is not {count} {'number' if count == 1 else 'numbers'}"
                         f"{'' if key == 'mean' else ' above 0'}")
    return values if len(values) == count else values * count


def _side(name: str, key: str, text: str) -> int:
    if not re.fullmatch("[0-9]{1,4}", text) or not 0 < int(text) <= MAX_SIDE:
        raise InputError(f"option {key}={text} of {name} is not a side of 1 to {MAX_SIDE} pixels")
    return int(text)


def _choice(name: str, key: str, text: str, choices: Iterable[str]) -> str:
    if text not in choices:
        raise InputError(f"option {key}={text} of {name}: choose from {', '.join(choices)}")
    return text
