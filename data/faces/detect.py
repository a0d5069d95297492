"""Faces in a picture, by YuNet (W. Wu, H. Peng, S. Yu, Machine Intelligence Research 2023) as OpenCV runs it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from twofold.data.faces.settings import CropSettings
from twofold.data.utils.errors import InputError

SMALLEST = 20  #: pixels of a face's side that the detector is shown at the least; it was trained down to about ten
COARSE_SIDE = 320  #: a larger picture is searched at this size, too: it was not trained on faces beyond 300 pixels
FINE_SIDE = 1280  #: and none is searched larger: an 8K picture would take seconds, and pores look like faces
LEAST_SIDE = 160  #: a smaller picture is enlarged to this
OVERLAP = 0.3  #: of two boxes, intersection over union, from which they are one face
INSIDE = 0.6  #: of a small box, the share inside a larger one from which it is no face of its own
BORDER = 0.02  #: a box may reach out of the picture by nearly its own size; with less than this inside it is none


@dataclass(frozen=True)
class Detection:
    """One face. box: x, y, width, height in pixels of the picture, may reach beyond its edges; landmarks: (x, y) of
    the eye on the left of the picture, the other eye, nose, left and right corner of the mouth; score: 0 to 1."""

    box: tuple[float, float, float, float]
    landmarks: tuple[tuple[float, float], ...]
    score: float


class Detector(Protocol):
    """Finds faces in an (H, W, 3) BGR picture of bytes: all of them, the largest first. One thread at a time."""

    def detect(self, image: np.ndarray) -> list[Detection]: ...


@dataclass(frozen=True)
class DetectorModel:
    """A detector to be run in several threads: `start` gives each its own; sha256 is of the weights file."""

    sha256: str
    start: Callable[[CropSettings], Detector]


def open_yunet(path: Path) -> DetectorModel:
    """YuNet from its ONNX file, tried once on an empty picture. Raises InputError for any other file."""
    cv2 = require_opencv()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"--detector {path}: {error.strerror or 'cannot be read'}") from None

    def start(settings: CropSettings) -> Detector:
        return YuNet(content, settings)

    try:
        start(CropSettings()).detect(np.zeros((LEAST_SIDE, LEAST_SIDE, 3), np.uint8))
    except cv2.error as error:
        reason = str(error).strip().splitlines()[-1][:120]
        raise InputError(f"--detector {path}: OpenCV {cv2.__version__} does not read it as a YuNet face detector "
                         f"({reason})") from None
    return DetectorModel(hashlib.sha256(content).hexdigest(), start)


class YuNet:
    """One thread's detector.

    The picture is shown at the scale at which the smallest face asked for is `SMALLEST` pixels wide (a half at the
    default of 40: a quarter of the time, and landmarks as precise), but at most `FINE_SIDE` wide or high; a large one
    at `COARSE_SIDE` besides, whose faces win: what the finer look sees inside them are their parts.
    """

    def __init__(self, content: bytes, settings: CropSettings):
        cv2 = require_opencv()
        self.settings = settings
        self.network = cv2.FaceDetectorYN.create("onnx", np.frombuffer(content, np.uint8), np.empty(0, np.uint8),
                                                 (LEAST_SIDE, LEAST_SIDE), settings.min_score, OVERLAP, 5000)

    def detect(self, image: np.ndarray) -> list[Detection]:
        """All faces of at least the settings' score and size, the largest first."""
        side = max(image.shape[:2])
        scale = max(min(1.0, SMALLEST / self.settings.min_size, FINE_SIDE / side), LEAST_SIDE / side)
        faces = self._at(image, scale)
        if side * scale > COARSE_SIDE:
            large = self._at(image, COARSE_SIDE / side)
            faces = large + [face for face in faces if not any(same_face(face, other) for other in large)]
        height, width = image.shape[:2]
        kept = [face for face in faces if min(face.box[2:]) >= self.settings.min_size and _inside(face, width, height)]
        return sorted(kept, key=lambda face: (-face.box[2] * face.box[3], face.box))

    def _at(self, image: np.ndarray, scale: float) -> list[Detection]:
        cv2 = require_opencv()
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        if (height, width) != image.shape[:2]:
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        self.network.setInputSize((width, height))
        rows = self.network.detect(np.ascontiguousarray(image))[1]
        return [] if rows is None else [_detection(row, scale) for row in rows.astype(float) if np.isfinite(row).all()]


def _detection(row: np.ndarray, scale: float) -> Detection:
    """One row of OpenCV's: box (4), five landmarks (10), the person's right eye first, which is left in the picture."""
    x, y, width, height = np.round(row[:4] / scale, 2).tolist()  # as the table says it, so that crops can be cut again
    landmarks = np.round(row[4:14] / scale, 2).reshape(5, 2).tolist()
    return Detection((x, y, width, height), tuple((x, y) for x, y in landmarks), round(float(row[14]), 4))


def _inside(face: Detection, width: int, height: int) -> bool:
    x, y, w, h = face.box
    inner = max(0.0, min(x + w, width) - max(x, 0)) * max(0.0, min(y + h, height) - max(y, 0))
    return inner >= BORDER * w * h


def same_face(small: Detection, large: Detection) -> bool:
    """Whether two looks at a picture saw one face: boxes overlap, or one lies in the other."""
    share = overlap(small.box, large.box)
    inner = share / (1 + share) * (1 + large.box[2] * large.box[3] / (small.box[2] * small.box[3]))
    return share >= OVERLAP or inner >= INSIDE


def overlap(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    """Intersection over union of two boxes (x, y, width, height)."""
    width = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    height = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / (first[2] * first[3] + second[2] * second[3] - common)


def require_opencv():
    """The module cv2, quiet and with one thread a call: frames are what runs in parallel. Raises InputError."""
    try:
        import cv2
    except ImportError:
        raise InputError("finding faces needs OpenCV: pip install 'twofold[footage]' (or opencv-python-headless and "
                         "av)") from None
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # its warnings name options of the network's
    return cv2
