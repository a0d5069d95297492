"""From photographs and videos to faces without a file on the way: what `predict` and `serve` hand to the networks."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from twofold.data.faces.ahead import ahead
from twofold.data.faces.detect import open_yunet
from twofold.data.faces.detector_file import find_detector
from twofold.data.faces.look import Face, Look, Search, look
from twofold.data.faces.rows import face_key, table
from twofold.data.faces.settings import CropSettings, Sampling, read_line
from twofold.data.faces.sources import Source
from twofold.data.images.decode import FACE_LIMITS, ImageError, Limits
from twofold.data.images.sources import NO_FACE, NO_FACE_SUFFIX
from twofold.data.manifest import Manifest
from twofold.data.utils.errors import InputError

log = logging.getLogger(__name__)

Treatment = Literal["auto", "detect", "cropped"]

CHUNK = 512  #: faces that are handed on together
FILLED = (0.5, 0.6)  #: of a picture's width and height: a box that takes as much says that it is a face already
SMALL = 128  #: pixels: a picture no longer than this, in which no face is found, is taken for a tight crop of one


@dataclass(frozen=True)
class FacesInMemory:
    """Some faces in order, keys without a face among them: a source of images that reads no file."""

    keys: list[str]
    contents: dict[str, bytes]
    limits: Limits = FACE_LIMITS

    def read(self, key: str) -> bytes:
        """The bytes of the image file of `key`. Raises ImageError where there is none."""
        if key.endswith(NO_FACE_SUFFIX):
            raise ImageError(NO_FACE)
        return self.contents[key]


@dataclass
class Footage:
    """Sources on their way to the networks. `chunks` runs through them once; the rest tells what they were.

    search: None where no detector is to be had, and every picture is taken for a face. treatment: `auto` crops what is
    not a face yet, `detect` every picture, `cropped` none (videos are cropped all the same).
    """

    sources: Sequence[Source]
    search: Search | None
    treatment: Treatment = "auto"
    looks: list[Look] = field(default_factory=list)  #: in order, images left out
    as_they_are: set[str] = field(default_factory=set)  #: names of pictures that are faces already

    def __post_init__(self) -> None:
        videos = [source.name for source in self.sources if source.video]
        if self.search is None and videos:
            raise InputError(f"{videos[0]} is a video, whose faces only a detector finds: see `weights ls`, or give "
                             "--detector PATH")

    @property
    def settings(self) -> CropSettings:
        return self.search.settings if self.search else CropSettings()

    def chunks(self) -> Iterator[FacesInMemory]:
        """All faces, a bounded number at a time; the next ones are found while some are used."""
        with closing(ahead(self._chunks())) as chunks:
            yield from chunks

    def _chunks(self) -> Iterator[FacesInMemory]:
        chunk = FacesInMemory([], {})
        with tqdm(unit="frame", desc="frames", dynamic_ncols=True, disable=None) as bar:
            for seen in self._seen():
                self._take(seen, chunk)
                bar.update()
                if len(chunk.keys) >= CHUNK:
                    yield chunk
                    chunk = FacesInMemory([], {})
        if chunk.keys:
            yield chunk

    def _seen(self) -> Iterator[Look]:
        """Pictures that are faces by decree are not searched: they come first, the others in their order."""
        decreed = self.search is None or self.treatment == "cropped"
        for source in self.sources:
            if decreed and not source.video:
                self.as_they_are.add(source.name)
                yield Look(source, None, None, (), last=True)
        rest = [source for source in self.sources if source.name not in self.as_they_are]
        if self.search and rest:
            yield from look(rest, self.search)

    def _take(self, seen: Look, chunk: FacesInMemory) -> None:
        if self.treatment == "auto" and not seen.source.video and seen.size and is_face_already(seen.size, seen.faces):
            self.as_they_are.add(seen.source.name)
        if seen.source.name in self.as_they_are:
            seen = replace(seen, faces=(), note="")
            try:
                chunk.contents[seen.source.name] = seen.source.path.read_bytes()
                chunk.keys.append(seen.source.name)
            except OSError as error:
                seen = replace(seen, note=f"unreadable file ({error.strerror})")
                self.as_they_are.discard(seen.source.name)
        for place, face in enumerate(seen.faces):
            key = face_key(seen, place, self.settings)
            chunk.keys.append(key)
            chunk.contents[key] = face.content
        self.looks.append(replace(seen, faces=tuple(replace(face, content=b"") for face in seen.faces)))

    def table(self) -> Manifest:
        """The manifest of what was seen, as `crop` writes it; pictures taken as they are stand under their own name."""
        line = self.settings.line(self.search.model.sha256) if self.search else ""
        return table(self.looks, self.settings, line, self.as_they_are)

    def account(self) -> str:
        """How many pictures were faces already, how many were cropped, and what the videos held."""
        pictures = [seen for seen in self.looks if not seen.source.video]
        cropped = [seen for seen in pictures if seen.faces]
        empty = [seen for seen in pictures if not seen.faces and seen.source.name not in self.as_they_are]
        frames = [seen for seen in self.looks if seen.frame is not None]
        parts = []
        if pictures:
            parts.append(f"{len(pictures):,} pictures: {len(self.as_they_are):,} taken as they are, "
                         f"{len(cropped):,} cropped to {sum(len(seen.faces) for seen in cropped):,} faces, "
                         f"{len(empty):,} without a face")
        if frames:
            parts.append(f"{len(frames):,} frames of {len({seen.source.name for seen in frames}):,} videos: "
                         f"{sum(len(seen.faces) for seen in frames):,} faces, "
                         f"{sum(not seen.faces for seen in frames):,} frames without one")
        return "; ".join(parts)

    @property
    def faults(self) -> list[str]:
        """What could not be read, or not to its end, a sentence each."""
        return [f"{seen.source.name}: {seen.note}" for seen in self.looks
                if seen.last and seen.note not in ("", NO_FACE)]


def is_face_already(size: tuple[int, int], faces: Sequence[Face]) -> bool:
    """Whether a picture of this width and height is a face already: one of its faces, the largest first, fills it, or
    none could be found in a very small one."""
    width, height = size
    if width * height > FACE_LIMITS.pixels:
        return False
    if not faces:
        return max(width, height) <= SMALL
    box = faces[0].detection.box
    return box[2] >= FILLED[0] * width and box[3] >= FILLED[1] * height


def open_footage(sources: Sequence[Source], lines: Sequence[str], *, detector: Path | None, sampling: Sampling,
                 treatment: Treatment) -> Footage:
    """Sources to be cropped as the faces were that have these lines of crop settings.

    detector: its weights file, None to look for it. Raises InputError where one is needed and not to be had; where it
    would only help, a warning says what the answers are worth without it.
    """
    videos = any(source.video for source in sources)
    if treatment == "cropped" and not videos:
        return Footage(sources, None, treatment)
    try:
        search = open_search(lines, detector=detector, sampling=sampling)
    except InputError as error:
        if detector or treatment == "detect" or videos:
            raise
        log.warning("warning: all pictures are taken for faces as they are; the answer for an uncropped one is worth "
                    "nothing (%s)", error)
        return Footage(sources, None, treatment)
    return Footage(sources, search, treatment)


def open_search(lines: Sequence[str], *, detector: Path | None, sampling: Sampling) -> Search:
    """The detector, and settings that cut faces as those were that have these lines of crop settings.

    A warning says where that is not quite so. Raises InputError where no detector is to be had.
    """
    model, settings = open_yunet(find_detector(detector)), CropSettings()
    if lines:
        settings, digest = read_line(lines[0])
        if len(lines) > 1:
            log.warning("warning: the run's faces were cropped in %d ways; these as the most of them: %s", len(lines),
                        lines[0])
        if digest != model.sha256[:16]:
            log.warning("warning: the run's faces were found by another detector (%s, here %s)", digest,
                        model.sha256[:16])
    return Search(model, settings, sampling)
