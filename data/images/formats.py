"""The one list of image and video formats: their suffixes, and the first bytes that identify an image."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

HEAD_BYTES = 32  #: enough to identify any format


@dataclass(frozen=True)
class ImageFormat:
    """A format that `decode` reads. name: Pillow's; start: what a file starts with."""

    name: str
    suffixes: tuple[str, ...]
    start: bytes


IMAGE_FORMATS = (
    ImageFormat("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif"), rb"\xff\xd8\xff"),
    ImageFormat("PNG", (".png", ".apng"), rb"\x89PNG\r\n\x1a\n"),
    ImageFormat("BMP", (".bmp", ".dib"), rb"BM.{4}\0{4}"),
    ImageFormat("GIF", (".gif",), rb"GIF8[79]a"),
    ImageFormat("TIFF", (".tif", ".tiff"), rb"II[*+]\0|MM\0[*+]"),
    ImageFormat("WEBP", (".webp",), rb"RIFF.{4}WEBP"),
    ImageFormat("PPM", (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"), rb"P([1-6f])[\s#]"),
    ImageFormat("JPEG2000", (".jp2", ".j2k", ".jpx", ".jpf"), rb"\0{3}\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    ImageFormat("AVIF", (".avif", ".avifs"), rb".{4}ftyp(avi[fs]|(mif1|msf1|miaf).{4}(.{4})*?avi[fs])"),
    ImageFormat("HEIF", (".heic", ".heif", ".hif"), rb".{4}ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)"),
)
IMAGE_SUFFIXES = frozenset(suffix for each in IMAGE_FORMATS for suffix in each.suffixes)
VIDEO_SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp",
                            ".ogv", ".ts", ".mts", ".m2ts", ".vob", ".mxf", ".mjpg", ".mjpeg"))
OTHER_SUFFIXES = frozenset((".csv", ".txt", ".npy", ".json", ".xml", ".md", ".pdf", ".zip", ".tar", ".db", ".ini"))


def image_format(head: bytes) -> ImageFormat | None:
    """The format of an image by the first bytes of its file; None for anything else."""
    return next((each for each in IMAGE_FORMATS if re.match(each.start, head, re.DOTALL)), None)


def is_hidden(path: PurePath) -> bool:
    """True for what systems leave beside people's files: names with a leading dot (`._1.jpg`), `__MACOSX/`."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def is_image(path: PurePath, read_head: Callable[[], bytes]) -> bool:
    """True for an image file: by its suffix in any case; one without a known suffix by its first bytes."""
    suffix = path.suffix.lower()
    if is_hidden(path) or suffix in VIDEO_SUFFIXES or suffix in OTHER_SUFFIXES:
        return False
    return suffix in IMAGE_SUFFIXES or image_format(read_head()) is not None


def left_out_note(place: object, paths: Iterable[PurePath]) -> str:
    """A sentence on files of a folder that are no images, counted by suffix; empty if there are none."""
    counts = Counter(path.suffix.lower() or "no suffix" for path in paths if not is_hidden(path))
    kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(counts.items()))
    return f"{place}: {counts.total():,} files are no images and are left out ({kinds})" if counts else ""


def unreadable_notes(place: object, irregular: Sequence[PurePath], locked: Sequence[OSError]) -> list[str]:
    """A sentence each on entries of a folder that are no regular files, and on folders in it that cannot be read."""
    notes = [f"{place}: {len(irregular):,} entries are links to nothing or no regular files and are left out "
             f"(the first is {irregular[0].name})"] if irregular else []
    return notes + ([f"{place}: {len(locked):,} folders cannot be read and are left out (the first is "
                     f"{locked[0].filename}: {locked[0].strerror})"] if locked else [])
