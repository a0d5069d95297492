"""Values of more than 8 bits to 8: what is black and white in a picture, by its tags or by what it holds."""

import io
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
from PIL import Image

from twofold.data.images.limits import MAX_SECONDS, ImageError, TimedFile
from twofold.data.utils.errors import plain_number

COARSE = (255, 4095, 65535)  #: the usual largest values
MAXIMA = (255, 1023, 4095, 16383, 65535)  #: of 8, 10, 12, 14 and 16 bits, which files with more room a value hold
MAX_SHARE = 0.01  #: of values that text, or other marks, have in a picture of fewer bits
SAMPLES = 1 << 20  #: of the values of a picture, for its percentiles
STRIP = 1 << 20  #: values that are counted at once
SIGNIFICANT_BITS = re.compile(rb"\0\0\0[\1-\4]sBIT([\x09-\x0f])")  #: a chunk of PNG
#: Pillow reads the upper byte of colours of 16 bits, with these names of their byte order it reads the lower one
LOWER = {f"{mode};16{order}": f"{mode};16{other}" for mode in ("RGB", "RGBA", "RGBX", *"RGBA") for order, other in (
    ("B", "L"), ("L", "B"), ("N", "B" if sys.byteorder == "little" else "L"))}
LOWER["LA;16B"] = "RGBA"  #: all four bytes of a pixel
LOADED_HERE = 1 << 20  #: pixels of a JPEG 2000 picture that are decoded in less than a second
LOADER = """
import contextlib, ctypes, io, resource, sys
from PIL import Image
with contextlib.suppress(Exception):  # Linux: it ends with its parent (PR_SET_PDEATHSIG, SIGKILL)
    ctypes.CDLL(None).prctl(1, 9)
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[1]), int(sys.argv[1]) + 1))
Image.MAX_IMAGE_PIXELS = None
sys.stdout.buffer.write(Image.open(io.BytesIO(sys.stdin.buffer.read()), formats=["JPEG2000"]).tobytes())
"""


def declared_white(image: Any, content: bytes) -> float:
    """The largest value as the file says it, 0 where it does not: by TIFF's MaxSampleValue, SMaxSampleValue, WhiteLevel
    or BitsPerSample, PNG's sBIT, or the head of a PPM or JPEG 2000, whose values Pillow stretches to 16 bits."""
    tags: Any = getattr(image, "tag_v2", None) or {}
    white = max((float(np.max(tags[tag])) for tag in (281, 341, 50717) if tags.get(tag)), default=0.0)
    bits = max(tags.get(258) or (0,))
    if (image.format == "PPM" and image.mode != "F") or image.format == "JPEG2000":
        is_stretched = (largest_of_ppm(content) < 65535) if image.format == "PPM" else jpeg_2000_bits(content)[0] < 16
        return 65535.0 if is_stretched else 0.0
    if image.format == "PNG" and (written := SIGNIFICANT_BITS.search(content[:1 << 16])):
        bits = written[1][0]
    return white or (float((1 << bits) - 1) if 8 < bits < 16 else 0.0)


def jpeg_2000_bits(content: bytes) -> tuple[int, int]:
    """The bits of the first channel of a JPEG 2000 picture, 8 where its head does not say, and where they stand."""
    place = content.find(b"\xff\x4f\xff\x51") + 42
    return (content[place] & 127) + 1 if 42 <= place < len(content) else 8, place


def largest_of_ppm(content: bytes) -> int:
    """The value that is white by the head of a PGM or PPM file."""
    words = re.sub(rb"#[^\n\r]*", b"", content[:4096]).split(maxsplit=4)
    return int(words[3]) if len(words) > 3 and words[3].isdigit() else 255


def grey_range(mode: str, values: np.ndarray, declared: float, remarks: Counter[str]) -> tuple[float, float]:
    """The values that are black and white in a picture of more than 8 bits a value. remarks: counts what was guessed.

    White is as declared where no value is larger, else the largest value of the fewest bits that hold all values,
    unless few values lie above a smaller range and are more likely errors: overshoot of a filter, hot pixels, burnt-in
    text. 8 bits stretched to 16 are known by their lower byte. Where many values are negative, the range is theirs.
    """
    finite = values[np.isfinite(values)]
    if not finite.size or 0 < finite.max() <= declared:
        return 0.0, declared or 1.0
    black, white = _likely_range(finite, mode == "F")
    if white != 65535 or black:
        is_usual = white in (1, *MAXIMA) and black in (0, -1)
        guess = f"{plain_number(black)} taken for black, {plain_number(white)} for white"
        guess = guess if is_usual else "the range of most values is taken"
        remarks[f"pictures of more than 8 bits a value do not say which is white: {guess}"] += 1
    return black, white


def _likely_range(finite: np.ndarray, is_float: bool) -> tuple[float, float]:
    largest, maxima = float(finite.max()), (1, *MAXIMA) if is_float else MAXIMA
    top = next((each for each in maxima if largest <= each), largest)
    sample = np.sort(finite[::finite.size // SAMPLES | 1].astype(np.float64))
    least, low, high, most = (float(sample[int(share * (sample.size - 1))]) for share in (0.001, 0.01, 0.99, 0.999))
    below = (sample < -abs(high) / 16) & (sample > sample[0])  # the lowest value may stand for "no data"
    if below.sum() >= 0.05 * sample.size:
        is_unit = is_float and low >= -1 and high <= 1 and max(-low, high) > 0.5
        return (-1.0, 1.0) if is_unit else (least, max(most, np.nextafter(least, np.inf)))
    if not is_float and 255 < largest <= 65535:
        whole = np.clip(finite, 0, 65535).astype(np.uint16)
        if not (whole % 257).any() or not (whole % 256).any():
            return 0.0, 65535
        if largest == 65535 and (marks := whole == 65535).mean() <= MAX_SHARE:
            return 0.0, next(each for each in MAXIMA if whole[~marks].max() <= each)
    usual = next((each for each in ((1, *COARSE) if is_float else COARSE)
                  if high <= each * (1.25 if is_float else 1)), None)
    if usual is None:
        return 0.0, high if largest > 16 * high else top
    if 16 * high > usual and top >= 4 * usual and (
            usual == 1 or largest > MAXIMA[-1] or (is_float and largest <= 1.5 * usual)):
        return 0.0, usual
    return 0.0, top


def shades_of(values: np.ndarray, white: float, black: float = 0.0) -> np.ndarray:
    """Values from black to white in 8 bits; what is no number is black."""
    finite = np.nan_to_num(values.astype(np.float64), nan=black, posinf=white, neginf=black)
    return np.clip((finite - black) * (255.0 / (white - black)) + 0.5, 0, 255).astype(np.uint8)


def scaled_colours(image: Image.Image, tiles: list[Any], content: bytes, formats: tuple[str, ...],
                   remarks: Counter[str]) -> Image.Image:
    """A picture of 16 bits a channel, of which `image`, loaded from `tiles`, has the upper 8, scaled where most of it
    is of fewer bits. remarks: as in `grey_range`."""
    declared = declared_white(image, content)
    upper = np.sum([np.array(channel.histogram()) for channel in image.split()[:3]], axis=0)
    if upper[65:].sum() > MAX_SHARE * upper.sum() or declared == 65535 or (
            image.format == "HEIF" and upper[17:].any()):
        return image
    if image.format == "HEIF":
        import pillow_heif

        deep = np.asarray(pillow_heif.open_heif(io.BytesIO(content), convert_hdr_to_8bit=False))
        planes = [deep[..., number] for number in range(deep.shape[2])]
    elif image.format == "PPM":
        tile, size = Image.open(TimedFile(content), formats=formats).tile[0], (image.height, image.width, 3)
        text = re.sub(rb"#[^\n\r]*", b"", content[tile.offset:]) if tile.codec_name == "ppm_plain" else b""
        deep = (np.array(text.split()[:np.prod(size)], np.uint16) if text
                else np.frombuffer(content, ">u2", int(np.prod(size)), tile.offset))
        planes = list(deep.reshape(size).astype(np.uint16).transpose(2, 0, 1))
    else:
        lower = Image.open(TimedFile(content), formats=formats)
        lower.tile = [tile._replace(args=(LOWER[tile.args[0]], *tile.args[1:])) for tile in tiles_of(lower)]
        highs, lows = image.split(), lower.split()
        if tiles[0].args[0] == "LA;16B":
            highs, lows = [lows[0]] * 3 + [lows[2]], [lows[1]] * 3 + [lows[3]]
        planes = [np.asarray(high).astype(np.uint16) * 256 + np.asarray(low)
                  for high, low in zip(highs, lows, strict=True)]
    counts = sum(np.bincount(part, minlength=1 << 16) for plane in planes[:3]
                 for part in np.array_split(plane.reshape(-1), 1 + plane.size // STRIP))
    values = np.repeat(np.arange(1 << 16), -(-counts * SAMPLES // np.sum(counts)))  # as many in proportion
    white = grey_range("I;16", values, declared, remarks)[1]
    shades = shades_of(np.arange(1 << 16), white)
    channels = [Image.fromarray(shades[plane]) for plane in planes[:3]]
    if image.mode == "RGBA":
        channels.append(Image.fromarray(shades[planes[3]]) if planes[3].max() <= white else image.getchannel("A"))
    return Image.merge(image.mode, channels)


def tiles_of(image: Any) -> list[Any]:
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


def load_jpeg_2000(image: Any, content: bytes) -> None:
    """Load an opened JPEG 2000 picture, a large one in a process of its own: OpenJPEG keeps the interpreter for all of
    its time, so that this one would neither answer a signal nor see how long it takes. Raises ImageError."""
    if image.width * image.height <= LOADED_HERE:
        image.load()
        return
    packages = os.pathsep.join(place for place in sys.path if os.path.isabs(place))
    done = subprocess.run([sys.executable, "-P", "-c", LOADER, f"{MAX_SECONDS:.0f}"], input=content,
                          capture_output=True, start_new_session=True, env=os.environ | {"PYTHONPATH": packages})
    if done.returncode == -signal.SIGXCPU:
        raise ImageError(f"decoding takes more than {MAX_SECONDS:g} seconds")
    if done.returncode:
        raise ImageError("damaged image")
    image.tile, image.im = [], Image.frombytes(image.mode, image.size, done.stdout).im


def restore_white_of_jpeg_2000(image: Image.Image, content: bytes, formats: tuple[str, ...]) -> None:
    """Make a loaded JPEG 2000 picture white where Pillow, which rounds more than 8 bits up to 256, made it 0.

    Raises ImageError for colours of 16 bits that hold 14 or fewer: Pillow gives their upper 8 only.
    """
    (bits, place), channels = jpeg_2000_bits(content), len(image.getbands())
    if image.mode not in ("LA", "RGB", "RGBA") or not 8 < bits <= 16:
        return
    if np.min(image.getextrema()) == 0:  # told to be of one bit more, it shows black as 64 and white as 192
        deeper = bytearray(content)
        for channel in range(channels):
            deeper[place + 3 * channel] += 1
        with Image.open(TimedFile(bytes(deeper)), formats=formats) as other:
            load_jpeg_2000(other, bytes(deeper))
            shown, values = np.asarray(other), np.array(image)
        sampled = np.s_[::shown.size // SAMPLES | 1]
        is_half = np.abs(shown[sampled].astype(np.int16) - (values[sampled] >> 1) - 64) <= 1
        if is_half[values[sampled] > 0].all():
            values[(values == 0) & (shown > 128)] = 255
            image.paste(Image.fromarray(values))
    if bits == 16 and channels > 2 and 0 < np.max(image.getextrema()[:3]) <= 64:
        raise ImageError("JPEG 2000 colours of 14 or fewer bits in 16, which are not read")
