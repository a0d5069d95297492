"""Where the bytes of an image come from: a key below a root folder or archive, or below one of several named roots.

A key such as `fer2013.csv/0000006.png` names row 6 of the CSV file `fer2013.csv` in the root, read as an image file;
`Image/aligned.zip/aligned/1.jpg` a file in an archive that lies in the root. A root may be an archive itself.
"""

import contextlib
import hashlib
import os
import stat
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from twofold.data.images.archives import IN_ARCHIVE, Archive, is_archive
from twofold.data.images.csv_pixels import open_pixel_table, parse_row_key
from twofold.data.images.limits import FACE_LIMITS, MAX_FILE_BYTES, ImageError, Limits
from twofold.data.utils.errors import InputError
from twofold.data.utils.keys import NO_FACE, NO_FACE_SUFFIX, key_fault
from twofold.data.utils.machine import usable_cores

MISSING = "missing file"
T = TypeVar("T")


class ImageSource(Protocol):
    """What images are read from: `read` gives the bytes of the image file of a key, or raises ImageError."""

    @property
    def limits(self) -> Limits: ...

    def read(self, key: str) -> bytes: ...


@dataclass(frozen=True)
class ImageRoots:
    """Roots by name; the root of keys without a dataset's name in front has the empty name."""

    roots: dict[str, Path | Archive]
    limits: Limits = FACE_LIMITS  #: of each image, where it is decoded
    follow_links: bool = False  #: read files that links lead to outside their root
    opened: dict[Path, Any] = field(default_factory=dict)  #: CSV files of pixels and archives within the roots

    def read(self, key: str) -> bytes:
        """The bytes of the image file of `key`, whatever the Unicode form of its name on the disk. Raises ImageError if
        there is none, or it lies outside its root."""
        if key.endswith(NO_FACE_SUFFIX):
            raise ImageError(NO_FACE)
        try:
            return self._read(key)
        except ImageError as error:
            if key.isascii() or str(error) != MISSING:
                raise
            for other in (unicodedata.normalize("NFC", key), unicodedata.normalize("NFD", key), self._same_name(key)):
                with contextlib.suppress(ImageError):
                    return self._read(other)
            raise

    def _same_name(self, key: str) -> str:
        """The key with each part in the Unicode form that the file system, or the archive, has it in."""
        name, _, below = ("", "", key) if "" in self.roots else key.partition("/")
        root = self.roots.get(name)
        if isinstance(root, Archive):
            form = unicodedata.normalize("NFC", below)
            below = next((member for member in root.members if unicodedata.normalize("NFC", member) == form), below)
        elif root and not key_fault(below):
            parts: list[str] = []
            for part in below.split("/"):
                folder, form = root.joinpath(*parts), unicodedata.normalize("NFC", part)
                there = sorted(os.listdir(folder)) if folder.is_dir() and os.access(folder, os.R_OK) else []
                parts.append(next((item for item in there if unicodedata.normalize("NFC", item) == form), part))
            below = "/".join(parts)
        return f"{name}/{below}" if name else below

    def _read(self, key: str) -> bytes:
        name, _, below = ("", "", key) if "" in self.roots else key.partition("/")
        if name not in self.roots:
            raise ImageError(f"no root for {name!r}")
        root = self.roots[name]
        if isinstance(root, Archive):
            return root.read(below)
        row, member = parse_row_key(below), IN_ARCHIVE.fullmatch(below)
        try:
            if row is not None and (root / row[0]).is_file():
                return self._open(self._resolve(root, row[0]), open_pixel_table).read(row[1])
            if member and (root / member[1]).is_file():
                return self._open(self._resolve(root, member[1]), Archive).read(member[2])
            return read_file(self._resolve(root, below))
        except FileNotFoundError:
            raise ImageError(MISSING) from None
        except OSError as error:
            raise ImageError(f"unreadable file ({error.strerror or 'bad name'})") from None
        except ValueError as error:
            raise ImageError(f"unreadable file ({error if isinstance(error, InputError) else 'bad name'})") from None

    def _resolve(self, root: Path, below: str) -> Path:
        """The file `below` the resolved folder `root`, with every link followed. Raises ImageError if that leads out of
        the root, else OSError."""
        try:
            path = (root / below).resolve(strict=True)
        except RuntimeError:  # before Python 3.13; an OSError since
            raise ImageError("unreadable file (Too many levels of symbolic links)") from None
        if path.is_relative_to(root):
            return path
        if key_fault(below):  # `..` and absolute paths never leave the root
            raise ImageError("outside its root")
        if not self.follow_links:
            raise ImageError("outside its root (a link: --follow-links reads it)")
        return path

    def _open(self, path: Path, kind: Callable[[Path], T]) -> T:
        if path not in self.opened:
            self.opened.setdefault(path, kind(path))  # another thread may have been first
        return self.opened[path]


def read_file(path: Path) -> bytes:
    """The bytes of a regular file of a bounded size. Raises ImageError or OSError."""
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise ImageError("unreadable file (Is a directory)")
    if not stat.S_ISREG(status.st_mode):  # opening a named pipe would wait for ever
        raise ImageError("unreadable file (not a regular file)")
    if status.st_size > MAX_FILE_BYTES:
        raise ImageError(f"file larger than {MAX_FILE_BYTES >> 20} MB")
    without_waiting = getattr(os, "O_NONBLOCK", 0)  # should a pipe have taken the file's place since
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | without_waiting)) as file:
        return file.read()


def parse_roots(roots: Sequence[str]) -> Path | dict[str, Path]:
    """One folder, or several as NAME=DIR, as the command line gives them. Raises InputError for a mixture."""
    if len(roots) == 1 and ("=" not in roots[0] or Path(roots[0]).exists()):
        return Path(roots[0])
    pairs = [root.partition("=") for root in roots]
    folders = {name: Path(folder) for name, _, folder in pairs if name and folder}
    if len(folders) < len(roots):
        raise InputError("several roots are given as NAME=DIR each, NAME being the first part of the keys below it")
    return folders


def open_images(root: Path | dict[str, Path], *, limits: Limits = FACE_LIMITS, follow_links: bool = False
                ) -> ImageRoots:
    """Images below one folder or in one archive, or several by name; a CSV file of pixels stands for its folder. Raises
    InputError for a folder that is not there, and for an archive that cannot be read."""
    opened: dict[str, Path | Archive] = {}
    for name, path in (root if isinstance(root, dict) else {"": Path(root)}).items():
        if is_archive(path):
            opened[name] = archive = Archive(path.resolve())
            _ = archive.members  # read now: what is wrong with it is said before anything is done
            continue
        folder = path.parent if path.suffix.lower() == ".csv" and path.is_file() else path
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder of images (--root)")
        opened[name] = folder.resolve()
    return ImageRoots(opened, limits, follow_links)


def check_roots(images: ImageRoots, keys: Sequence[str]) -> None:
    """Refuse roots that cannot be meant: a dataset of the keys without one, or none of the images tried below them.
    Tries up to 100 keys, spread over all, until one is there. Raises InputError."""
    if "" not in images.roots:
        lacking = sorted({key.partition("/")[0] for key in keys} - set(images.roots))
        if lacking:
            raise InputError(f"no root for the samples of {', '.join(lacking[:5])}: give --root {lacking[0]}=DIR too")
    named = [key for key in keys if not key.endswith(NO_FACE_SUFFIX)]
    tried = named[::max(1, len(named) // 100)][:100]
    if tried and not any(_is_there(images, key) for key in tried):
        where = ", ".join(f"{root.path} (which begins with {next(iter(root.members))})" if isinstance(root, Archive)
                          else str(root) for root in images.roots.values())
        raise InputError(f"none of {len(tried)} images tried is below {where} (the first is {tried[0]}): --root is the "
                         f"folder that keys are relative to, or NAME=DIR for each dataset of a merged manifest")


def _is_there(images: ImageRoots, key: str) -> bool:
    try:
        images.read(key)
    except ImageError as error:
        return str(error) != MISSING
    return True


def hash_images(images: ImageSource, keys: Sequence[str], *, workers: int = 0) -> dict[str, str]:
    """SHA-256 (hex) of the image file of each key, with that many threads (0: one a core); unreadable ones left out."""
    def digest(key: str) -> str:
        try:
            return hashlib.sha256(images.read(key)).hexdigest()
        except ImageError:
            return ""

    hashes = {}
    with ThreadPoolExecutor(workers or usable_cores()) as pool:
        for start in range(0, len(keys), 8192):  # a million waiting tasks would fill the memory
            block = keys[start:start + 8192]
            hashes |= {key: text for key, text in zip(block, pool.map(digest, block), strict=True) if text}
    return hashes
