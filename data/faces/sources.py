"""Photographs and videos as a person names them: files and folders to sources, each with a name of its own."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from twofold.data.images.formats import IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_hidden
from twofold.data.utils.errors import InputError

LONGEST = 200  #: bytes of one part of a name: the images below it have longer ones


@dataclass(frozen=True)
class Source:
    """A photograph or a video. name: unique among the sources, what the manifest calls it; video: as its name says,
    a file of neither kind is tried as a video, which tells what it is."""

    name: str
    path: Path
    video: bool

    def sha256(self) -> str:
        """Of the file's bytes, hex. Raises OSError."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def find_sources(inputs: Sequence[Path], *, ignore: Path | None = None) -> list[Source]:
    """The photographs and videos among files and, recursively, folders: each file once, sorted by name.

    ignore: a folder, such as that of the output, that is not looked into. A file is called by its own name, one in a
    folder by its path below it; where two would be called the same, as many folders as it takes go before.
    Raises InputError for what is not there, and for a folder with neither photographs nor videos.
    """
    files: dict[Path, tuple[str, ...]] = {}  # resolved: how far its name reaches up, the shortest first
    for place in inputs:
        if place.is_dir():
            below = [path for path in sorted(place.rglob("*")) if _is_source(path, place, ignore)]
            if not below:
                raise InputError(f"{place}: no photographs or videos in it")
            for path in below:
                files.setdefault(path.resolve(), path.relative_to(place).parts)
        elif place.is_file():
            files.setdefault(place.resolve(), (place.name,))
        else:
            raise InputError(f"{place}: no such file or folder")
    names = _distinct_names(files)
    return sorted((Source(name, path, path.suffix.lower() not in IMAGE_SUFFIXES) for path, name in names.items()),
                  key=lambda source: source.name)


def _is_source(path: Path, folder: Path, ignore: Path | None) -> bool:
    named = path.suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES and not is_hidden(path.relative_to(folder))
    return (named and path.is_file()
            and not (ignore and path.resolve().is_relative_to(ignore.resolve())))


def _distinct_names(files: dict[Path, tuple[str, ...]]) -> dict[Path, str]:
    parts = dict(files)
    while True:
        count = Counter(map(_spelled, parts.values()))
        clashing = [path for path in parts if count[_spelled(parts[path])] > 1]
        if not clashing:
            return {path: _spelled(parts[path]) for path in parts}
        for path in clashing:
            own = path.parts[1:]
            length = min(len(parts[path]) + 1, len(own))
            parts[path] = own[-length:] if length > len(parts[path]) else (*own, str(clashing.index(path)))


def _spelled(parts: tuple[str, ...]) -> str:
    """A name that a manifest's key may begin with, whatever bytes, marks and lengths the file system allows."""
    return "/".join(_part(part.encode("utf-8", "replace").decode("utf-8")) for part in parts)


def _part(text: str) -> str:
    plain = "".join("_" if letter in '\\:*?"<>|' or ord(letter) < 32 else letter for letter in text)
    content = plain.encode()
    if len(content) <= LONGEST:
        return plain
    return content[:LONGEST - 10].decode("utf-8", "ignore") + "~" + hashlib.sha256(content).hexdigest()[:9]
