"""Bytes of a picture to what its faces show: detector, encoders and head, all loaded once."""

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from twofold.data.faces.in_memory import FaceFinder, PictureFace
from twofold.fuse.heads.head import scores_of, without_streams
from twofold.fuse.runs.read import Run
from twofold.fuse.serve.answer import Answer, FaceAnswer, Seconds

Embed = Callable[[Sequence[bytes]], np.ndarray]  #: N image files of faces to (N, D) float32, in the head's columns


@dataclass(frozen=True)
class Recogniser:
    """A run that answers for pictures, one at a time. most_faces: of a picture, the largest."""

    run: Run
    finder: FaceFinder
    embed: Embed
    most_faces: int

    def recognise(self, content: bytes, *, waited: float = 0.0) -> Answer:
        """The answer for one image file. waited: seconds that it lay in a queue. Raises ImageError."""
        began = time.perf_counter()
        picture = self.finder.find(content, most=self.most_faces)
        seen = time.perf_counter()
        features = self.embed([face.content for face in picture.faces]) if picture.faces else None
        encoded = time.perf_counter()
        faces = self._decide(picture.faces, features) if features is not None else ()
        seconds = Seconds(waited, seen - began, encoded - seen, time.perf_counter() - encoded)
        return Answer(picture.width, picture.height, faces, picture.left_out, seconds)

    def warm_up(self) -> None:
        """Answer for a black face, so that the first person does not wait for what libraries do at a first call."""
        file = io.BytesIO()
        Image.new("RGB", (112, 112)).save(file, "PNG")
        black = PictureFace((0.0, 0.0, 112.0, 112.0), file.getvalue(), None)
        self._decide([black], self.embed([black.content]))

    def _decide(self, faces: Sequence[PictureFace], features: np.ndarray) -> tuple[FaceAnswer, ...]:
        scores = scores_of(self.run.head, features)
        probabilities = self.run.calibrated(scores)
        shares, basic = (np.zeros((len(faces), 0)) if each is None else each.mean(axis=0)
                         for each in (scores.shares, scores.basic))
        without = self._without(features, probabilities.argmax(axis=1))
        return tuple(FaceAnswer(face.box, face.detection, *(tuple(row.astype(float).tolist()) for row in rows))
                     for face, *rows in zip(faces, probabilities, basic, shares, without, strict=True))

    def _without(self, features: np.ndarray, calls: np.ndarray) -> np.ndarray:
        """(N, K) probability of each face's call where a stream stands at its mean over the training faces."""
        head, streams = self.run.head, range(len(self.run.streams))
        if len(streams) == 1:
            return np.zeros((len(features), 0))
        scores = [scores_of(without_streams(head, {k}), features) for k in streams]
        return np.stack([self.run.calibrated(each)[np.arange(len(calls)), calls] for each in scores], axis=1)
