"""From the bytes of an image to the expressions of its faces: detector, encoders and head, all loaded once."""

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol

import numpy as np
from PIL import Image

from twofold.data.faces.in_memory import Picture, PictureFace
from twofold.fuse.heads.head import run_on_array, without_streams
from twofold.fuse.runs.read import Run


class Finder(Protocol):
    """Finds the faces of an image: a FaceFinder, or processes that have one each."""

    @property
    def detects(self) -> bool: ...
    def find(self, content: bytes, *, most: int) -> Picture: ...


Embed = Callable[[Sequence[bytes]], np.ndarray]  #: N image files of faces to (N, D) float32, in the head's columns


@dataclass(frozen=True)
class FaceResult:
    """One face. box: x, y, width, height in pixels of the upright image; detection: the detector's score, or None.

    expressions: (C,) calibrated probabilities; basic: (8,), empty for heads that predict no basic expressions;
    stream_weights: (K,), empty for heads without them; without: (K,) the probability of the likeliest expression with
    each stream at its training mean, empty for a single stream.
    """

    box: tuple[float, ...]
    detection: float | None
    expressions: tuple[float, ...]
    basic: tuple[float, ...]
    stream_weights: tuple[float, ...]
    without: tuple[float, ...]


@dataclass(frozen=True)
class Timings:
    """Seconds in the queue, for decoding and detection, in the encoders, in the head."""

    wait: float
    find: float
    encode: float
    decide: float


@dataclass(frozen=True)
class ImageResult:
    """An image's size and faces, the largest first. left_out: smaller faces that were not looked at further."""

    width: int
    height: int
    faces: tuple[FaceResult, ...]
    left_out: int
    seconds: Timings


@dataclass(frozen=True)
class Recogniser:
    """A run that answers for images. max_faces: of an image, the largest.

    Several threads may find faces at once; encoders and head work for one image at a time, with all cores.
    """

    run: Run
    finder: Finder
    embed: Embed
    max_faces: int
    _lock: Lock = field(default_factory=Lock)

    def recognise(self, content: bytes, *, waited: float = 0.0) -> ImageResult:
        """The answer for one image file. waited: seconds that it lay in a queue. Raises ImageError."""
        began = time.perf_counter()
        picture = self.finder.find(content, most=self.max_faces)
        seen = time.perf_counter()
        with self._lock:
            features = self.embed([face.content for face in picture.faces]) if picture.faces else None
            encoded = time.perf_counter()
            faces = self._decide(picture.faces, features) if features is not None else ()
        seconds = Timings(waited, seen - began, encoded - seen, time.perf_counter() - encoded)
        return ImageResult(picture.width, picture.height, faces, picture.left_out, seconds)

    def warm_up(self) -> None:
        """Answer for a black face, so that the first person does not wait for what libraries do at a first call."""
        file = io.BytesIO()
        Image.new("RGB", (112, 112)).save(file, "PNG")
        black = PictureFace((0.0, 0.0, 112.0, 112.0), file.getvalue(), None)
        self._decide([black], self.embed([black.content]))

    def _decide(self, faces: Sequence[PictureFace], features: np.ndarray) -> tuple[FaceResult, ...]:
        scores = run_on_array(self.run.head, features)
        probabilities = self.run.calibrated(scores)
        shares, basic = (np.zeros((len(faces), 0)) if each is None else each.mean(axis=0)
                         for each in (scores.stream_weights, scores.basic))
        without = self._without(features, probabilities.argmax(axis=1))
        return tuple(FaceResult(face.box, face.detection, *(tuple(row.astype(float).tolist()) for row in rows))
                     for face, *rows in zip(faces, probabilities, basic, shares, without, strict=True))

    def _without(self, features: np.ndarray, calls: np.ndarray) -> np.ndarray:
        """(N, K) probability of each face's call where a stream stands at its mean over the training faces."""
        head, streams = self.run.head, range(len(self.run.streams))
        if len(streams) == 1:
            return np.zeros((len(features), 0))
        scores = [run_on_array(without_streams(head, {k}), features) for k in streams]
        return np.stack([self.run.calibrated(each)[np.arange(len(calls)), calls] for each in scores], axis=1)
