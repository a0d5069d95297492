"""Decode the bytes of an image file to RGB pixels: safely, and the same way every time."""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from twofold.data.images.formats import IMAGE_FORMATS, image_format

DECODER = "pillow-rgb-1"  #: of the recipe: what follows may only change together with this name
#: EPS, for one, would run Ghostscript; HEIF is added where pillow-heif is installed
FORMATS = tuple(each.name for each in IMAGE_FORMATS if each.name != "HEIF" and (
    each.name != "AVIF" or (features.check("avif") if "avif" in features.modules else False)))
MAX_FILE_BYTES = 256 << 20  #: no face is larger; a sparse file of 40 GB would fill the memory
STRIP_PIXELS = 1 << 20  #: converted at once where a conversion takes many bytes a pixel
#: bytes a pixel at the peak, measured with Pillow 12 (libwebp keeps two canvases, OpenJPEG 32-bit planes)
PEAK_BYTES = {"WEBP": 24, "JPEG2000": 24, "AVIF": 24, "HEIF": 24}
OTHER_PEAK_BYTES = 12


class ImageError(Exception):
    """A face that cannot be read; the message is the reason, short and the same for the same fault."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a picture may ask for; one that asks for more is refused by its header, before it is decoded."""

    pixels: int
    memory: int  #: bytes that decoding may take at its peak

    def scaled_to(self, pixels: int) -> "Limits":
        """As many pixels, and memory in proportion."""
        return Limits(pixels=pixels, memory=self.memory * pixels // self.pixels)


FACE_LIMITS = Limits(pixels=25_000_000, memory=512 << 20)  #: a camera's whole picture is within it
PHOTO_LIMITS = Limits(pixels=64_000_000, memory=800 << 20)  #: faces are looked for in it


def decode(content: bytes, limits: Limits = PHOTO_LIMITS) -> Image.Image:
    """The RGB image in `content`, upright as its EXIF orientation says.

    Grey becomes three equal channels, 16-bit grey is scaled to 8, palettes are looked up, CMYK is converted, and
    what is transparent is shown on white. Of an animation it is the first frame. Raises ImageError, whatever
    a decoder stumbles over: one file never ends a run.
    """
    if not content:
        raise ImageError("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=_formats(content))
            _require(image, limits)
            image.load()
            return _rgb(_upright(image))
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("not an image") from None
    except Image.DecompressionBombError:
        raise ImageError(f"more than {limits.pixels} pixels") from None
    except MemoryError:
        raise ImageError("not enough memory to decode it") from None
    except Exception as error:  # decoders raise anything: struct.error, AttributeError, ZeroDivisionError, ...
        raise ImageError("truncated image" if "truncated" in str(error) else "damaged image") from None


def _formats(content: bytes) -> tuple[str, ...]:
    """The formats to try. Raises ImageError for one that this installation cannot read, with what to install."""
    kind = image_format(content[:32])
    if kind is None or kind.name in FORMATS:
        return FORMATS
    if kind.name == "AVIF":
        raise ImageError("an AVIF image, which this Pillow does not read: pip install 'pillow>=11.3'")
    try:
        import pillow_heif
    except ImportError:
        raise ImageError("a HEIC/HEIF image, which needs pip install 'twofold[footage]' (or pillow-heif)") from None
    pillow_heif.register_heif_opener(thumbnails=False)
    return ("HEIF",)


def _require(image: Image.Image, limits: Limits) -> None:
    pixels = image.width * image.height
    if pixels > limits.pixels:
        raise ImageError(f"more than {limits.pixels} pixels")
    if pixels * PEAK_BYTES.get(image.format or "", OTHER_PEAK_BYTES) > limits.memory:
        raise ImageError(f"decoding takes more than {limits.memory >> 20} MB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        ImageOps.exif_transpose(image, in_place=True)  # in place: no copy where nothing is turned
    except Exception:
        raise ImageError("damaged EXIF data") from None
    return image


def upright_rgb(image: Image.Image) -> Image.Image:
    """A copy of an opened image as `decode` gives it: upright as its EXIF orientation says, in RGB."""
    return _rgb(_upright(image.copy()))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _by_strips(image, _scaled_to_8_bit(image))
    if image.has_transparency_data:
        return _by_strips(image, _on_white)
    return image if image.mode == "RGB" else image.convert("RGB")


def _by_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """`convert` pixel by pixel to RGB, some rows at a time: its temporary copies stay small."""
    rows = max(1, STRIP_PIXELS // image.width)
    rgb = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        rgb.paste(convert(image.crop((0, top, image.width, bottom))), (0, top))
    return rgb


def _on_white(image: Image.Image) -> Image.Image:
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _scaled_to_8_bit(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """16-bit grey by its high byte; `I` and `F` files hold 16-bit values too, or values from 0 to 1."""
    top = 1.0 if image.mode == "F" and np.asarray(image).max(initial=0) <= 1 else 65535.0

    def scaled(strip: Image.Image) -> Image.Image:
        values = np.asarray(strip).astype(np.float64)
        return Image.fromarray(np.clip(values * (255.0 / top) + 0.5, 0, 255).astype(np.uint8)).convert("RGB")

    return scaled


def thumbnail(content: bytes, *, side: int, limits: Limits = FACE_LIMITS) -> bytes:
    """The image in `content` as JPEG within side x side pixels, never enlarged. Raises ImageError as `decode` does.

    Nothing of the file goes along but its pixels: no place, no time, no owner.
    """
    image = decode(content, limits)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(file, "JPEG", quality=80)
    return file.getvalue()
