"""What one backbone wants done to a picture: pixels on the host, normalisation on the device."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from twofold.data.images.decode import ImageError

INTERPOLATIONS = {mode.name.lower(): mode for mode in Image.Resampling}
RULES = ("shorter", "both", "longer")
LARGEST = 64 * 2**20  #: pixels in a resized picture
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize, centre crop and normalise, equal to the pixel to what torchvision and timm do to a PIL image.

    `prepare` (host, any thread, picklable) gives uint8 pixels; the network then sees (pixel * scale - mean) / std.

    size: side of the square input; resize: side before the crop (0 leaves the picture as it is);
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
        """Turn an RGB picture of any size into (size, size, 3) uint8.

        Raises ImageError for a picture so long and thin that resizing its short side would fill the memory.
        """
        target = self._resized(*image.size) if self.resize else image.size
        if target[0] * target[1] > LARGEST:
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
