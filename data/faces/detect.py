"""Photographs and videos to aligned faces in memory, in threads, results in order; and to the rows of a manifest."""

import logging
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from threading import local

import numpy as np
import pandas as pd
from PIL import Image

from twofold.data.faces.align import crop_face, encode
from twofold.data.faces.detectors import Detection, Detector, DetectorModel
from twofold.data.faces.follow import Follower
from twofold.data.faces.identity import PORTRAIT, PORTRAIT_POINTS, CutFinder, Gallery, IdentityModel, Tracker
from twofold.data.faces.settings import CropSettings, Sampling
from twofold.data.faces.sources import Source
from twofold.data.faces.video import Frame, VideoError, VideoReader
from twofold.data.images.decode import REMARKS, ImageError, decode, remark_lines
from twofold.data.manifest import Manifest, build_manifest
from twofold.data.utils.keys import NO_FACE, NO_FACE_SUFFIX
from twofold.data.utils.machine import usable_cores

log = logging.getLogger(__name__)

IMAGES = "images"  #: the folder of crops
COLUMNS = ("key", "group", "source", "frame", "time", "picture", "box", "landmarks", "score", "track",
           "person", "sharpness", "scale", "padded", "crop", "note")
MAX_QUEUED_BYTES = 256 << 20  #: of frames that are decoded and wait for the detector
MAX_GROUP_BYTES = 64 << 20  #: of frames that are followed from one detection: of 8K, fewer than asked for


@dataclass(frozen=True)
class Face:
    """An aligned face. content: the bytes of its image file; the rest as in `Detection` and `Crop`; portrait: what
    tells who it is, (112, 112, 3) RGB, until its track is known."""

    detection: Detection
    content: bytes
    scale: float
    padded: float
    sharpness: float
    track: int = 0
    portrait: np.ndarray | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class FrameDetections:
    """A photograph, or a frame of a video, and its faces, the largest first. frame and time (seconds) are None for a
    photograph and for the entry that ends a video, which has no faces; note: why there are no faces, or what ended the
    video early; last: the source ends here; cut: another shot begins here; persons, with an identity model, in the
    entry that is the last: the person of each track (photograph: of each face)."""

    source: Source
    frame: int | None
    time: float | None
    faces: tuple[Face, ...]
    note: str = ""
    last: bool = False
    size: tuple[int, int] | None = None  #: width and height of the image, upright
    cut: bool = False
    persons: Mapping[int, int] = field(default_factory=dict)
    sums: Mapping[int, np.ndarray] = field(default_factory=dict)  #: of the embeddings of each person in this source

    def face_key(self, number: int, settings: CropSettings) -> str:
        """`images/clip.mp4/t0-000012.png` (track 0, frame 12), `images/photo.jpg.0.png`: the number-th face."""
        if self.frame is None:
            return f"{IMAGES}/{self.source.name}.{number}{settings.suffix}"
        return f"{IMAGES}/{self.source.name}/t{self.faces[number].track}-{self.frame:06d}{settings.suffix}"


Previous = Mapping[int, Callable[[], FrameDetections]]  #: frames of a source that are done: how to read them


@dataclass(frozen=True)
class DetectionConfig:
    """How to detect and crop. workers: threads, 0 for one a core; identity: tells people apart, None for tracks by
    overlap alone."""

    model: DetectorModel
    settings: CropSettings
    sampling: Sampling
    workers: int = 0
    identity: IdentityModel | None = None

    @property
    def compares_frames(self) -> bool:
        """Whether frames are compared with those before them."""
        return self.identity is not None or self.settings.detect_every > 1


def detect_faces(sources: Sequence[Source], config: DetectionConfig,
                 previous: Mapping[str, Previous] | None = None,
                 reader: VideoReader | None = None, gallery: Gallery | None = None) -> Generator[FrameDetections]:
    """Detect and crop the faces of the sources, in order, frame by frame; every source ends with an entry that is its
    `last`. Holds a bounded number of images, however long a video is. previous: results of an earlier run by source and
    frame, which are repeated without detection; gallery: persons of other sources of the session. A source that cannot
    be read is one entry with a note."""
    people, workers = _People(config.identity, gallery or Gallery()), config.workers or usable_cores()
    remarks: list[Counter[str]] = []
    waiting: deque[tuple[Future[list[FrameDetections]], int]] = deque()

    def next_entries() -> Iterator[FrameDetections]:
        return map(people.identify, waiting.popleft()[0].result())

    pool = ThreadPoolExecutor(workers, "decode")
    with reader or VideoReader(workers) as videos:
        try:
            for task, size in _tasks(sources, config, previous or {}, videos, remarks):
                waiting.append((pool.submit(task), size))
                while len(waiting) > 16 * workers or (
                        len(waiting) > workers and sum(held for _, held in waiting) > MAX_QUEUED_BYTES):
                    yield from next_entries()
            while waiting:
                yield from next_entries()
        finally:  # whoever stops it does not wait for a picture that takes a minute
            pool.shutdown(wait=False, cancel_futures=True)
            for line in remark_lines(sum(remarks, videos.remarks)):
                log.warning("warning: %s", line)


class _People:
    """Numbers the tracks of each source, frame by frame, and its persons where it ends."""

    def __init__(self, model: IdentityModel | None, gallery: Gallery):
        self.model, self.gallery, self.tracker = model, gallery, Tracker(model)

    def identify(self, entry: FrameDetections) -> FrameDetections:
        if entry.frame is not None or (self.model and self.model.session and entry.faces):
            portraits = [face.portrait for face in entry.faces if face.portrait is not None]
            tracks = self.tracker.update([face.detection for face in entry.faces], entry.time or 0.0,
                                         portraits=portraits, cut=entry.cut)
            entry = replace(entry, faces=tuple(replace(face, track=track, portrait=None)
                                               for face, track in zip(entry.faces, tracks, strict=True)))
        if not entry.last:
            return entry
        tracker, self.tracker = self.tracker, Tracker(self.model)
        if not self.model:
            return entry
        persons = self.gallery.persons(tracker.sums, tracker.together, self.model.threshold)
        sums = {person: np.sum([tracker.sums[track] for track in persons if persons[track] == person], axis=0)
                for person in sorted(set(persons.values()))}
        if self.model.session:
            self.gallery.add(sums)
        return replace(entry, persons=persons, sums=sums if self.model.session else {},
                       faces=tuple(replace(face, portrait=None) for face in entry.faces))


def _tasks(sources: Sequence[Source], config: DetectionConfig, previous: Mapping[str, Previous],
           reader: VideoReader, remarks: list[Counter[str]]
           ) -> Iterator[tuple[Callable[[], list[FrameDetections]], int]]:
    """One task for each photograph and each group of frames, the first of which is shown to the detector, and about how
    many bytes it holds until it is done. remarks: gets those of the decoder."""
    detectors, settings = local(), config.settings

    def detector() -> Detector:
        if not hasattr(detectors, "own"):  # one for each thread
            detectors.own = config.model.create(settings)
        return detectors.own

    def detect(source: Source) -> list[FrameDetections]:
        try:
            image = decode(source.read())
        except ImageError as error:
            return [FrameDetections(source, None, None, (), str(error), last=True)]
        remarks.append(image.info[REMARKS])
        pixels = np.ascontiguousarray(np.asarray(image)[..., ::-1])
        identity = config.identity if config.identity and config.identity.session else None
        faces = cut_out(pixels, detector().detect(pixels), settings, identity)
        return [FrameDetections(source, None, None, faces, "" if faces else NO_FACE, True, image.size)]

    def detect_group(source: Source, group: Sequence[tuple[Frame, bool]], done: Previous
                     ) -> list[FrameDetections]:
        entries, follower = list[FrameDetections](), None
        repeated = all(frame.index in done for frame, _ in group)
        for frame, cut in group:
            if repeated:
                entry = done[frame.index]()
                faces = tuple(replace(face, portrait=portrait(frame.pixels, face.detection))
                              for face in entry.faces) if config.identity else entry.faces
            else:
                detections = follower.follow(frame.pixels) if follower else None
                if detections is None:
                    detections = detector().detect(frame.pixels)
                    follower = Follower(frame.pixels, detections) if len(group) > 1 else None
                faces = cut_out(frame.pixels, detections, settings, config.identity)
                entry = FrameDetections(source, frame.index, round(frame.time, 6), faces, "" if faces else NO_FACE,
                                        size=(frame.pixels.shape[1], frame.pixels.shape[0]))
            entries.append(replace(entry, faces=faces, cut=cut))
        return entries

    for source in sources:
        if not source.video:
            yield partial(detect, source), 0
            continue
        note, done = "", previous.get(source.name, {})
        group, cuts = list[tuple[Frame, bool]](), CutFinder() if config.compares_frames else None
        try:
            for frame in reader.frames(source.path, config.sampling, skip=() if cuts else done):
                cut = cuts.update(frame.pixels) if cuts else False
                size = sum(each.pixels.nbytes for each, _ in group)
                if group and (cut or len(group) >= settings.detect_every or size >= MAX_GROUP_BYTES):
                    yield partial(detect_group, source, group, done), size
                    group = []
                group.append((frame, cut))
        except VideoError as error:
            note = str(error)
        if group:
            yield partial(detect_group, source, group, done), sum(each.pixels.nbytes for each, _ in group)
        yield partial(list, (FrameDetections(source, None, None, (), note, last=True),)), 0


def portrait(pixels: np.ndarray, face: Detection) -> np.ndarray:
    """(112, 112, 3) RGB of a face in an (H, W, 3) BGR image, for an `IdentityModel`."""
    crop = crop_face(pixels, face, CropSettings(size=PORTRAIT), np.array(PORTRAIT_POINTS))
    return np.ascontiguousarray(crop.image[..., ::-1])


def cut_out(pixels: np.ndarray, detections: Sequence[Detection], settings: CropSettings,
            identity: IdentityModel | None = None) -> tuple[Face, ...]:
    """The faces of an (H, W, 3) BGR image, aligned and encoded; with portraits for an identity model."""
    crops = [crop_face(pixels, detection, settings) for detection in detections]
    return tuple(Face(detection, encode(crop, settings), round(crop.scale, 3), round(crop.padded, 3),
                      round(crop.sharpness, 1), portrait=portrait(pixels, detection) if identity else None)
                 for detection, crop in zip(detections, crops, strict=True))


def crop_faces(image: Image.Image | np.ndarray, detector: Detector, settings: CropSettings, *, most: int | None = None
               ) -> tuple[tuple[Face, ...], int]:
    """The `most` largest faces of an RGB image, or an array (H, W, 3) in BGR, and how many smaller ones it has."""
    pixels = np.ascontiguousarray(np.asarray(image)[..., ::-1]) if isinstance(image, Image.Image) else image
    detections = detector.detect(pixels)
    faces = cut_out(pixels, detections[:most], settings)
    return faces, len(detections) - len(faces)


def faces_manifest(detections: Sequence[FrameDetections], settings: CropSettings, line: str,
                   uncropped: Set[str] = frozenset(), *, identity: IdentityModel | None = None) -> Manifest:
    """The manifest of `face_rows`, sources sorted by name."""
    ends = {entry.source.name: entry for entry in detections if entry.last and entry.source.video}
    rows = list(face_rows(detections, ends, settings, line, uncropped, identity=identity))
    rows.sort(key=lambda row: row["source"])  # stable: frames stay in order
    names = manifest_columns((name for row in rows for name in row), identity)
    return rows_manifest(rows, names)


def manifest_columns(labels: Iterable[str], identity: IdentityModel | None) -> list[str]:
    """Those of a manifest of faces whose sources have these labels."""
    return [name for name in dict.fromkeys([*COLUMNS, *labels]) if identity or name != "person"]


def rows_manifest(rows: Sequence[Mapping[str, str]], names: list[str]) -> Manifest:
    """A checked manifest of rows, empty where they lack a column."""
    cells = [[row.get(name, "") for name in names] for row in rows]
    return build_manifest(pd.DataFrame(cells, columns=names), source="faces.csv")


def face_rows(detections: Iterable[FrameDetections], ends: Mapping[str, FrameDetections], settings: CropSettings,
              line: str, uncropped: Set[str] = frozenset(), *, identity: IdentityModel | None = None,
              by_person: bool = False) -> Iterator[dict[str, str]]:
    """A row a face, or one without an image, whose key says so. What ended a video early is the note of its last row.
    ends: of each video, the entry that is its last; line: of the column `crop`; uncropped: names of photographs that
    are faces already: a row each, whose key is the name; identity: told the persons apart, for the column `person`;
    by_person: the group is the person, where known, and not the source."""
    last: dict[str, str] = {}
    for entry in detections:
        name, frame, note = entry.source.name, entry.frame, entry.note
        ends_video = entry.last and entry.source.video
        if ends_video and last and last["source"] == name:
            last["note"] = "; ".join(filter(None, (last["note"], note and f"the video {note}")))
            continue
        row = dict(entry.source.labels) | {"key": name, "group": name, "source": name}
        rows = [row]
        if name not in uncropped:
            row |= {"crop": line, "note": note or "no frame" if ends_video else note,
                    "picture": " ".join(map(str, entry.size or ())), "frame": "" if frame is None else str(frame),
                    "time": "" if entry.time is None else f"{entry.time:.6f}".rstrip("0").rstrip(".")}
            rows = [row | {
                "key": entry.face_key(number, settings), "box": " ".join(f"{value:g}" for value in face.detection.box),
                "landmarks": " ".join(f"{value:g}" for point in face.detection.landmarks for value in point),
                "score": f"{face.detection.score:g}", "track": "" if frame is None else str(face.track),
                "sharpness": f"{face.sharpness:g}", "scale": f"{face.scale:g}", "padded": f"{face.padded:g}"}
                | _person(entry if frame is None else ends.get(name), face.track, identity, by_person)
                for number, face in enumerate(entry.faces)] or [row | {
                    "key": f"{IMAGES}/{name if frame is None else f'{name}/{frame:06d}'}{NO_FACE_SUFFIX}"}]
        for row in rows:
            if last:
                yield last
            last = row
    if last:
        yield last


def _person(end: FrameDetections | None, track: int, identity: IdentityModel | None, by_person: bool
            ) -> dict[str, str]:
    """The columns of a face of a track whose source ends so."""
    person = end.persons.get(track) if end else None
    if person is None or not identity or not end:
        return {}
    group = f"person {person}" if identity.session else f"{end.source.name}, person {person}"
    return {"person": str(person)} | ({"group": group} if by_person else {})
