"""Photographs and videos to aligned faces without a file in between: the input of `predict` and `serve`."""

import logging
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from twofold.data.faces.align import template
from twofold.data.faces.detect import DetectionConfig, Face, FrameDetections, crop_faces, detect_faces, faces_manifest
from twofold.data.faces.detectors import Detector, open_detector
from twofold.data.faces.identity import IdentityModel
from twofold.data.faces.settings import UNDETECTED, CropSettings, Sampling, parse_crop_line
from twofold.data.faces.sources import Source
from twofold.data.images.decode import FACE_LIMITS, PHOTO_LIMITS, REMARKS, ImageError, Limits, decode
from twofold.data.manifest import Manifest
from twofold.data.utils.errors import InputError
from twofold.data.utils.keys import NO_FACE, NO_FACE_SUFFIX

log = logging.getLogger(__name__)

Treatment = Literal["auto", "detect", "cropped"]
SampleKind = Literal["crops", "whole", "mixed"]  #: how the samples of a run were made: by `crop`, not at all, or both
TAKEN_BECAUSE: dict[SampleKind, str] = {
    "crops": "crops of this kind already", "whole": "as the run's samples were: --detect crops their faces instead",
    "mixed": "guessed from how much a face fills them: --cropped or --detect decides"}

CHUNK = 512  #: faces that are passed on together
PREFETCHED = 2  #: chunks that are ready or in work while another is used
STOP_SECONDS = 0.5  #: between looks whether to stop
MIN_FACE_SHARE = (0.5, 0.6)  #: of an image's width and height: a larger box marks the image as a face already
MAX_CROP_SIDE = 128  #: pixels: a smaller image in which no face is found is taken for a tight crop of one
MAX_LANDMARK_SHIFT = 0.12  #: of a crop's side: mean distance of its landmarks from the template
GROUP_SHARE, MIN_PORTRAIT_SHARE = 0.75, 0.15  #: of the largest face's height the second one's; of the image's a face's


@dataclass(frozen=True)
class FacesInMemory:
    """Faces in order, keys without a face among them: an `ImageSource` that reads no file."""

    keys: list[str]
    contents: dict[str, bytes]
    limits: Limits = FACE_LIMITS

    def read(self, key: str) -> bytes:
        """The bytes of the image file of `key`. Raises ImageError where there is none."""
        if key.endswith(NO_FACE_SUFFIX):
            raise ImageError(NO_FACE)
        return self.contents[key]


@dataclass
class FaceStream:
    """The faces of sources, detected while they are used. `chunks` runs once; the rest reports on what it yielded.
    config: None without a detector: every photograph is taken for a face. treatment: `auto` takes or crops it as the
    samples of the run were, `detect` crops every photograph, `cropped` none (videos are always cropped)."""

    sources: Sequence[Source]
    config: DetectionConfig | None
    treatment: Treatment = "auto"
    samples: SampleKind = "mixed"
    detections: list[FrameDetections] = field(default_factory=list)  #: in order, without the images
    uncropped: set[str] = field(default_factory=set)  #: names of photographs that are faces already

    def __post_init__(self) -> None:
        self.settings = self.config.settings if self.config else CropSettings()
        videos = [source.name for source in self.sources if source.video]
        if self.config is None and videos:
            raise InputError(f"{videos[0]} is a video, whose faces only a detector finds: see `weights ls`, or give "
                             "--detector PATH")

    @property
    def looks_at_photographs(self) -> bool:
        """Whether photographs are decoded here, to detect faces in them."""
        return self.config is not None and self.treatment != "cropped"

    def chunks(self, stopped: Callable[[], bool] = lambda: False) -> Iterator[FacesInMemory]:
        """All faces, a bounded number at a time; the next ones are detected in a thread while some are used. Ends early
        where `stopped` says so, and then does not wait for that thread, which may decode a picture for a minute."""
        chunks, end = self._chunks(stopped), FacesInMemory([], {})
        pool = ThreadPoolExecutor(1, "decode ahead")
        waiting = deque(pool.submit(next, chunks, end) for _ in range(PREFETCHED))
        try:
            while not stopped():
                if not wait([waiting[0]], timeout=STOP_SECONDS).done:
                    continue
                if (chunk := waiting.popleft().result()) is end:
                    break
                waiting.append(pool.submit(next, chunks, end))
                yield chunk
        finally:
            pool.shutdown(wait=not stopped(), cancel_futures=True)

    def _chunks(self, stopped: Callable[[], bool]) -> Generator[FacesInMemory]:
        """Photographs that are taken for faces come first, without detection, the others in their order."""
        whole = [] if self.looks_at_photographs else [source for source in self.sources if not source.video]
        self.uncropped.update(source.name for source in whole)
        entries: Iterable[FrameDetections] = (FrameDetections(source, None, None, (), last=True) for source in whole)
        if self.config and len(whole) < len(self.sources):
            rest = [source for source in self.sources if source.name not in self.uncropped]
            entries = chain(entries, detect_faces(rest, self.config))
        chunk = FacesInMemory([], {})
        for entry in tqdm(entries, unit="frame", desc="frames", dynamic_ncols=True, disable=None):
            if stopped():
                return
            name = entry.source.name
            if (self.treatment == "auto" and not entry.source.video and entry.size
                    and is_taken_whole(entry.size, entry.faces, self.samples, self.settings)):
                self.uncropped.add(name)
            faces = {entry.face_key(number, self.settings): face.content for number, face in enumerate(entry.faces)}
            entry = replace(entry, faces=tuple(replace(face, content=b"") for face in entry.faces))
            if name in self.uncropped:
                try:
                    entry, faces = replace(entry, faces=(), note=""), {name: entry.source.read()}
                except ImageError as error:
                    entry, faces = replace(entry, faces=(), note=str(error)), {}
                    self.uncropped.discard(name)
            self.detections.append(entry)
            chunk.keys.extend(faces)
            chunk.contents.update(faces)
            if len(chunk.keys) >= CHUNK:
                yield chunk
                chunk = FacesInMemory([], {})
        if chunk.keys:
            yield chunk

    def manifest(self) -> Manifest:
        """The manifest, as `crop` writes it; photographs that are not cropped stand under their own name."""
        line = self.settings.to_line(self.config.model.sha256) if self.config else ""
        return faces_manifest(self.detections, self.settings, line, self.uncropped,
                              identity=self.config.identity if self.config else None)

    def summary(self) -> str:
        """How many photographs were faces already, how many were cropped, and what the videos held."""
        photos = [entry for entry in self.detections if not entry.source.video]
        frames = [entry for entry in self.detections if entry.frame is not None]
        parts = []
        if photos:
            cropped, whole = [entry for entry in photos if entry.faces], len(self.uncropped)
            reason = f" ({TAKEN_BECAUSE[self.samples]})" if whole and self.treatment == "auto" else ""
            parts.append(f"{len(photos):,} pictures: {whole:,} taken as they are{reason}, {len(cropped):,} cropped to "
                         f"{sum(len(entry.faces) for entry in cropped):,} faces, "
                         f"{len(photos) - len(cropped) - whole:,} without a face")
        if frames:
            parts.append(f"{len(frames):,} frames of {len({entry.source.name for entry in frames}):,} videos: "
                         f"{sum(len(entry.faces) for entry in frames):,} faces, "
                         f"{sum(not entry.faces for entry in frames):,} frames without one")
        return "; ".join(parts)

    @property
    def faults(self) -> list[str]:
        """What could not be read, or not to its end, a sentence each."""
        return [f"{entry.source.name}: {entry.note}" for entry in self.detections
                if entry.last and entry.note not in ("", NO_FACE)]


def sample_kind(lines: Sequence[str] | None) -> SampleKind:
    """How the samples of a run were made that has these lines of crop settings (an empty one: samples without; None:
    nobody knows)."""
    return "mixed" if lines is None else "whole" if not any(lines) else "crops" if all(lines) else "mixed"


def is_taken_whole(size: tuple[int, int], faces: Sequence[Face], samples: SampleKind, settings: CropSettings) -> bool:
    """Whether an image of this width and height is taken as it is and not cropped. faces: in it, the largest first.
    samples `crops`: if it is such a crop itself; `whole`: unless it shows a group or a face far away, which no sample
    of one face does; `mixed`: by a guess, if its face fills it, or it is very small and no face was found."""
    width, height = size
    if width * height > FACE_LIMITS.pixels:
        return False
    box = faces[0].detection.box if faces else (0, 0, 0, 0)
    if samples == "whole":
        return not faces or (box[3] >= MIN_PORTRAIT_SHARE * height and (
            len(faces) == 1 or faces[1].detection.box[3] < GROUP_SHARE * box[3]))
    if samples == "crops":
        shift = np.array(faces[0].detection.landmarks) - template(settings) if faces else np.zeros((5, 2))
        return size == (settings.size, settings.size) and bool(
            np.linalg.norm(shift, axis=1).mean() <= MAX_LANDMARK_SHIFT * settings.size)
    if not faces:
        return max(width, height) <= MAX_CROP_SIDE
    return box[2] >= MIN_FACE_SHARE[0] * width and box[3] >= MIN_FACE_SHARE[1] * height


def open_face_stream(sources: Sequence[Source], lines: Sequence[str] | None, *, detector: Path | None,
                     sampling: Sampling, treatment: Treatment, detect_every: int = 0,
                     identity: IdentityModel | None = None) -> FaceStream:
    """Sources to be cropped as the faces were that have these lines of crop settings. detector: its weights file, None
    to search for it; detect_every: 0 for as those; identity: tells people apart. Raises InputError where a detector is
    needed and missing."""
    videos, samples, config = any(source.video for source in sources), sample_kind(lines), None
    try:
        if treatment != "cropped" or videos:
            config = open_detection(lines or (), detector=detector, sampling=sampling)
    except InputError as error:
        if detector or treatment == "detect" or videos:
            raise
        if samples != "whole":
            raise InputError(f"{error}; or say with --cropped that every picture is a face already") from None
    if config:
        config = replace(config, identity=identity, settings=replace(
            config.settings, detect_every=detect_every or config.settings.detect_every))
    return FaceStream(sources, config, treatment, samples)


def open_detection(lines: Sequence[str], *, detector: Path | None, sampling: Sampling) -> DetectionConfig:
    """The detector, and settings that crop faces as those were that have these lines of crop settings. A warning says
    where that is not quite so. Raises InputError without a detector."""
    model, settings, lines = open_detector(detector), CropSettings(), list(filter(None, lines))
    if lines:
        settings, digest = parse_crop_line(lines[0])
        if len(lines) > 1:
            log.warning("warning: the run's faces were cropped in %d ways; these as the most of them: %s", len(lines),
                        lines[0])
        if digest not in (UNDETECTED, model.sha256[:16]):
            log.warning("warning: the run's faces were found by another detector (%s, here %s)", digest,
                        model.sha256[:16])
    return DetectionConfig(model, settings, sampling)


@dataclass(frozen=True)
class PictureFace:
    """One face. box: x, y, width, height in pixels of the upright image; content: the bytes of its image file;
    detection: the detector's score, 0 to 1, or None without detection."""

    box: tuple[float, float, float, float]
    content: bytes
    detection: float | None


@dataclass(frozen=True)
class Picture:
    """An image and its faces, the largest first. left_out: smaller faces, beyond the number asked for; remarks: of the
    decoder (see `decode`)."""

    width: int
    height: int
    faces: tuple[PictureFace, ...]
    left_out: int = 0
    remarks: Counter[str] = field(default_factory=Counter)


class FaceFinder:
    """Finds the faces of one image at a time. config: None takes every image for one face as it is; samples: how those
    of the run were made."""

    def __init__(self, config: DetectionConfig | None, samples: SampleKind = "mixed"):
        self._samples: SampleKind = samples
        self._settings = config.settings if config else CropSettings()
        self._detector: Detector | None = config.model.create(config.settings) if config else None

    def find(self, content: bytes, *, most: int) -> Picture:
        """The image in these bytes of an image file, and its `most` largest faces; a face crop is taken as it is.
        Raises ImageError for one that cannot be read or is too large, which its header says before it is decoded."""
        image = decode(content, PHOTO_LIMITS if self._detector else FACE_LIMITS)
        (width, height), remarks = image.size, image.info[REMARKS]
        box, score = (0.0, 0.0, float(width), float(height)), None
        if self._detector is not None:
            faces, left_out = crop_faces(image, self._detector, self._settings, most=most)
            if not is_taken_whole((width, height), faces, self._samples, self._settings):
                return Picture(width, height, tuple(PictureFace(face.detection.box, face.content, face.detection.score)
                                                    for face in faces), left_out, remarks)
            if faces:
                box, score = faces[0].detection.box, faces[0].detection.score
        return Picture(width, height, (PictureFace(box, content, score),), remarks=remarks)
