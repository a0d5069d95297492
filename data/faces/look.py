"""Sources to faces, in memory: pictures and frames are decoded, searched and cut in threads, and come in order."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from threading import local

import numpy as np

from twofold.data.faces.align import cut, encoded
from twofold.data.faces.detect import Detection, Detector, DetectorModel
from twofold.data.faces.settings import CropSettings, Sampling
from twofold.data.faces.sources import Source
from twofold.data.faces.track import Tracker
from twofold.data.faces.video import Frame, VideoError, read_frames
from twofold.data.images.decode import ImageError, decode
from twofold.data.images.sources import NO_FACE

AHEAD_BYTES = 256 << 20  #: of frames decoded and not yet searched


@dataclass(frozen=True)
class Face:
    """One face of a look. content: the bytes of its image file; the rest as in `Detection` and `Crop`."""

    detection: Detection
    content: bytes
    scale: float
    padded: float
    sharpness: float
    track: int = 0


@dataclass(frozen=True)
class Look:
    """One photograph, or one frame of a video, and all its faces, the largest first.

    frame and time (seconds) are None for a photograph and for the look that ends a video, which has no faces;
    note: why there is nothing to see, or what ended the video before its time; last: no more comes of this source.
    """

    source: Source
    frame: int | None
    time: float | None
    faces: tuple[Face, ...]
    note: str = ""
    last: bool = False
    size: tuple[int, int] | None = None  #: width and height of the picture, upright


@dataclass(frozen=True)
class Search:
    """How to look. workers: threads, 0 takes one a core."""

    model: DetectorModel
    settings: CropSettings
    sampling: Sampling
    workers: int = 0


def look(sources: Sequence[Source], search: Search, begun: Mapping[tuple[str, int], Look] | None = None
         ) -> Generator[Look]:
    """What is seen in the sources, in their order, frame by frame; every source ends with a look that is its `last`.

    Holds a bounded number of pictures, however long a video is. begun: looks of an earlier run, by source and frame,
    that come again as they are, without a search. A source that cannot be read is one look with a note.
    """
    tracker = Tracker()
    for seen in _in_order(_tasks(sources, search, begun or {}), search.workers or os.cpu_count() or 1):
        if seen.frame is not None:
            tracks = tracker.update([face.detection for face in seen.faces], seen.time or 0.0)
            faces = tuple(replace(face, track=track) for face, track in zip(seen.faces, tracks, strict=True))
            yield replace(seen, faces=faces)
        else:
            tracker = Tracker()
            yield seen


def _in_order(tasks: Iterator[tuple[Callable[[], Look], int]], workers: int) -> Iterator[Look]:
    """What tasks return, in their order; run in threads, a bounded way ahead. Each comes with the bytes it holds."""
    waiting: deque[tuple[Future[Look], int]] = deque()
    bytes_ahead = 0
    with ThreadPoolExecutor(workers, "look") as pool:
        try:
            for task, size in tasks:
                waiting.append((pool.submit(task), size))
                bytes_ahead += size
                while len(waiting) > 16 * workers or (len(waiting) > workers and bytes_ahead > AHEAD_BYTES):
                    future, size = waiting.popleft()
                    bytes_ahead -= size
                    yield future.result()
            while waiting:
                yield waiting.popleft()[0].result()
        finally:
            pool.shutdown(cancel_futures=True)


def _tasks(sources: Sequence[Source], search: Search, begun: Mapping[tuple[str, int], Look]
           ) -> Iterator[tuple[Callable[[], Look], int]]:
    """One task for each look, and about how many bytes it holds until it is done."""
    own = local()
    for source in sources:
        if not source.video:
            yield partial(_photograph, source, search, own), 0
            continue
        note, frames = "", 0
        try:
            for frame in read_frames(source.path, search.sampling):
                frames += 1
                before = begun.get((source.name, frame.index))
                if before is not None:
                    yield partial(_again, before), 0
                else:
                    yield partial(_frame, source, frame, search, own), 3 * frame.pixels_count
        except VideoError as error:
            note = str(error)
        yield partial(_again, Look(source, None, None, (), note, last=True)), 0


def _again(seen: Look) -> Look:
    return seen


def _photograph(source: Source, search: Search, own: local) -> Look:
    try:
        image = np.asarray(decode(source.path.read_bytes()))[..., ::-1]
    except (ImageError, OSError) as error:
        reason = str(error) if isinstance(error, ImageError) else f"unreadable file ({error.strerror})"
        return Look(source, None, None, (), reason, last=True)
    faces = _faces(np.ascontiguousarray(image), search, own)
    return Look(source, None, None, faces, "" if faces else NO_FACE, True, (image.shape[1], image.shape[0]))


def _frame(source: Source, frame: Frame, search: Search, own: local) -> Look:
    image = frame.pixels()
    faces = _faces(image, search, own)
    return Look(source, frame.index, round(frame.time, 6), faces, "" if faces else NO_FACE,
                size=(image.shape[1], image.shape[0]))


def faces_in(image: np.ndarray, detector: Detector, settings: CropSettings, *, most: int | None = None
             ) -> tuple[tuple[Face, ...], int]:
    """The faces of an (H, W, 3) BGR picture, the largest first, and how many smaller ones than `most` were left."""
    detections = detector.detect(image)
    faces = []
    for detection in detections[:most]:
        crop = cut(image, detection, settings)
        faces.append(Face(detection, encoded(crop, settings), round(crop.scale, 3), round(crop.padded, 3),
                          round(crop.sharpness, 1)))
    return tuple(faces), len(detections) - len(faces)


def _faces(image: np.ndarray, search: Search, own: local) -> tuple[Face, ...]:
    return faces_in(image, _detector(search, own), search.settings)[0]


def _detector(search: Search, own: local) -> Detector:
    """The calling thread's own."""
    if not hasattr(own, "detector"):
        own.detector = search.model.start(search.settings)
    return own.detector
