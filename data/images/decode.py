"""Decode the bytes of an image file to RGB pixels: safely, and the same way every time."""

import io
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError, features

from twofold.data.images.formats import HEAD_BYTES, IMAGE_FORMATS, image_format

DECODER = "pillow-rgb-2"  #: of the recipe: what follows may only change together with this name
#: EPS, for one, would run Ghostscript; HEIF is added where pillow-heif is installed
FORMATS = tuple(each.name for each in IMAGE_FORMATS if each.name != "HEIF" and (
    each.name != "AVIF" or (features.check("avif") if "avif" in features.modules else False)))
MAX_FILE_BYTES = 256 << 20  #: no face is larger; a sparse file of 40 GB would fill the memory
STRIP_PIXELS = 1 << 20  #: converted at once where a conversion takes many bytes a pixel
#: bytes a pixel at the peak, measured with Pillow 12 (libwebp keeps two canvases, OpenJPEG 32-bit planes)
PEAK_BYTES = {"WEBP": 24, "JPEG2000": 24}
OTHER_PEAK_BYTES = 12
MAX_SCANS, MAX_SCANNED_PIXELS = 100, 1_500_000_000  #: of a progressive JPEG, whose scans each pass over all pixels
MAX_PARTS = 20_000  #: chunks of a PNG, headers of a JPEG: each takes microseconds
MAX_TEXT_BYTES = 20 << 20  #: of a picture whose pixels are written as text, two megabytes a second
MAX_SECONDS = 60.0  #: of this thread's computing for one picture: none of a few megabytes needs one
MAXIMA = (255, 4095, 65535)  #: of 8, 12 and 16 bits, which files with more room per pixel hold
SAMPLES = 1 << 20  #: of the values of a picture, for its percentiles
#: Pillow reads the upper byte of colours of 16 bits, with these names of their byte order it reads the lower one
LOWER = {f"{mode};16{order}": f"{mode};16{other}" for mode in ("RGB", "RGBA", "RGBX", *"RGBA") for order, other in (
    ("B", "L"), ("L", "B"), ("N", "B" if sys.byteorder == "little" else "L"))}
LOWER["LA;16B"] = "RGBA"  #: all four bytes of a pixel
JPEGS = ("JPEG", "MPO")  #: what Pillow calls them; some cameras append a second picture
ORIENTATION = 0x0112  #: the EXIF tag; its values 2 to 8 are undone by these
TRANSPOSE = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
             5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
             8: Image.Transpose.ROTATE_90}


class ImageError(Exception):
    """A face that cannot be read; the message is the reason, short and the same for the same fault."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a picture may ask for; one that asks for more is refused by its header, before it is decoded."""

    pixels: int
    memory: int  #: bytes that decoding may take at its peak
    shrink: bool = False  #: decode a larger JPEG at a half, a quarter or an eighth of its size instead

    def scaled_to(self, pixels: int) -> "Limits":
        """As many pixels, and memory in proportion."""
        return replace(self, pixels=pixels, memory=self.memory * pixels // self.pixels)


FACE_LIMITS = Limits(pixels=25_000_000, memory=512 << 20)  #: a camera's whole picture is within it
PHOTO_LIMITS = Limits(pixels=64_000_000, memory=800 << 20, shrink=True)  #: faces are detected in it


def decode(content: bytes, limits: Limits = PHOTO_LIMITS) -> Image.Image:
    """The RGB image in `content`, upright as its EXIF orientation says.

    Grey becomes three equal channels, values of more than 8 bits are scaled by what they hold, palettes are looked up,
    CMYK is converted, and what is transparent is shown on white. Of an animation it is the first frame. EXIF data that
    cannot be read is no orientation. Raises ImageError, whatever a decoder stumbles over: one file never ends a run.
    """
    if not content:
        raise ImageError("empty file")
    file = _TimedFile(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            formats = formats_for(content)
            check_parts(content)
            try:
                image = Image.open(file, formats=formats)
            except Image.DecompressionBombError:
                if not limits.shrink or not content.startswith(b"\xff\xd8"):
                    raise
                file.seek(0)
                image = JpegImagePlugin.jpeg_factory(file)  # which does not look at the size
            _fit(image, limits, content)
            tiles = image.tile = _tiles(image)
            image.load()
            if image.format == "JPEG2000":
                _restore_white_of_jpeg_2000(image, content, formats)
            is_deep_ppm = image.format == "PPM" and tiles[0].codec_name == "ppm" and tiles[0].args[-1] > 4095
            if image.mode in ("RGB", "RGBA") and (is_deep_ppm or image.info.get("bit_depth", 8) > 8 or any(
                    tile.args[0] in LOWER for tile in tiles)):
                image = _scaled_colours(image, content, formats)
            return upright_rgb(image)
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
            raise ImageError(f"decoding takes more than {MAX_SECONDS:g} seconds") from None
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


def _restore_white_of_jpeg_2000(image: Image.Image, content: bytes, formats: tuple[str, ...]) -> None:
    """Make a loaded JPEG 2000 picture white where Pillow, which rounds more than 8 bits up to 256, made it 0.

    Raises ImageError for colours of 16 bits that hold 12 or fewer: Pillow gives their upper 8 only.
    """
    place = content.find(b"\xff\x4f\xff\x51") + 42  # where the header says how many bits the first channel has
    bits = (content[place] & 127) + 1 if 42 <= place < len(content) else 8
    channels = len(image.getbands())
    if image.mode not in ("LA", "RGB", "RGBA") or not 8 < bits <= 16:
        return
    if np.min(image.getextrema()) == 0:  # told to be of one bit more, it shows black as 64 and white as 192
        deeper = bytearray(content)
        for channel in range(channels):
            deeper[place + 3 * channel] += 1
        shown, values = np.asarray(Image.open(_TimedFile(bytes(deeper)), formats=formats)), np.array(image)
        sampled = np.s_[::shown.size // SAMPLES | 1]
        is_half = np.abs(shown[sampled].astype(np.int16) - (values[sampled] >> 1) - 64) <= 1
        if is_half[values[sampled] > 0].all():
            values[(values == 0) & (shown > 128)] = 255
            image.paste(Image.fromarray(values))
    if bits == 16 and channels > 2 and 0 < np.max(image.getextrema()[:3]) <= 16:
        raise ImageError("JPEG 2000 colours of 12 or fewer bits in 16, which are not read")


def _fit(image: Image.Image, limits: Limits, content: bytes) -> None:
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


class _TimedFile(io.BytesIO):
    """A file that gives no more once decoding it has taken too long: decoders ask for one block after the other."""

    def __init__(self, content: bytes):
        super().__init__(content)
        self.end = time.thread_time() + MAX_SECONDS

    def read(self, size: int | None = -1, /) -> bytes:
        if time.thread_time() > self.end:
            raise TimeoutError
        return super().read(size)


def check_parts(content: bytes) -> None:
    """Raises ImageError for a small picture in so many parts, or so much text, that it is read for minutes."""
    png, jpeg = content.startswith(b"\x89PNG"), content.startswith(b"\xff\xd8")
    if content[:2] in (b"P1", b"P2", b"P3") and len(content) > MAX_TEXT_BYTES:
        raise ImageError(f"pixels written as text in more than {MAX_TEXT_BYTES >> 20} MB")
    place, parts = 8 if png else 2, 0
    while (png or jpeg) and place + 8 <= len(content):
        if jpeg and (content[place] != 0xFF or content[place + 1] == 0xDA):
            break
        parts += 1
        if parts > MAX_PARTS:
            raise ImageError(f"more than {MAX_PARTS} {'chunks' if png else 'headers'}")
        place += (12 + int.from_bytes(content[place:place + 4], "big") if png
                  else 2 + int.from_bytes(content[place + 2:place + 4], "big"))


def count_scans(jpeg: bytes) -> int:
    """The scans of a JPEG file, as its markers say; thumbnails in its headers and what follows its end are not met."""
    place, scans = 2, 0
    while 0 <= place <= len(jpeg) - 4 and jpeg[place:place + 2] != b"\xff\xd9":
        if jpeg[place] != 0xFF or jpeg[place + 1] in (0x00, 0xFF, *range(0xD0, 0xD8)):  # within a scan, or padding
            place = jpeg.find(b"\xff", place + 1)
        else:
            scans += jpeg[place + 1] == 0xDA
            place += 2 + int.from_bytes(jpeg[place + 2:place + 4], "big")
    return scans


def upright_rgb(image: Image.Image) -> Image.Image:
    """A loaded image as `decode` gives it: upright as its EXIF orientation says, in RGB."""
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

        black, white = _grey_range(image.mode, values_of(image), tags)
        is_negative = tags.get(262) == 0  # TIFF's WhiteIsZero, which Pillow undoes where there are 8 bits or fewer

        def shown(strip: Image.Image) -> Image.Image:
            shades = _shades(values_of(strip), white, black)
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


def _grey_range(mode: str, values: np.ndarray, tags: Any) -> tuple[float, float]:
    """The values that are black and white in a grey picture of more than 8 bits.

    White is the largest value as in `_largest_value`, unless few values lie above a smaller range and are more likely
    errors: overshoot of a filter, hot pixels, burnt-in text. Where many values are negative, the range is theirs.
    """
    finite = values[np.isfinite(values)]
    largest, is_float = float(finite.max(initial=0)), mode == "F"
    maxima = (1, *MAXIMA) if is_float else MAXIMA
    top = _largest_value(tags, largest, maxima)
    if not finite.size or 0 < largest <= _declared(tags):
        return 0.0, top
    sample = np.sort(finite[::finite.size // SAMPLES | 1].astype(np.float64))
    least, low, high, most = (float(sample[int(share * (sample.size - 1))]) for share in (0.001, 0.01, 0.99, 0.999))
    below = (sample < -abs(high) / 16) & (sample > sample[0])  # the lowest value may stand for "no data"
    if below.sum() >= 0.05 * sample.size:
        is_unit = is_float and low >= -1 and high <= 1 and max(-low, high) > 0.5
        return (-1.0, 1.0) if is_unit else (least, max(most, np.nextafter(least, np.inf)))
    usual = next((each for each in maxima if high <= each * (1.25 if is_float else 1)), None)
    if usual is None:
        return 0.0, high if largest > 16 * high else top
    if 16 * high > usual and top >= 8 * usual and (
            usual == 1 or largest > MAXIMA[-1] or (is_float and largest <= 1.5 * usual)
            or bool((finite[finite > usual] == MAXIMA[-1]).all())):
        return 0.0, usual
    return 0.0, top


def _declared(tags: Any) -> float:
    """The largest value by TIFF's MaxSampleValue, or 0."""
    return float(np.max(tags.get(281, 0)))


def _largest_value(tags: Any, largest: float, maxima: tuple[int, ...] = MAXIMA) -> float:
    """The value that is white: the largest as declared by tags, or of the smallest range that holds all values."""
    declared = _declared(tags)
    return declared if 0 < largest <= declared else next((top for top in maxima if largest <= top), largest)


def _shades(values: np.ndarray, top: float, black: float = 0.0) -> np.ndarray:
    """Values from `black` to white, which is `top`, in 8 bits; what is no number is black."""
    finite = np.nan_to_num(values.astype(np.float64), nan=black, posinf=top, neginf=black)
    return np.clip((finite - black) * (255.0 / (top - black)) + 0.5, 0, 255).astype(np.uint8)


def _scaled_colours(image: Image.Image, content: bytes, formats: tuple[str, ...]) -> Image.Image:
    """A picture of more than 8 bits a channel, of which `image` has the upper 8, scaled where it holds values of 8 or
    12 bits in 16."""
    if np.max(image.getextrema()[:3]) > (16 if image.format == "PPM" else 15):  # the one is rounded, others are cut off
        return image
    if image.format == "HEIF":
        import pillow_heif

        deep = np.asarray(pillow_heif.open_heif(io.BytesIO(content), convert_hdr_to_8bit=False))
        planes = [deep[..., number] for number in range(deep.shape[2])]
    elif image.format == "PPM":
        offset = Image.open(_TimedFile(content), formats=formats).tile[0].offset
        deep = np.frombuffer(content, ">u2", image.width * image.height * 3, offset)
        planes = list(deep.reshape(image.height, image.width, 3).astype(np.uint16).transpose(2, 0, 1))
    else:
        lower = Image.open(_TimedFile(content), formats=formats)
        tiles = _tiles(lower)
        lower.tile = [tile._replace(args=(LOWER[tile.args[0]], *tile.args[1:])) for tile in tiles]
        highs, lows = image.split(), lower.split()
        if tiles[0].args[0] == "LA;16B":
            highs, lows = [lows[0]] * 3 + [lows[2]], [lows[1]] * 3 + [lows[3]]
        planes = [np.asarray(high).astype(np.uint16) * 256 + np.asarray(low)
                  for high, low in zip(highs, lows, strict=True)]
    top = _largest_value(getattr(image, "tag_v2", None) or {}, float(max(plane.max() for plane in planes[:3])))
    shades = _shades(np.arange(1 << 16), top)
    channels = [Image.fromarray(shades[plane]) for plane in planes[:3]]
    if image.mode == "RGBA":
        channels.append(Image.fromarray(shades[planes[3]]) if planes[3].max() <= top else image.getchannel("A"))
    return Image.merge(image.mode, channels)


def _tiles(image: Any) -> list[Any]:
    """The parts of an image, with tuples as arguments of their decoders, whose first says how pixels are stored. Of
    uncompressed TIFF planes of 16 bits Pillow takes that for 8 bits."""
    tags: Any = getattr(image, "tag_v2", {})
    is_planar = tags.get(284) == 2 and tags.get(258, (8,))[0] == 16
    tiles = []
    for tile in image.tile:
        mode, *rest = (tile.args,) if isinstance(tile.args, str) else tile.args or ("",)
        if is_planar and mode in "RGBA":
            mode = f"{mode};16{'B' if tags.prefix == b'MM' else 'L'}"
        tiles.append(tile._replace(args=(mode, *rest)))
    return tiles


def thumbnail(content: bytes, *, side: int, limits: Limits = FACE_LIMITS) -> bytes:
    """The image in `content` as JPEG within side x side pixels, never enlarged. Raises ImageError as `decode` does.
    Nothing of the file goes along but its pixels: no place, no time, no owner."""
    image = decode(content, limits)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(file, "JPEG", quality=80)
    return file.getvalue()
