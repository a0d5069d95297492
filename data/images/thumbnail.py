"""A picture made small, for a page."""

import io

import numpy as np
from PIL import Image

from twofold.data.images.decode import FACE, Limits, decode


def thumbnail(content: bytes, *, side: int, limits: Limits = FACE) -> bytes:
    """The image in `content` as JPEG within side x side pixels, never enlarged. Raises ImageError as `decode` does.

    Nothing of the file goes along but its pixels: no place, no time, no owner.
    """
    image = decode(content, limits)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(file, "JPEG", quality=80)
    return file.getvalue()
