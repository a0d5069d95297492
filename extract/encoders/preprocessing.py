"""The preprocessing of a backbone: pixels on the host, normalisation on the device; and as options behind its name."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from twofold.data.images.decode import DECODER, ImageError
from twofold.data.utils.errors import InputError

if TYPE_CHECKING:
    import torch

INTERPOLATIONS = {mode.name.lower(): mode for mode in Image.Resampling}
CHOICES = {"rule": ("shorter", "both", "longer"), "interpolation": tuple(INTERPOLATIONS)}
MAX_PIXELS = 64 * 2**20  #: in a resized image
MAX_SIDE = 4096  #: pixels
OPTIONS = ("size", "resize", "rule", "interpolation", "mean", "std", "scale")
ENTRY = "entry"  #: option of a name: where in a checkpoint its weights are
LAYERS, TOKENS = "layers", "tokens"  #: options of a name: what besides the embedding is taken of a forward pass
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
DECODERS = {"pillow": DECODER, "fast": f"{DECODER}, resized by torch"}  #: of `extract --decoder`, as recipes have them
TORCH_FILTERS = ("bilinear", "bicubic")  #: that torch has for bytes, with antialiasing
AS_IT_IS: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  #: without normalisation


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
        if self.interpolation not in INTERPOLATIONS or self.rule not in CHOICES["rule"]:
            raise ValueError(f"no such interpolation or rule: {self.interpolation!r}, {self.rule!r}")

    @property
    def mean_colour(self) -> tuple[int, ...]:
        """The RGB bytes that are nearest to what the network sees as zero."""
        return tuple(min(255, max(0, round(mean / self.scale))) for mean in self.mean)

    def prepare(self, image: "Image.Image | Resizer") -> np.ndarray:
        """Turn an RGB image of any size into (size, size, 3) uint8.

        Raises ImageError for an image so long and thin that resizing its short side would fill the memory.
        """
        resizer = image if isinstance(image, Resizer) else Resizer(image)
        width, height = self._resized(*resizer.image.size)
        if width * height > MAX_PIXELS:
            raise ImageError(f"too long and thin: {resizer.image.size[0]} x {resizer.image.size[1]}")
        pixels = resizer.resize((width, height), self.interpolation)
        if width < self.size or height < self.size:  # pad the side that is too short
            canvas = np.zeros((max(height, self.size), max(width, self.size), 3), np.uint8)
            if self.rule == "longer":
                canvas[:] = self.mean_colour
            top, left = (canvas.shape[0] - height) // 2, (canvas.shape[1] - width) // 2
            canvas[top:top + height, left:left + width] = pixels
            pixels = canvas
        top, left = (round((side - self.size) / 2) for side in pixels.shape[:2])
        return pixels[top:top + self.size, left:left + self.size]

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        if not self.resize:
            return width, height
        if self.rule == "both":
            return self.resize, self.resize
        if self.rule == "longer":  # timm rounds here, torchvision truncates below
            ratio = max(width, height) / self.resize
            return max(1, round(width / ratio)), max(1, round(height / ratio))
        if width <= height:
            return self.resize, int(self.resize * height / width)
        return int(self.resize * width / height), self.resize

    def normalize(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """(B, 3, S, S) float pixels in 0..255 as the network takes them."""
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (pixels * self.scale - mean) / std

    def record(self) -> dict[str, Any]:
        """What the recipe says of it."""
        return {
            "size": [self.size, self.size], "resize": self.resize, "resize_rule": self.rule,
            "interpolation": self.interpolation, "crop": "centre", "mean": list(self.mean), "std": list(self.std),
            "scale": self.scale,
        }


class Resizer:
    """An RGB image, resized once to each size and by each filter that is asked for.

    decoder: one of DECODERS as recipes have them; "fast" resizes by torch where it has the filter: the same antialiased
    filters, in a third to a fifth of the time, with weights of 16 bits, so that some values differ by one.
    """

    def __init__(self, image: Image.Image, *, decoder: str = DECODER):
        self.image, self.decoder = image, decoder
        self._resized: dict[tuple[int, int, str], np.ndarray] = {}

    def resize(self, size: tuple[int, int], interpolation: str) -> np.ndarray:
        """The image in this size (width, height) as (height, width, 3) uint8, not to be written to."""
        is_whole = size == self.image.size
        key = (*size, "" if is_whole else interpolation)
        if key not in self._resized:
            if is_whole:
                self._resized[key] = np.array(self.image)
            elif self.decoder == DECODERS["fast"] and interpolation in TORCH_FILTERS:
                self._resized[key] = self._by_torch(size, interpolation)
            else:
                self._resized[key] = np.array(self.image.resize(size, INTERPOLATIONS[interpolation]))
        return self._resized[key]

    def _by_torch(self, size: tuple[int, int], interpolation: str) -> np.ndarray:
        import torch

        whole = torch.from_numpy(self.resize(self.image.size, interpolation))[None].permute(0, 3, 1, 2)
        with torch.inference_mode():  # which is quick for (1, 3, H, W) that lies channels-last in memory
            resized = torch.nn.functional.interpolate(whole, size=size[::-1], mode=interpolation, antialias=True)
        return resized[0].permute(1, 2, 0).numpy()


# ------------------------------------------------------------------------------- NAME?size=112&mean=0.5
def split_name(text: str, *, further: Sequence[str] = (ENTRY, TOKENS, LAYERS)) -> tuple[str, dict[str, str]]:
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
    values = {key: parse_option(key, text, name=name) for key, text in options.items() if key in OPTIONS}
    return replace(how, **({"resize": values["size"]} if "size" in values else {}) | values)


def parse_option(key: str, text: str, *, name: str) -> Any:
    """The value of an option of OPTIONS: a side in pixels, a name, a number, or three numbers with commas, slashes or
    blanks between, where one stands for all. Raises InputError."""
    if key in CHOICES:
        if text not in CHOICES[key]:
            raise InputError(f"option {key}={text} of {name}: choose from {', '.join(CHOICES[key])}")
        return text
    if key in ("size", "resize"):
        if not re.fullmatch("[0-9]{1,4}", text) or not 0 < int(text) <= MAX_SIDE:
            raise InputError(f"option {key}={text} of {name} is not a side of 1 to {MAX_SIDE} pixels")
        return int(text)
    count, above = (1 if key == "scale" else 3), ("" if key == "mean" else " above 0")
    try:
        values = [float(part) for part in re.split(r"[,/;\s]+", text.strip(" []()"))]
    except ValueError:
        values = []
    usable = all(abs(value) < float("inf") and (not above or value > 0) for value in values)
    if len(values) not in (1, count) or not usable:
        raise InputError(f"option {key}={text} of {name} is not {count} number{'s' if count > 1 else ''}{above}")
    return values[0] if count == 1 else tuple(values * (count // len(values)))
