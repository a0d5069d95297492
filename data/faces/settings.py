"""How faces are cropped out of images: the settings, and the line of text in which a manifest carries them."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from twofold.data.utils.errors import InputError
from twofold.data.utils.options import check, option

UNDETECTED = "none"  #: in place of a detector's digest: faces that came cropped, framed as the settings would
VERSION = 1  #: of detection and alignment: what they give may only change together with this number


@dataclass(frozen=True, kw_only=True)
class CropSettings:
    """What the pixels of a crop depend on, beside the image. align: `similarity` (landmarks onto the template, see
    align.py) or `square` (the box, upright); margin: share of the side added on every side; min_score: of the detector;
    min_size: the shorter side of the box, pixels of the image; detect_every: of a video's frames, those between are
    followed from there by optical flow."""

    align: str = option("similarity", help="Landmarks onto a template, or the square around the box.",
                        choices=("similarity", "square"))
    size: int = option(224, help="Side of a face's image in pixels.", least=16, most=2048)
    margin: float = option(0.0, help="More around the face: a share of the side, on every side.", least=-0.4, most=2)
    min_score: float = option(0.6, help="Least score of a detection.", least=0.05, most=1)
    min_size: int = option(40, help="Smaller faces are left out; small values take more time.", least=8, most=10_000)
    jpeg: int = option(0, help="Write JPEG of this quality; 0 writes PNG.", least=0, most=100)
    detect_every: int = option(1, help="Videos: detect in each N-th frame used, and follow faces between: faster, but "
                                       "faces that appear are seen later.", least=1, most=100)

    def __post_init__(self) -> None:
        check(self)

    @property
    def suffix(self) -> str:
        return ".jpg" if self.jpeg else ".png"

    def to_line(self, detector_sha256: str) -> str:
        """The settings and the detector's SHA-256, or UNDETECTED, as one line: the manifest's column `crop`."""
        followed = f"detect_every={self.detect_every} " if self.detect_every > 1 else ""
        return (f"align={self.align} size={self.size} margin={self.margin:g} min_score={self.min_score:g} "
                f"min_size={self.min_size} jpeg={self.jpeg} {followed}detector={detector_sha256[:16]} "
                f"version={VERSION}")


def parse_crop_line(line: str) -> tuple[CropSettings, str]:
    """Settings and the first 16 digits of the detector's SHA-256, from `CropSettings.to_line`. Raises InputError."""
    words = {"detect_every": "1"} | {name: value for name, _, value in (word.partition("=") for word in line.split())}
    if words.get("version", str(VERSION)) != str(VERSION):
        raise InputError(f"crop settings {line!r} are of another version than {VERSION}: crop the faces again")
    try:
        values: dict[str, Any] = {each.name: type(each.default)(words[each.name]) for each in fields(CropSettings)}
        return CropSettings(**values), words["detector"]
    except (KeyError, ValueError):
        raise InputError(f"{line!r} are no crop settings (see the column `crop` of what `crop` writes)") from None


def read_crop_lines(manifest: Path) -> list[str]:
    """The different crop settings of a manifest's samples, the most frequent first; an empty text for those without."""
    import pandas as pd  # late: the command line reads the settings above for its help

    from twofold.data.utils.keys import NO_FACE_SUFFIX

    table = pd.read_csv(manifest, usecols=lambda name: name in ("key", "crop"), dtype=str, keep_default_na=False,
                        encoding="utf-8-sig")
    faces = table[~table["key"].str.endswith(NO_FACE_SUFFIX)]
    return list(faces["crop"].value_counts(sort=True).index) if "crop" in table else [""]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which frames of a video are used: all, `fps` a second of its time, or each `every`-th. Raises InputError."""

    fps: float = option(0.0, least=0, most=1000)
    every: int = option(1, least=1)

    def __post_init__(self) -> None:
        check(self)
        if self.fps and self.every > 1:
            raise InputError("--fps and --every both say which frames to use: give one of them")
