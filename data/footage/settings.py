"""How faces are cut out of pictures: the settings, and the one line of text in which a manifest carries them."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from twofold.data.errors import InputError

ALIGNMENTS = ("similarity", "square")
VERSION = 1  #: of detection, alignment and encoding: what they give may only change together with this number


@dataclass(frozen=True, kw_only=True)
class CropSettings:
    """What a crop's pixels depend on, beside the picture.

    align: `similarity` (landmarks onto the template, see align.py) or `square` (the box, upright); size: side of the
    crop in pixels; margin: share of the side added on every side; min_score: of the detector, 0 to 1; min_size: the
    shorter side of the box, pixels of the picture; jpeg: quality of JPEG files, 0 writes PNG.
    """

    align: str = "similarity"
    size: int = 224
    margin: float = 0.0
    min_score: float = 0.6
    min_size: int = 40
    jpeg: int = 0

    def __post_init__(self) -> None:
        if self.align not in ALIGNMENTS:
            raise InputError(f"--align {self.align!r}: choose from {', '.join(ALIGNMENTS)}")
        for name, value, low, high in (("size", self.size, 16, 2048), ("margin", self.margin, -0.4, 2),
                                       ("min-score", self.min_score, 0.05, 1), ("min-size", self.min_size, 8, 10_000),
                                       ("jpeg", self.jpeg, 0, 100)):
            if not low <= value <= high:
                raise InputError(f"--{name} {value:g} is not between {low:g} and {high:g}")

    @property
    def suffix(self) -> str:
        return ".jpg" if self.jpeg else ".png"

    def line(self, detector: str) -> str:
        """The settings and the detector's SHA-256 as one line: the manifest's column `crop`."""
        return (f"align={self.align} size={self.size} margin={self.margin:g} min_score={self.min_score:g} "
                f"min_size={self.min_size} jpeg={self.jpeg} detector={detector[:16]} version={VERSION}")


def read_line(line: str) -> tuple[CropSettings, str]:
    """Settings and the first 16 digits of the detector's SHA-256, from `CropSettings.line`. Raises InputError."""
    words = {name: value for name, _, value in (word.partition("=") for word in line.split())}
    if words.get("version", str(VERSION)) != str(VERSION):
        raise InputError(f"crop settings {line!r} are of another version than {VERSION}: crop the faces again")
    try:
        settings = CropSettings(
            align=words["align"], size=int(words["size"]), margin=float(words["margin"]),
            min_score=float(words["min_score"]), min_size=int(words["min_size"]), jpeg=int(words["jpeg"]))
        return settings, words["detector"]
    except (KeyError, ValueError):
        raise InputError(f"{line!r} are no crop settings (see the column `crop` of what `crop` writes)") from None


def crop_lines(manifest: Path) -> list[str]:
    """The different crop settings in a manifest's column `crop`, those of most faces first; none without the column."""
    table = pd.read_csv(manifest, usecols=lambda name: name == "crop", dtype=str, keep_default_na=False,
                        encoding="utf-8-sig")
    return [line for line in table["crop"].value_counts(sort=True).index if line] if len(table.columns) else []


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which frames of a video are looked at: all, `fps` a second of its time, or each `every`-th."""

    fps: float = 0.0
    every: int = 1

    def __post_init__(self) -> None:
        if self.fps and self.every > 1:
            raise InputError("--fps and --every both say which frames to look at: give one of them")
        if not 0 <= self.fps <= 1000:
            raise InputError(f"--fps {self.fps:g} is not between 0 (all frames) and 1000")
        if self.every < 1:
            raise InputError(f"--every {self.every} is not a number of frames")
