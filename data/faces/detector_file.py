"""The face detector's weights file: named by the user, in the weights folder, or on the hub."""

import logging
from dataclasses import dataclass
from pathlib import Path

from twofold.data.utils.errors import InputError, first_line
from twofold.data.utils.weights_files import hub_cached, hub_file, weights_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DetectorFile:
    """What `weights ls` says of the detector."""

    name: str = "yunet"
    file: str = "face_detection_yunet.onnx"
    page: str = "https://github.com/opencv/opencv_zoo/tree/main/models/face_detection_yunet"
    licence: str = "MIT"
    trained_on: str = "faces, WIDER FACE"
    hub: str = "opencv/face_detection_yunet"
    hub_files: tuple[str, ...] = ("face_detection_yunet_2026may.onnx", "face_detection_yunet_2023mar.onnx")


YUNET = DetectorFile()


def find_detector(path: Path | None) -> Path:
    """The file at `path`, else in the weights folder (under our name or the published one), else from the hub.

    Raises InputError that says what to fetch, from where, under which licence, and where to put it.
    """
    if path is not None:
        if not path.is_file():
            raise InputError(f"--detector {path} is not a file")
        return path
    folder = weights_folder()
    if here := detector_here(folder):
        return here
    try:
        return _downloaded()
    except Exception as error:  # the network's, the hub's and the proxy's own kinds, none of them ours to tell apart
        log.debug("hub", exc_info=error)
        reason = f"{type(error).__name__}: {first_line(error, most=160)}"
    raise InputError(f"no face detector: {YUNET.file} is not in {folder} and the hub could not give it ({reason}). Get "
                     f"it from {YUNET.page} (licence: {YUNET.licence}), save it as {folder / YUNET.file}, or name a "
                     "file with --detector PATH")


def detector_here(folder: Path) -> Path | None:
    """The detector in a folder, or else in the hub's cache, if it is there."""
    files = (folder / name for name in (YUNET.file, *YUNET.hub_files))
    cached = (hub_cached(YUNET.hub, name) for name in YUNET.hub_files)
    return next((path for path in files if path.is_file()), None) or next(filter(None, cached), None)


def _downloaded() -> Path:
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return hub_file(YUNET.hub, YUNET.hub_files[0])
    except EntryNotFoundError:
        return hub_file(YUNET.hub, YUNET.hub_files[1])
