"""Photographs and videos to aligned faces in memory: decode, detect, track and crop in threads, results in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import local

import numpy as np

from twofold.data.faces.align import crop_face, encode
from twofold.data.faces.detectors import Detection, Detector, DetectorModel
from twofold.data.faces.settings import CropSettings, Sampling
from twofold.data.faces.sources import Source
from twofold.data.faces.track import Tracker
from twofold.data.faces.video import Frame, VideoError, VideoReader
from twofold.data.images.decode import ImageError, decode
from twofold.data.utils.keys import NO_FACE
from twofold.data.utils.machine import usable_cores

MAX_QUEUED_BYTES = 256 << 20  #: of frames that are decoded and wait for the detector


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
    """A photograph, or a frame of a video, and its faces, the largest first.

    frame and time (seconds) are None for a photograph and for the entry that ends a video, which has no faces;
    note: why there are no faces, or what ended the video early; last: the source ends here.
    """

    source: Source
    frame: int | None
    time: float | None
    faces: tuple[Face, ...]
    note: str = ""
    last: bool = False
    size: tuple[int, int] | None = None  #: width and height of the image, upright


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
    """Detect and crop the faces of the sources, in order, frame by frame; every source ends with an entry that is
    its `last`.

    Holds a bounded number of images, however long a video is. previous: results of an earlier run by source and frame,
    which are repeated without detection. A source that cannot be read is one entry with a note.
    """
    tracker = Tracker()
    with reader or VideoReader() as videos:
        tasks = _tasks(sources, config, previous or {}, videos)
        for entry in _run_in_order(tasks, config.workers or usable_cores()):
            if entry.frame is not None:
                tracks = tracker.update([face.detection for face in entry.faces], entry.time or 0.0)
                faces = tuple(replace(face, track=track) for face, track in zip(entry.faces, tracks, strict=True))
                yield replace(entry, faces=faces)
            else:
                tracker = Tracker()
                yield entry


Task = Callable[[], FrameDetections]


def _run_in_order(tasks: Iterator[tuple[Task, int]], workers: int) -> Iterator[FrameDetections]:
    """Run tasks in threads, a bounded number ahead, and yield their results in order. Each comes with its bytes."""
    waiting: deque[tuple[Future[FrameDetections], int]] = deque()
    queued = 0
    with ThreadPoolExecutor(workers, "detect") as pool:
        try:
            for task, size in tasks:
                waiting.append((pool.submit(task), size))
                queued += size
                while len(waiting) > 16 * workers or (len(waiting) > workers and queued > MAX_QUEUED_BYTES):
                    future, size = waiting.popleft()
                    queued -= size
                    yield future.result()
            while waiting:
                yield waiting.popleft()[0].result()
        finally:
            pool.shutdown(cancel_futures=True)


def _tasks(sources: Sequence[Source], config: DetectionConfig, previous: Mapping[tuple[str, int], FrameDetections],
           reader: VideoReader) -> Iterator[tuple[Task, int]]:
    """One task for each photograph and frame, and about how many bytes it holds until it is done."""
    detectors = local()

    def find(image: np.ndarray) -> tuple[Face, ...]:
        if not hasattr(detectors, "own"):  # one for each thread
            detectors.own = config.model.create(config.settings)
        return crop_faces(image, detectors.own, config.settings)[0]

    for source in sources:
        if not source.video:
            yield lambda source=source: _photograph(source, find), 0
            continue
        note, done = "", [index for name, index in previous if name == source.name]
        try:
            for frame in reader.frames(source.path, config.sampling, skip=done):
                before = previous.get((source.name, frame.index))
                if before is not None:
                    yield lambda before=before: before, 0
                elif frame.pixels is not None:
                    yield lambda source=source, frame=frame: _frame(source, frame, find), frame.pixels.nbytes
        except VideoError as error:
            note = str(error)
        end = FrameDetections(source, None, None, (), note, last=True)
        yield lambda end=end: end, 0


def _photograph(source: Source, find: Callable[[np.ndarray], tuple[Face, ...]]) -> FrameDetections:
    try:
        image = np.asarray(decode(source.read()))[..., ::-1]
    except ImageError as error:
        return FrameDetections(source, None, None, (), str(error), last=True)
    faces = find(np.ascontiguousarray(image))
    return FrameDetections(source, None, None, faces, "" if faces else NO_FACE, True, (image.shape[1], image.shape[0]))


def _frame(source: Source, frame: Frame, find: Callable[[np.ndarray], tuple[Face, ...]]) -> FrameDetections:
    assert frame.pixels is not None
    faces = find(frame.pixels)
    return FrameDetections(source, frame.index, round(frame.time, 6), faces, "" if faces else NO_FACE,
                           size=(frame.pixels.shape[1], frame.pixels.shape[0]))


def crop_faces(image: np.ndarray, detector: Detector, settings: CropSettings, *, most: int | None = None
               ) -> tuple[tuple[Face, ...], int]:
    """The `most` largest faces of an (H, W, 3) BGR image, and how many smaller ones were left out."""
    detections = detector.detect(image)
    faces = []
    for detection in detections[:most]:
        crop = crop_face(image, detection, settings)
        faces.append(Face(detection, encode(crop, settings), round(crop.scale, 3), round(crop.padded, 3),
                          round(crop.sharpness, 1)))
    return tuple(faces), len(detections) - len(faces)
