"""Files and folders, as a person names them, to photographs and videos with a unique name each."""

import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePath

from twofold.data.faces.video import is_animation, is_jpeg_stream
from twofold.data.images.archives import read_head
from twofold.data.images.formats import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    image_format,
    is_hidden,
    is_image,
    left_out_note,
    unreadable_notes,
)
from twofold.data.images.limits import MAX_FILE_BYTES, ImageError
from twofold.data.images.sources import read_file
from twofold.data.utils.errors import InputError
from twofold.data.utils.keys import CONTROL

log = logging.getLogger(__name__)

MAX_NAME_BYTES = 200  #: of one part of a name: the images below it have longer ones


@dataclass(frozen=True)
class Source:
    """A photograph or a video. name: unique among the sources, the manifest's name for it; video: True for an animated
    image, too, and for a file of neither kind, which is tried as a video; labels: columns of the manifest, such as
    those that its folder is named after."""

    name: str
    path: Path
    video: bool
    labels: Mapping[str, str] = field(default_factory=dict)

    def read(self) -> bytes:
        """The bytes of a photograph. Raises ImageError."""
        try:
            return read_file(self.path)
        except OSError as error:
            raise ImageError(f"unreadable file ({error.strerror})") from None

    def sha256(self) -> str:
        """Of the file's bytes, hex; "unreadable" for a file that cannot be read, or is too large for a photograph."""
        try:
            with self.path.open("rb") as file:
                too_large = not self.video and os.fstat(file.fileno()).st_size > MAX_FILE_BYTES
                return "unreadable" if too_large else hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:  # detection reports why
            return "unreadable"


Labels = Callable[[Sequence[str]], Mapping[str, str]]  #: names of the folders around a file to columns


def find_sources(inputs: Sequence[Path], *, ignore: Path | None = None, labels: Labels = lambda folders: {},
                 follow_links: bool = False) -> list[Source]:
    """The photographs and videos among files and, recursively, folders: each file once, sorted by name.

    labels: asked for the last two folders around each file, then for the last one; ignore: a folder, such as that of
    the output, that is skipped; follow_links: use links that lead out of their folder. What is left out is counted in a
    warning. A file is called by its own name, one in a folder by its path below it; where two names are equal, parent
    folders are put before them until they differ.
    Raises InputError for a missing file, and for a folder with neither photographs nor videos.
    """
    files: dict[Path, tuple[str, ...]] = {}  # resolved path to the parts of its name
    columns: dict[Path, Mapping[str, str]] = {}
    for place in inputs:
        if not place.is_dir() and not place.is_file():
            raise InputError(f"{place}: no such file or folder")
        for path in _walk(place, ignore, follow_links) if place.is_dir() else [place]:
            parts = path.relative_to(place).parts or (place.name,)
            target = Path(os.path.realpath(path))
            files.setdefault(target, parts)
            folders = Path(os.path.abspath(path)).parts[1:-1]
            columns[target] = columns.get(target) or labels(folders[-2:]) or labels(folders[-1:])
    clashing = list(files)
    names: dict[Path, str] = {}
    while clashing:
        names |= {path: _key_name(files[path]) for path in clashing}
        count = Counter(names.values())
        clashing = [path for path in files if count[names[path]] > 1]
        for number, path in enumerate(clashing):
            own, length = path.parts[1:], len(files[path]) + 1
            files[path] = own[-length:] if length <= len(own) else (*own, str(number))
    return sorted((Source(name, path, _is_video(path), columns[path]) for path, name in names.items()),
                  key=lambda source: source.name)


def _walk(folder: Path, ignore: Path | None, follow_links: bool) -> list[Path]:
    """The photographs and videos below a folder, by suffix or, where that is unknown, by content."""
    sources, others, links, irregular, locked = [], [], [], [], []
    top, ignored, seen = folder.resolve(), ignore and ignore.resolve(), set()
    for place, folders, names in os.walk(folder, followlinks=follow_links, onerror=locked.append):
        seen.add(os.path.realpath(place))
        linked = [] if follow_links else [name for name in folders if os.path.islink(os.path.join(place, name))]
        folders[:] = [name for name in folders if os.path.realpath(os.path.join(place, name)) not in seen]
        for path in (Path(place, name) for name in [*linked, *names]):
            target = Path(os.path.realpath(path))
            if is_hidden(path.relative_to(folder)) or (ignored and target.is_relative_to(ignored)):
                continue
            if not follow_links and not target.is_relative_to(top):
                links.append(path)
            elif target.is_file():
                is_video = path.suffix.lower() in VIDEO_SUFFIXES
                wanted = is_video or is_image(PurePath(path.name), partial(read_head, path))
                (sources if wanted else others).append(path)
            elif not target.is_dir():
                irregular.append(path)
    notes = [left_out_note(folder, others)] if others else []
    notes += unreadable_notes(folder, irregular, locked)
    notes += [f"{folder}: {len(links):,} links lead out of it and are left out (the first is {links[0].name}): "
              "--follow-links reads them, too"] if links else []
    if not sources:
        raise InputError("; ".join([f"{folder}: no photographs or videos in it", *notes]))
    for note in notes:
        log.warning("warning: %s", note)
    return sorted(sources)


def _is_video(path: Path) -> bool:
    """By the file's first bytes, or by its suffix where they are those of no image, or of a JPEG: raw Motion JPEG
    begins as one."""
    kind, named = image_format(read_head(path)), path.suffix.lower() in IMAGE_SUFFIXES
    if kind is None:
        return not named
    return is_animation(path) or (kind.name == "JPEG" and not named and is_jpeg_stream(path))


def _key_name(parts: tuple[str, ...]) -> str:
    """A name that a manifest's key may begin with, whatever bytes, characters and lengths the file system allows."""
    plain = []
    for part in parts:
        part = CONTROL.sub("_", part.encode("utf-8", "replace").decode("utf-8"))
        part = re.sub(r'[\\:*?"<>|]', "_", part)
        content = part.encode()
        if len(content) > MAX_NAME_BYTES:
            digest = hashlib.sha256(content).hexdigest()[:9]
            part = f"{content[:MAX_NAME_BYTES - 10].decode('utf-8', 'ignore')}~{digest}"
        plain.append(part)
    return "/".join(plain)
