"""Bytes of an image file to RGB pixels, whatever the file: safely, and the same way every time."""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

DECODER = "pillow-rgb-1"  #: of the recipe: what follows may only change together with this name
MAX_PIXELS = 64_000_000  #: a face needs less; more is a bomb or a mistake
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000")  #: EPS, for one, would run Ghostscript


class ImageError(Exception):
    """A face that cannot be read; the message is the reason, short and the same for the same fault."""


def decode(content: bytes) -> Image.Image:
    """The RGB image in `content`, upright as its EXIF orientation says.

    Grey becomes three equal channels, 16-bit grey is scaled to 8, palettes are looked up, CMYK is converted, and
    what is transparent is shown on white. Of an animation it is the first frame. Raises ImageError.
    """
    if not content:
        raise ImageError("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(f"more than {MAX_PIXELS} pixels")
            image.load()
            return _rgb(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("not an image") from None
    except Image.DecompressionBombError:
        raise ImageError(f"more than {MAX_PIXELS} pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise ImageError("truncated image" if "truncated" in str(error) else "damaged image") from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _scaled_to_8_bit(image).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _scaled_to_8_bit(image: Image.Image) -> Image.Image:
    """16-bit grey by its high byte; `I` and `F` files hold 16-bit values too, or values from 0 to 1."""
    values = np.asarray(image).astype(np.float64)
    top = 1.0 if image.mode == "F" and values.max(initial=0) <= 1 else 65535.0
    return Image.fromarray(np.clip(values * (255.0 / top) + 0.5, 0, 255).astype(np.uint8))
