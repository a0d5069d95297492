"""From the bytes of an image to the expressions of its faces: detector, encoders and head, all loaded once."""

import io
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
from PIL import Image

from twofold.data.faces.in_memory import FaceFinder, PictureFace
from twofold.data.images.decode import remark_lines
from twofold.fuse.answers import SECOND, decide
from twofold.fuse.heads.head import run_on_array, without_streams
from twofold.fuse.runs.read import Run
from twofold.fuse.serve.worker import FinderPool

log = logging.getLogger(__name__)

Embed = Callable[[Sequence[bytes]], np.ndarray]  #: N image files of faces to (N, D) float32, in the head's columns


@dataclass(frozen=True)
class FaceResult:
    """One face. box: x, y, width, height in pixels of the upright image; detection: the detector's score, or None.

    answer: in words; expressions: (C,) calibrated probabilities, of a regression its numbers; basic: (8,), empty for
    heads that predict no basic expressions; stream_weights: (K,), empty for heads without them; without: (K,) the
    probability of the likeliest expression with each stream at its training mean, empty for a single stream.
    """

    box: tuple[float, ...]
    detection: float | None
    answer: str
    expressions: tuple[float, ...]
    basic: tuple[float, ...]
    stream_weights: tuple[float, ...]
    without: tuple[float, ...]


@dataclass(frozen=True)
class ImageResult:
    """An image's size and faces, the largest first. left_out: smaller faces that were not looked at further; seconds:
    in the queue (wait), for decoding and detection (find), in the encoders (encode) and in the head (decide); remarks:
    what was left out or guessed in decoding it."""

    width: int
    height: int
    faces: tuple[FaceResult, ...]
    left_out: int
    seconds: dict[str, float]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Recogniser:
    """A run that answers for images. max_faces: of an image, the largest; second: of `decide`.

    Several threads may find faces at once; encoders and head work for one image at a time, with all cores.
    """

    run: Run
    finder: FaceFinder | FinderPool
    embed: Embed
    max_faces: int
    second: float = SECOND
    _lock: Lock = field(default_factory=Lock)

    def recognise(self, content: bytes, *, waited: float = 0.0) -> ImageResult:
        """The answer for one image file. waited: seconds that it lay in a queue. Raises ImageError."""
        began = time.perf_counter()
        picture = self.finder.find(content, most=self.max_faces)
        found_at = encoded_at = time.perf_counter()
        remarks = remark_lines(picture.remarks)
        for line in remarks:
            log.warning("warning: %s", line)
        faces: tuple[FaceResult, ...] = ()
        if picture.faces:
            with self._lock:
                features = self.embed([face.content for face in picture.faces])
                encoded_at = time.perf_counter()
                faces = self._decide(picture.faces, features)
        return ImageResult(picture.width, picture.height, faces, picture.left_out, {
            "wait": waited, "find": found_at - began, "encode": encoded_at - found_at,
            "decide": time.perf_counter() - encoded_at}, tuple(remarks))

    def warm_up(self) -> None:
        """Answer for a black face, so that the first person does not wait for what libraries do at a first call."""
        file = io.BytesIO()
        Image.new("RGB", (112, 112)).save(file, "PNG")
        self._decide([PictureFace((0, 0, 112, 112), file.getvalue(), None)], self.embed([file.getvalue()]))

    def _decide(self, faces: Sequence[PictureFace], features: np.ndarray) -> tuple[FaceResult, ...]:
        head = self.run.head
        scores = run_on_array(head, features)
        probabilities, basic, weights = self.run.means(scores)
        rows, best = np.arange(len(faces)), probabilities.argmax(axis=1)
        without = [self.run.calibrated(run_on_array(without_streams(head, {k}), features))[rows, best]
                   for k in range(len(self.run.streams)) if len(self.run.streams) > 1]
        columns = (probabilities, basic, weights, np.stack(without, axis=1) if without else weights[:, :0])
        answers = decide(self.run, probabilities, basic, second=self.second)
        return tuple(FaceResult(face.box, face.detection, str(answers[row]),
                                *(tuple(map(float, values[row])) for values in columns))
                     for row, face in enumerate(faces))
