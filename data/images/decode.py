"""Decode the bytes of an image file to RGB pixels: safely, and the same way every time."""

import io
import time
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError, features

from twofold.data.images.deep import (
    LOWER,
    declared_white,
    grey_range,
    load_jpeg_2000,
    restore_white_of_jpeg_2000,
    scaled_colours,
    shades_of,
    tiles_of,
)
from twofold.data.images.formats import HEAD_BYTES, IMAGE_FORMATS, image_format
from twofold.data.images.limits import (
    COLOR_MAP,
    FACE_LIMITS,
    MAX_SCANNED_PIXELS,
    MAX_SCANS,
    PHOTO_LIMITS,
    TIFF_STARTS,
    ImageError,
    Limits,
    TimedFile,
    check_structure,
    check_tiff,
    count_scans,
    tiff_images,
)

DECODER = "pillow-rgb-2"  #: of the recipe: what follows may only change together with this name
#: EPS, for one, would run Ghostscript; HEIF is added where pillow-heif is installed
FORMATS = tuple(each.name for each in IMAGE_FORMATS if each.name != "HEIF" and (
    each.name != "AVIF" or (features.check("avif") if "avif" in features.modules else False)))
STRIP_PIXELS = 1 << 20  #: converted at once where a conversion takes many bytes a pixel
#: bytes a pixel at the peak, measured with Pillow 12 (libwebp keeps two canvases, OpenJPEG 32-bit planes)
PEAK_BYTES = {"WEBP": 24, "JPEG2000": 24}
OTHER_PEAK_BYTES = 12
COUNTED = ("WEBP", "AVIF", "HEIF")  #: formats whose decoders know the number of frames
REMARKS = "remarks"  #: in a decoded image's `info`: what was left out or guessed, and how often
LEFT_OUT = "frames or pages after the first of a file are left out: `crop` reads all of them"
JPEGS = ("JPEG", "MPO")  #: what Pillow calls them; some cameras append a second picture
ORIENTATION = 0x0112  #: the EXIF tag; its values 2 to 8 are undone by these
TRANSPOSE = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
             5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
             8: Image.Transpose.ROTATE_90}


def decode(content: bytes, limits: Limits = PHOTO_LIMITS) -> Image.Image:
    """The RGB image in `content`, upright as its EXIF orientation says.

    Grey becomes three equal channels, values of more than 8 bits are scaled by what they hold, palettes are looked up,
    CMYK is converted, and what is transparent is shown on white. Of an animation it is the first frame, of a TIFF the
    first page that is no preview; `info` has a Counter of such `REMARKS`. EXIF data that cannot be read is no
    orientation. Raises ImageError, whatever a decoder stumbles over: one file never ends a run.
    """
    if not content:
        raise ImageError("empty file")
    file, remarks = TimedFile(content), Counter[str]()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            formats, count = formats_for(content), check_structure(content)
            if content[:4] in TIFF_STARTS:
                content = (tiff_images(content) or [content])[0]
                file = TimedFile(content)
                check_tiff(content)
            try:
                image = Image.open(file, formats=formats)
            except Image.DecompressionBombError:
                if not limits.shrink or not content.startswith(b"\xff\xd8"):
                    raise
                file.seek(0)
                image = JpegImagePlugin.jpeg_factory(file)  # which does not look at the size
            fit(image, limits, content)
            count = getattr(image, "n_frames", 1) if image.format in COUNTED else count
            tiles = image.tile = tiles_of(image)
            if image.format == "JPEG2000":
                load_jpeg_2000(image, content)
                restore_white_of_jpeg_2000(image, content, formats)
            image.load()
            if image.mode in ("RGB", "RGBA") and (image.info.get("bit_depth", 8) > 8 or image.format == "PPM" or any(
                    tile.args[0] in LOWER for tile in tiles)):
                image = scaled_colours(image, tiles, content, formats, remarks)
            colours = getattr(image, "tag_v2", {}).get(COLOR_MAP, ()) if image.mode == "P" else ()
            if colours and max(colours) < 256:  # of 8 bits, not of 16
                image.putpalette(np.reshape(colours, (3, -1)).T.astype(np.uint8).tobytes())
            image = upright_rgb(image, declared_white(image, content), remarks)
            if count > 1:
                remarks[LEFT_OUT] += count - 1
            image.info = {REMARKS: remarks}
            return image
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(_unread_tiff(content) or "not an image") from None
    except Image.DecompressionBombError:
        raise ImageError(f"more than {limits.pixels} pixels") from None
    except MemoryError:
        raise ImageError("not enough memory to decode it") from None
    except Exception as error:  # decoders raise anything: struct.error, AttributeError, ZeroDivisionError, ...
        if time.thread_time() > file.end:
            raise ImageError(f"decoding takes more than {file.seconds:g} seconds") from None
        raise ImageError("truncated image" if "truncated" in str(error) else "damaged image") from None


def formats_for(content: bytes) -> tuple[str, ...]:
    """The formats to try. Raises ImageError for one that this installation cannot read, with what to install."""
    kind = image_format(content[:HEAD_BYTES])
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


def count_images(content: bytes) -> int:
    """The frames of an animation, the pages of a TIFF that are no previews, or the pictures of a HEIC burst; else 1.
    Raises ImageError, and whatever a decoder stumbles over."""
    count, kind = check_structure(content), image_format(content[:HEAD_BYTES])
    if kind is None or kind.name not in COUNTED:
        return count
    with Image.open(TimedFile(content), formats=formats_for(content)) as image:
        return getattr(image, "n_frames", 1)


def remark_lines(remarks: Counter[str]) -> list[str]:
    """A line for each remark on images that were decoded, the most frequent first."""
    return [f"{count:,} {remark}" for remark, count in remarks.most_common()]


def _unread_tiff(content: bytes) -> str | None:
    """Why a TIFF file is not read whose tags are sound: a sample format that Pillow does not know."""
    if content[:4] not in (b"II*\0", b"MM\0*"):
        return None
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(content[:8])
        file = io.BytesIO(content)
        file.seek(tags.next)
        tags.load(file)
        if not (tags.get(256) and tags.get(257)):
            return None
        kind = {2: "signed ", 3: "floating-point ", 5: "complex ", 6: "complex "}.get(tags.get(339, (1,))[0], "")
        return f"TIFF of {int(tags.get(277, 1))} x {int(tags.get(258, (1,))[0])}-bit {kind}samples, which is not read"
    except Exception:  # damaged tags
        return None


def fit(image: Image.Image, limits: Limits, content: bytes) -> None:
    """Let a JPEG decoder skip what a smaller picture does not need. Raises ImageError for what asks for more pixels,
    memory or passes than the limits allow."""
    is_jpeg, whole = image.format in JPEGS, image.width * image.height
    for _ in range(3):
        if limits.shrink and is_jpeg and image.width * image.height > limits.pixels:
            image.draft(None, (image.width // 2, image.height // 2))
    pixels = image.width * image.height
    if pixels > limits.pixels:
        raise ImageError(f"more than {limits.pixels} pixels")
    kept = 6 * whole if is_jpeg and image.info.get("progressive") and pixels < whole else 0  # between its scans
    if pixels * PEAK_BYTES.get(image.format or "", OTHER_PEAK_BYTES) + kept > limits.memory:
        raise ImageError(f"decoding takes more than {limits.memory >> 20} MB")
    scans = min(MAX_SCANS, MAX_SCANNED_PIXELS // max(1, whole))
    if is_jpeg and content.count(b"\xff\xda") > scans and (there := count_scans(content)) > scans:
        raise ImageError(f"progressive JPEG of {there} scans")


def upright_rgb(image: Image.Image, declared: float = 0.0, remarks: Counter[str] | None = None) -> Image.Image:
    """A loaded image as `decode` gives it: upright as its EXIF orientation says, in RGB. declared, remarks: as in
    `grey_range`."""
    tags: Any = getattr(image, "tag_v2", None) or {}  # which a turned copy lacks
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # broken EXIF data beside sound pixels is common
        orientation = 1
    if orientation in TRANSPOSE:
        image = image.transpose(TRANSPOSE[orientation])
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):  # values of 8, 12 or 16 bits as often as of its own
        is_unsigned = image.mode == "I" and len(tags) > 0 and tags.get(339, (1,)) == (1,)  # but read as signed

        def values_of(part: Image.Image) -> np.ndarray:
            values = np.asarray(part)
            return values.view(np.uint32) if is_unsigned else values

        black, white = grey_range(image.mode, values_of(image), declared, Counter() if remarks is None else remarks)
        is_negative = tags.get(262) == 0  # TIFF's WhiteIsZero, which Pillow undoes where there are 8 bits or fewer

        def shown(strip: Image.Image) -> Image.Image:
            shades = shades_of(values_of(strip), white, black)
            return Image.fromarray(255 - shades if is_negative else shades)

        return _by_strips(image, shown)
    if image.has_transparency_data:
        return _by_strips(image, lambda strip: Image.alpha_composite(
            Image.new("RGBA", strip.size, "white"), strip.convert("RGBA")))
    return image if image.mode == "RGB" else image.convert("RGB")


def _by_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """`convert` pixel by pixel and to RGB, some rows at a time: its temporary copies stay small."""
    rows = max(1, STRIP_PIXELS // image.width)
    rgb = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb.paste(convert(strip).convert("RGB"), (0, top))
    return rgb


def thumbnail(content: bytes, *, side: int, limits: Limits = FACE_LIMITS) -> bytes:
    """The image in `content` as JPEG within side x side pixels, never enlarged. Raises ImageError as `decode` does.
    Nothing of the file goes along but its pixels: no place, no time, no owner."""
    image = decode(content, limits)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(file, "JPEG", quality=80)
    return file.getvalue()
