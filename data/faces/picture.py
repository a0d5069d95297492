"""The faces of one picture that is in memory, cut as `crop` and `predict` cut them."""

from dataclasses import dataclass

import numpy as np

from twofold.data.faces.detect import Detector
from twofold.data.faces.in_memory import is_face_already
from twofold.data.faces.look import Search, faces_in
from twofold.data.faces.settings import CropSettings
from twofold.data.images.decode import FACE_LIMITS, PHOTO_LIMITS, decode


@dataclass(frozen=True)
class PictureFace:
    """One face. box: x, y, width, height in pixels of the upright picture; content: the bytes of its image file;
    detection: the detector's score, 0 to 1, or None where nobody looked for it."""

    box: tuple[float, float, float, float]
    content: bytes
    detection: float | None


@dataclass(frozen=True)
class Picture:
    """A picture and its faces, the largest first. left_out: smaller faces, beyond the number asked for."""

    width: int
    height: int
    faces: tuple[PictureFace, ...]
    left_out: int = 0


class FaceFinder:
    """Finds faces in pictures, one picture at a time. search: None takes every picture for one face as it is."""

    def __init__(self, search: Search | None):
        self._settings = search.settings if search else CropSettings()
        self._detector: Detector | None = search.model.start(search.settings) if search else None

    @property
    def looks(self) -> bool:
        """Whether it looks for faces, or takes every picture for one."""
        return self._detector is not None

    def find(self, content: bytes, *, most: int) -> Picture:
        """The picture in these bytes of an image file, and its `most` largest faces.

        A picture that is a face already is taken as it is. Raises ImageError for one that cannot be read or is too
        large, which its header says before it is decoded.
        """
        image = decode(content, PHOTO_LIMITS if self._detector else FACE_LIMITS)
        width, height = image.size
        if self._detector is None:
            return Picture(width, height, (_whole(width, height, content),))
        pixels = np.ascontiguousarray(np.asarray(image)[..., ::-1])
        faces, left_out = faces_in(pixels, self._detector, self._settings, most=most)
        if is_face_already((width, height), faces):
            box, score = (faces[0].detection.box, faces[0].detection.score) if faces else (None, None)
            return Picture(width, height, (_whole(width, height, content, box, score),))
        return Picture(width, height, tuple(PictureFace(face.detection.box, face.content, face.detection.score)
                                            for face in faces), left_out)


def _whole(width: int, height: int, content: bytes, box: tuple[float, float, float, float] | None = None,
           score: float | None = None) -> PictureFace:
    return PictureFace(box or (0.0, 0.0, float(width), float(height)), content, score)
