"""Pictures of the user's own that the page offers for a click."""

from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from twofold.data.images.decode import PHOTO_LIMITS, thumbnail
from twofold.data.images.formats import IMAGE_SUFFIXES
from twofold.data.utils.errors import InputError

MOST, SIDE = 48, 160


@dataclass(frozen=True)
class Examples:
    """Image files in order; the page knows them by their numbers, never by a path."""

    paths: tuple[Path, ...] = ()
    _thumbnails: dict[int, bytes] = field(default_factory=dict)
    _turn: Lock = field(default_factory=Lock)  #: a browser asks for several at once, and each is decoded whole

    @property
    def names(self) -> list[str]:
        return [path.name for path in self.paths]

    def read(self, number: int) -> bytes:
        """The file's bytes. Raises IndexError for no such number, OSError."""
        return self.paths[number].read_bytes()

    def thumbnail(self, number: int) -> bytes:
        """As JPEG. Raises IndexError, OSError and ImageError."""
        with self._turn:
            if number not in self._thumbnails:
                self._thumbnails[number] = thumbnail(self.read(number), side=SIDE, limits=PHOTO_LIMITS)
            return self._thumbnails[number]


def find_examples(folder: Path | None, *, most_bytes: int) -> Examples:
    """The first pictures of a folder by name, of files that are not too large. Raises InputError if there are none."""
    if folder is None:
        return Examples()
    if not folder.is_dir():
        raise InputError(f"--examples {folder}: no such folder")
    paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
             and not path.name.startswith(".") and path.stat().st_size <= most_bytes]
    if not paths:
        raise InputError(f"--examples {folder}: no pictures in it")
    return Examples(tuple(paths[:MOST]))
