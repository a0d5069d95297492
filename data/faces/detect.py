"""Photographs and videos to aligned faces in memory, in threads, results in order; and to the rows of a manifest."""

import logging
import math
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
from twofold.data.faces.detectors import Detection, Detector, DetectorModel, iou
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
           "sharpness", "scale", "padded", "crop", "note")
MAX_QUEUED_BYTES = 256 << 20  #: of frames that are decoded and wait for the detector
MIN_IOU = 0.3  #: of a face's boxes in consecutive frames
MAX_GAP = 1.0  #: seconds after which a lost face does not continue its track
MAX_DISTANCE = 1.0  #: between a lost face and the one that continues its track, in widths of the face
MAX_RATIO = 1.6  #: of their sizes


@dataclass(frozen=True)
class Face:
    """An aligned face. content: the bytes of its image file; the rest as in `Detection` and `Crop`."""

    detection: Detection
    content: bytes
    scale: float
    padded: float
    sharpness: float
    track: int = 0


@dataclass(frozen=True)
class FrameDetections:
    """A photograph, or a frame of a video, and its faces, the largest first. frame and time (seconds) are None for a
    photograph and for the entry that ends a video, which has no faces; note: why there are no faces, or what ended the
    video early; last: the source ends here."""

    source: Source
    frame: int | None
    time: float | None
    faces: tuple[Face, ...]
    note: str = ""
    last: bool = False
    size: tuple[int, int] | None = None  #: width and height of the image, upright

    def face_key(self, number: int, settings: CropSettings) -> str:
        """`images/clip.mp4/t0-000012.png` (track 0, frame 12), `images/photo.jpg.0.png`: the number-th face."""
        if self.frame is None:
            return f"{IMAGES}/{self.source.name}.{number}{settings.suffix}"
        return f"{IMAGES}/{self.source.name}/t{self.faces[number].track}-{self.frame:06d}{settings.suffix}"


@dataclass(frozen=True)
class DetectionConfig:
    """How to detect and crop. workers: threads, 0 for one a core."""

    model: DetectorModel
    settings: CropSettings
    sampling: Sampling
    workers: int = 0


def detect_faces(sources: Sequence[Source], config: DetectionConfig,
                 previous: Mapping[tuple[str, int], FrameDetections] | None = None,
                 reader: VideoReader | None = None) -> Generator[FrameDetections]:
    """Detect and crop the faces of the sources, in order, frame by frame; every source ends with an entry that is its
    `last`. Holds a bounded number of images, however long a video is. previous: results of an earlier run by source and
    frame, which are repeated without detection. A source that cannot be read is one entry with a note."""
    tracker, workers = Tracker(), config.workers or usable_cores()
    remarks: list[Counter[str]] = []
    waiting: deque[tuple[Future[FrameDetections], int]] = deque()

    def next_entry() -> FrameDetections:
        nonlocal tracker
        entry = waiting.popleft()[0].result()
        if entry.frame is None:
            tracker = Tracker()
            return entry
        tracks = tracker.update([face.detection for face in entry.faces], entry.time or 0.0)
        return replace(entry, faces=tuple(replace(face, track=track)
                                          for face, track in zip(entry.faces, tracks, strict=True)))

    pool = ThreadPoolExecutor(workers, "decode")
    with reader or VideoReader() as videos:
        try:
            for task, size in _tasks(sources, config, previous or {}, videos, remarks):
                waiting.append((pool.submit(task), size))
                while len(waiting) > 16 * workers or (
                        len(waiting) > workers and sum(held for _, held in waiting) > MAX_QUEUED_BYTES):
                    yield next_entry()
            while waiting:
                yield next_entry()
        finally:  # whoever stops it does not wait for a picture that takes a minute
            pool.shutdown(wait=False, cancel_futures=True)
            for line in remark_lines(sum(remarks, videos.remarks)):
                log.warning("warning: %s", line)


def _tasks(sources: Sequence[Source], config: DetectionConfig, previous: Mapping[tuple[str, int], FrameDetections],
           reader: VideoReader, remarks: list[Counter[str]]) -> Iterator[tuple[Callable[[], FrameDetections], int]]:
    """One task for each photograph and frame, and about how many bytes it holds until it is done. remarks: gets those
    of the decoder."""
    detectors = local()

    def detect(source: Source, frame: Frame | None = None) -> FrameDetections:
        if not hasattr(detectors, "own"):  # one for each thread
            detectors.own = config.model.create(config.settings)
        try:
            image = frame.pixels if frame else decode(source.read())
        except ImageError as error:
            return FrameDetections(source, None, None, (), str(error), last=True)
        if isinstance(image, Image.Image):
            remarks.append(image.info[REMARKS])
        faces, _ = crop_faces(image, detectors.own, config.settings)
        width, height = image.size if isinstance(image, Image.Image) else image.shape[1::-1]
        index, seconds = (frame.index, round(frame.time, 6)) if frame else (None, None)
        return FrameDetections(source, index, seconds, faces, "" if faces else NO_FACE, not frame, (width, height))

    for source in sources:
        if not source.video:
            yield partial(detect, source), 0
            continue
        note, done = "", {index: entry for (name, index), entry in previous.items() if name == source.name}
        try:
            for frame in reader.frames(source.path, config.sampling, skip=done):
                if frame.index in done:
                    yield partial(done.__getitem__, frame.index), 0
                else:
                    yield partial(detect, source, frame), frame.pixels.nbytes
        except VideoError as error:
            note = str(error)
        yield partial(FrameDetections, source, None, None, (), note, last=True), 0


def crop_faces(image: Image.Image | np.ndarray, detector: Detector, settings: CropSettings, *, most: int | None = None
               ) -> tuple[tuple[Face, ...], int]:
    """The `most` largest faces of an RGB image, or an array (H, W, 3) in BGR, and how many smaller ones it has."""
    pixels = np.ascontiguousarray(np.asarray(image)[..., ::-1]) if isinstance(image, Image.Image) else image
    detections = detector.detect(pixels)
    faces = []
    for detection in detections[:most]:
        crop = crop_face(pixels, detection, settings)
        faces.append(Face(detection, encode(crop, settings), round(crop.scale, 3), round(crop.padded, 3),
                          round(crop.sharpness, 1)))
    return tuple(faces), len(detections) - len(faces)


def faces_manifest(detections: Iterable[FrameDetections], settings: CropSettings, line: str,
                   uncropped: Set[str] = frozenset()) -> Manifest:
    """A row a face, or one without an image, whose key says so; sources sorted by name. What ended a video early is the
    note of its last row. line: of the column `crop`; uncropped: names of photographs that are faces already: a row
    each, whose key is the name."""
    rows: list[dict[str, str]] = []
    for entry in detections:
        name, frame, note = entry.source.name, entry.frame, entry.note
        ends_video = entry.last and entry.source.video
        if ends_video and rows and rows[-1]["source"] == name:
            rows[-1]["note"] = "; ".join(filter(None, (rows[-1]["note"], note and f"the video {note}")))
            continue
        row = dict(entry.source.labels) | {"key": name, "group": name, "source": name}
        if name in uncropped:
            rows.append(row)
            continue
        row |= {"crop": line, "note": note or "no frame" if ends_video else note,
                "picture": " ".join(map(str, entry.size or ())), "frame": "" if frame is None else str(frame),
                "time": "" if entry.time is None else f"{entry.time:.6f}".rstrip("0").rstrip(".")}
        if not entry.faces:
            rows.append(row | {"key": f"{IMAGES}/{name if frame is None else f'{name}/{frame:06d}'}{NO_FACE_SUFFIX}"})
        for number, face in enumerate(entry.faces):
            rows.append(row | {
                "key": entry.face_key(number, settings), "box": " ".join(f"{value:g}" for value in face.detection.box),
                "landmarks": " ".join(f"{value:g}" for point in face.detection.landmarks for value in point),
                "score": f"{face.detection.score:g}", "track": "" if frame is None else str(face.track),
                "sharpness": f"{face.sharpness:g}", "scale": f"{face.scale:g}", "padded": f"{face.padded:g}"})
    rows.sort(key=lambda row: row["source"])  # stable: frames stay in order
    names = list(dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)]))
    cells = [[row.get(name, "") for name in names] for row in rows]
    return build_manifest(pd.DataFrame(cells, columns=names), source="faces.csv")


@dataclass
class Track:
    """The last detection of a track. frame: its number among the frames used."""

    number: int
    box: tuple[float, ...]
    time: float
    frame: int


@dataclass
class Tracker:
    """Assigns a track number, from 0, to each face of each frame, in order of time. The largest overlaps are matched
    first, so that people side by side keep their tracks. A face without overlap may continue a nearby track that was
    lost at most `MAX_GAP` ago (or in the previous frame, where few frames are used)."""

    tracks: list[Track] = field(default_factory=list)
    frames: int = 0
    count: int = 0

    def update(self, faces: Sequence[Detection], time: float) -> list[int]:
        """The track numbers of one frame's faces, in their order."""
        self.frames += 1
        self.tracks = [track for track in self.tracks if time - track.time <= MAX_GAP or self.frames - track.frame <= 1]
        numbers = [-1] * len(faces)
        for closeness, least in ((iou, MIN_IOU), (_nearness, 0.0)):
            pairs = [(close, track, place) for track in self.tracks for place, face in enumerate(faces)
                     if (close := closeness(track.box, face.box)) >= least and close > 0]
            for _, track, place in sorted(pairs, key=lambda pair: (-pair[0], pair[1].number, pair[2])):
                if numbers[place] < 0 and track.frame < self.frames:
                    numbers[place] = track.number
                    track.box, track.time, track.frame = faces[place].box, time, self.frames
        for place, face in enumerate(faces):
            if numbers[place] < 0:
                numbers[place] = self.count
                self.tracks.append(Track(self.count, face.box, time, self.frames))
                self.count += 1
        return numbers


def _nearness(before: tuple[float, ...], now: tuple[float, ...]) -> float:
    """1 at the same place, 0 too far away or of another size."""
    sizes = math.sqrt(before[2] * before[3]), math.sqrt(now[2] * now[3])
    if not max(sizes) <= MAX_RATIO * min(sizes):
        return 0.0
    away = math.hypot(before[0] + before[2] / 2 - now[0] - now[2] / 2, before[1] + before[3] / 2 - now[1] - now[3] / 2)
    return max(0.0, 1 - away / (MAX_DISTANCE * max(before[2], now[2])))
