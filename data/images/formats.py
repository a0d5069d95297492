"""The one list of image and video formats: their suffixes, and the first bytes that identify an image."""

from dataclasses import dataclass
from pathlib import PurePath


@dataclass(frozen=True)
class ImageFormat:
    """A format that `decode` reads. name: Pillow's; magic: what a file starts with, `?` for any byte."""

    name: str
    suffixes: tuple[str, ...]
    magic: tuple[bytes, ...]


IMAGE_FORMATS = (
    ImageFormat("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif"), (b"\xff\xd8\xff",)),
    ImageFormat("PNG", (".png", ".apng"), (b"\x89PNG\r\n\x1a\n",)),
    ImageFormat("BMP", (".bmp", ".dib"), (b"BM",)),
    ImageFormat("GIF", (".gif",), (b"GIF87a", b"GIF89a")),
    ImageFormat("TIFF", (".tif", ".tiff"), (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    ImageFormat("WEBP", (".webp",), (b"RIFF????WEBP",)),
    ImageFormat("PPM", (".ppm", ".pgm", ".pbm", ".pnm"), tuple(b"P%d" % kind for kind in range(1, 7))),
    ImageFormat("JPEG2000", (".jp2", ".j2k", ".jpx", ".jpf"), (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")),
    ImageFormat("AVIF", (".avif", ".avifs"), (b"????ftypavif", b"????ftypavis", b"????ftypmif1????????avif")),
    ImageFormat("HEIF", (".heic", ".heif", ".hif"), tuple(b"????ftyp" + brand for brand in (
        b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))),
)
IMAGE_SUFFIXES = frozenset(suffix for each in IMAGE_FORMATS for suffix in each.suffixes)
VIDEO_SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp",
                            ".ogv", ".ts", ".mts", ".m2ts", ".vob", ".mxf"))


def image_format(head: bytes) -> ImageFormat | None:
    """The format of an image by the first bytes of its file (32 are enough), None for anything else."""
    for each in IMAGE_FORMATS:
        for magic in each.magic:
            if len(head) >= len(magic) and all(want in (63, there) for want, there in zip(magic, head, strict=False)):
                return each
    return None


def is_hidden(path: PurePath) -> bool:
    """True for what systems leave beside people's files: names with a leading dot (`._1.jpg`), `__MACOSX/`."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def is_image_name(path: PurePath) -> bool:
    """True if the name is that of an image file, whatever its case, and the file is not hidden."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path)
