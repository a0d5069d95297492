"""What a picture may cost: bounds on pixels, memory, parts and seconds, checked before it is decoded."""

import io
import struct
import time
from dataclasses import dataclass, replace

MAX_FILE_BYTES = 256 << 20  #: no face is larger; a sparse file of 40 GB would fill the memory
MAX_SCANS, MAX_SCANNED_PIXELS = 100, 1_500_000_000  #: of a progressive JPEG, whose scans each pass over all pixels
#: chunks of a PNG, headers of a JPEG, blocks of a comment of a GIF: each takes microseconds; frames of an animation
MAX_PARTS = 20_000
MAX_BLOCKS = 1_200_000  #: of a GIF, which have 255 bytes each where they hold pixels
MAX_PAGES = 1_000  #: of a TIFF
MAX_TIFF_VALUES = 300_000  #: of a page's tags, such as places of strips and tiles: each takes half a kilobyte
MAX_TEXT_BYTES = 20 << 20  #: of a picture whose pixels are written as text, two megabytes a second
MAX_SECONDS = 60.0  #: of this thread's computing for one picture: none of a few megabytes needs one
NEW_SUBFILE_TYPE, REDUCED_OR_MASK = 254, 0b101  #: TIFF 6.0, page 36: previews and masks are no pages
BITS, COLOR_MAP, SUB_PAGES, SAMPLE_FORMAT = 258, 320, 330, 339  #: tags of TIFF


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


class TimedFile(io.BytesIO):
    """A file that gives no more once decoding it has taken too long: decoders ask for one block after the other."""

    def __init__(self, content: bytes):
        super().__init__(content)
        self.seconds = MAX_SECONDS
        self.restart()

    def restart(self) -> None:
        """Give all of the time again, for the next frame."""
        self.end = time.thread_time() + self.seconds

    def read(self, size: int | None = -1, /) -> bytes:
        if time.thread_time() > self.end:
            raise TimeoutError
        return super().read(size)


def check_structure(content: bytes) -> int:
    """The frames of a GIF or an APNG, or the pages of a TIFF that are no previews; 1 for anything else. Raises
    ImageError for a picture in so many parts, or so much text, that reading it takes minutes or gigabytes."""
    if content[:2] in (b"P1", b"P2", b"P3") and len(content) > MAX_TEXT_BYTES:
        raise ImageError(f"pixels written as text in more than {MAX_TEXT_BYTES >> 20} MB")
    if content.startswith(b"GIF8"):
        return _gif_frames(content)
    if content[:4] in TIFF_STARTS:
        return sum(map(is_page, tiff_pages(content).values()))
    png, jpeg = content.startswith(b"\x89PNG"), content.startswith(b"\xff\xd8")
    place, parts, frames = 8 if png else 2, 0, 1
    while (png or jpeg) and place + 8 <= len(content):
        if jpeg and (content[place] != 0xFF or content[place + 1] == 0xDA):
            break
        parts += 1
        if parts > MAX_PARTS:
            raise ImageError(f"more than {MAX_PARTS} {'chunks' if png else 'headers'}")
        if png and content[place + 4:place + 8] == b"acTL":
            frames = int.from_bytes(content[place + 8:place + 12], "big")
        place += (12 + int.from_bytes(content[place:place + 4], "big") if png
                  else 2 + int.from_bytes(content[place + 2:place + 4], "big"))
    return frames


def _gif_frames(content: bytes) -> int:
    """Follows the blocks of a GIF as far as they go. Raises ImageError for too many."""
    def palette(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    frames = blocks = 0
    try:
        place = 13 + palette(content[10])
        while (kind := content[place]) != 0x3B:
            frames += kind == 0x2C
            place += 11 + palette(content[place + 9]) if kind == 0x2C else 2 if kind == 0x21 else 1
            first = blocks = blocks + 1
            while kind in (0x21, 0x2C) and (length := content[place]):
                place += length + 1
                blocks += 1
                if blocks > MAX_BLOCKS or (kind == 0x21 and blocks > first + MAX_PARTS):
                    raise ImageError(f"GIF of more than {MAX_PARTS if kind == 0x21 else MAX_BLOCKS} blocks")
            place += kind in (0x21, 0x2C)
            if blocks > MAX_BLOCKS:
                raise ImageError(f"GIF of more than {MAX_BLOCKS} blocks")
    except IndexError:  # it is cut off
        pass
    return frames


Tags = dict[int, tuple[int, int, int]]  #: of a TIFF page: number to type, count, and value or place of the values
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def tiff_pages(content: bytes) -> dict[int, Tags]:
    """Place and tags of each page of a TIFF or BigTIFF (TIFF 6.0, section 2), as far as they can be read. Raises
    ImageError for more pages, or more values in a page's tags, than are read."""
    order, is_big = "<" if content[:2] == b"II" else ">", 43 in content[2:4]
    word, number, entry = (order + "Q", order + "Q", order + "HHQQ") if is_big else (
        order + "I", order + "H", order + "HHII")
    pages: dict[int, Tags] = {}
    try:
        place, = struct.unpack_from(word, content, 8 if is_big else 4)
        while place and place not in pages:
            count, = struct.unpack_from(number, content, place)
            start = place + struct.calcsize(number)
            end = start + min(count, 1 << 16) * struct.calcsize(entry)
            pages[place] = tags = {}
            for tag, kind, values, value in struct.iter_unpack(entry, content[start:end]):
                short = order == ">" and kind == 3 and values == 1
                tags[tag] = kind, values, value >> (48 if is_big else 16) if short else value
            if len(pages) > MAX_PAGES:
                raise ImageError(f"TIFF of more than {MAX_PAGES} pages")
            if sum(values for kind, values, _ in tags.values() if kind not in (1, 2, 6, 7)) > MAX_TIFF_VALUES:
                raise ImageError(f"TIFF of more than {MAX_TIFF_VALUES} strips, tiles or other values")
            place, = struct.unpack_from(word, content, end)
    except struct.error:  # it is cut off
        pass
    return pages


def is_page(tags: Tags) -> bool:
    """Whether a page of a TIFF is neither a preview nor a mask of another one."""
    return not tags.get(NEW_SUBFILE_TYPE, (4, 1, 0))[2] & REDUCED_OR_MASK


def check_tiff(content: bytes) -> None:
    """Raises ImageError for a TIFF whose first page would be read as another picture: a preview beside a camera's raw
    pixels, and values with a sign in 8 bits."""
    tags = next(iter(tiff_pages(content).values()), {})
    if not is_page(tags) and SUB_PAGES in tags:
        raise ImageError("a camera's raw file, of which only a preview can be read: save it as JPEG, PNG or TIFF")
    if [tags.get(tag, (3, 1, 1))[1:] for tag in (SAMPLE_FORMAT, BITS)] == [(1, 2), (1, 8)]:
        raise ImageError("TIFF of 8-bit signed samples, which is not read")


def tiff_images(content: bytes) -> list[bytes]:
    """A TIFF file for each page that is no preview, with that page as its first."""
    place, size = (8, 8) if 43 in content[2:4] else (4, 4)
    order = "little" if content[:2] == b"II" else "big"
    return [content[:place] + at.to_bytes(size, order) + content[place + size:]
            for at, tags in tiff_pages(content).items() if is_page(tags)]


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
