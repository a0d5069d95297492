"""Face detectors: a registry, the weights file of each, and YuNet as OpenCV runs it."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from twofold.data.faces.settings import CropSettings
from twofold.data.utils.errors import InputError, first_line
from twofold.data.utils.weights_files import hub_cached, hub_file, weights_folder

SMALLEST = 20  #: pixels of the side of the smallest face shown to the detector; it was trained down to about ten
COARSE_SIDE = 320  #: a larger image is searched at this size, too: it was not trained on faces beyond 300 pixels
FINE_SIDE = 1280  #: no image is searched at a larger size: 8K would take seconds, and pores look like faces
LEAST_SIDE = 160  #: a smaller image is enlarged to this
NMS_IOU = 0.3  #: intersection over union of two boxes from which they are one face
INSIDE = 0.6  #: share of a small box inside a larger one from which it is no face of its own
BORDER = 0.02  #: least share of a box that must lie inside the image

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Detection:
    """One face. box: x, y, width, height in pixels of the image, may reach beyond its edges; landmarks: (x, y) of
    the eye on the left of the image, the other eye, nose, left and right corner of the mouth; score: 0 to 1."""

    box: tuple[float, float, float, float]
    landmarks: tuple[tuple[float, float], ...]
    score: float


class Detector(Protocol):
    """Finds all faces in an (H, W, 3) BGR uint8 image, the largest first. One thread at a time."""

    def detect(self, image: np.ndarray) -> list[Detection]: ...


@dataclass(frozen=True)
class DetectorModel:
    """A loaded detector for several threads: `create` builds one for each; sha256 is of the weights file."""

    sha256: str
    create: Callable[[CropSettings], Detector]
    name: str = "yunet"


@dataclass(frozen=True)
class DetectorEntry:
    """A detector of the registry. file: its name in the weights folder; hub, hub_files: repository and file names
    there, the first one that exists is downloaded; build: weights file's bytes and settings to a detector, raises any
    exception for another file."""

    name: str
    file: str
    hub: str
    hub_files: tuple[str, ...]
    page: str
    licence: str
    trained_on: str
    build: Callable[[bytes, CropSettings], Detector]

    def local_file(self, folder: Path) -> Path | None:
        """The weights file in a folder, under our name or the published one, or else in the hub's cache."""
        files = (folder / name for name in (self.file, *self.hub_files))
        cached = (hub_cached(self.hub, name) for name in self.hub_files)
        return next((path for path in files if path.is_file()), None) or next(filter(None, cached), None)

    def find_file(self) -> Path:
        """The local weights file, else the hub's. Raises InputError that says what to fetch and where to put it."""
        folder, reason = weights_folder(), ""
        if path := self.local_file(folder):
            return path
        for name in self.hub_files:
            try:
                return hub_file(self.hub, name)
            except Exception as error:  # the network's, the hub's and the proxy's own kinds
                log.debug("hub", exc_info=error)
                reason = f"{type(error).__name__}: {first_line(error, most=160)}"
        raise InputError(f"no face detector: {self.file} is not in {folder} and the hub could not give it ({reason}). "
                         f"Where there is a network, `twofold weights get {self.name}` downloads it; or get it from "
                         f"{self.page} (licence: {self.licence}), save it as {folder / self.file}, or name a file with "
                         "--detector PATH")


def open_detector(path: Path | None = None) -> DetectorModel:
    """YuNet, tried once on an empty image. path: its weights file, None for the weights folder, then the hub. Raises
    InputError where no file is found, and for a file of anything else."""
    entry = DETECTORS["yunet"]
    if path is not None and not path.is_file():
        raise InputError(f"--detector {path} is not a file")
    file = path or entry.find_file()
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"--detector {file}: {error.strerror or 'cannot be read'}") from None

    def create(settings: CropSettings) -> Detector:
        return entry.build(content, settings)

    require_opencv()
    try:
        create(CropSettings()).detect(np.zeros((LEAST_SIDE, LEAST_SIDE, 3), np.uint8))
    except Exception as error:  # whatever the library raises for a foreign file
        reason = str(error).strip().splitlines()[-1][:120]
        raise InputError(f"--detector {file}: it is not read as a {entry.name} face detector ({reason})") from None
    return DetectorModel(hashlib.sha256(content).hexdigest(), create, entry.name)


class YuNet:
    """YuNet (W. Wu, H. Peng, S. Yu, Machine Intelligence Research 2023) in OpenCV, for one thread.

    The image is searched at the scale at which the smallest face asked for is `SMALLEST` pixels wide (a half at the
    default of 40: a quarter of the time, and landmarks as precise), but at most `FINE_SIDE` wide or high; a large one
    at `COARSE_SIDE`, too. Where both find a face, the coarse detection is kept: the fine ones inside it are its parts.
    """

    def __init__(self, content: bytes, settings: CropSettings):
        self.settings = settings
        self.network = require_opencv().FaceDetectorYN.create(
            "onnx", np.frombuffer(content, np.uint8), np.empty(0, np.uint8), (LEAST_SIDE, LEAST_SIDE),
            settings.min_score, NMS_IOU, 5000)

    def detect(self, image: np.ndarray) -> list[Detection]:
        """All faces of at least the settings' score and size, the largest first."""
        height, width = image.shape[:2]
        side = max(height, width)
        scale = max(min(1.0, SMALLEST / self.settings.min_size, FINE_SIDE / side), LEAST_SIDE / side)
        faces = self._detect_at(image, scale)
        if side * scale > COARSE_SIDE:
            large = self._detect_at(image, COARSE_SIDE / side)
            faces = large + [face for face in faces if not any(is_same_face(face, other) for other in large)]
        whole = (0, 0, width, height)
        kept = [face for face in faces if min(face.box[2:]) >= self.settings.min_size
                and common_area(face.box, whole) >= BORDER * face.box[2] * face.box[3]]
        return sorted(kept, key=lambda face: (-face.box[2] * face.box[3], face.box))

    def _detect_at(self, image: np.ndarray, scale: float) -> list[Detection]:
        cv2 = require_opencv()
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        if (height, width) != image.shape[:2]:
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        self.network.setInputSize((width, height))
        rows = self.network.detect(np.ascontiguousarray(image))[1]
        faces = []
        for row in [] if rows is None else rows.astype(float):  # box (4), five landmarks (10), score
            if np.isfinite(row).all():
                x, y, w, h, *points = np.round(row[:14] / scale, 2).tolist()  # as in the table: to be cut again
                faces.append(Detection((x, y, w, h), tuple(zip(points[::2], points[1::2], strict=True)),
                                       round(float(row[14]), 4)))
        return faces


def common_area(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    """Of two boxes (x, y, width, height)."""
    width = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    height = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    return max(0.0, width) * max(0.0, height)


def iou(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    """Intersection over union of two boxes (x, y, width, height)."""
    common = common_area(first, second)
    return common / (first[2] * first[3] + second[2] * second[3] - common) if common else 0.0


def is_same_face(small: Detection, large: Detection) -> bool:
    """Whether two detections are of one face: their boxes overlap, or one lies in the other."""
    share = iou(small.box, large.box)
    inner = share / (1 + share) * (1 + large.box[2] * large.box[3] / (small.box[2] * small.box[3]))
    return share >= NMS_IOU or inner >= INSIDE


def require_opencv():
    """The module cv2, quiet and with one thread a call (frames run in parallel). Raises InputError without it."""
    try:
        import cv2
        import isal  # noqa: F401 (for `align.encode`: better missed now than at the first face)
    except ImportError:
        raise InputError("finding faces needs OpenCV, PyAV and isal: pip install 'twofold[footage]'") from None
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # its warnings name options of the network's
    return cv2


DETECTORS = {entry.name: entry for entry in (
    DetectorEntry(name="yunet", file="face_detection_yunet.onnx", hub="opencv/face_detection_yunet",
                  hub_files=("face_detection_yunet_2026may.onnx", "face_detection_yunet_2023mar.onnx"),
                  page="https://github.com/opencv/opencv_zoo/tree/main/models/face_detection_yunet", licence="MIT",
                  trained_on="faces, WIDER FACE", build=YuNet),
)}
