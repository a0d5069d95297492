"""The files that challenges want: a template of theirs, filled with a run's answers.

ABAW's (C-EXPR-DB) has a line a frame; frames without a face are interpolated. BLEMORE's is JSON with a list of emotions
a video: `{"predictions": {"test_0001.mov": [{"emotion": "ang", "salience": 70}, {"emotion": "sad", "salience": 30}]}}`.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from twofold.data.faces.challenge import challenge_frames
from twofold.data.readers.blemore import EMOTIONS
from twofold.data.readers.cexpr import frames_of, template_frames
from twofold.data.utils.errors import InputError, first_line
from twofold.fuse.core.blends import BLENDED, Blends
from twofold.fuse.core.kinds import Classification
from twofold.fuse.core.task import Task
from twofold.fuse.smoothing import smooth_videos

CHALLENGE_CLASSES = "cexpr7"
MAX_BYTES = 100_000_000  #: of a template
ZIP_TIME = (1980, 1, 1, 0, 0, 0)  #: so that the same answers are the same file


@dataclass(frozen=True)
class Template:
    """A challenge's template. keys: the frames or videos to answer, in order."""

    path: Path
    keys: tuple[str, ...]

    def find(self, samples: pd.DataFrame, keys: np.ndarray) -> list[str]:
        """For each of the template's, the key of its sample among those that have features (`keys`), or any other
        text. samples: the manifest."""
        raise NotImplementedError

    def complete(self, scores: np.ndarray, window: np.ndarray, *, fill: bool) -> np.ndarray:
        """(N, C) scores of all, of scores that are nan where there is no face. fill: give videos without any the mean
        scores of all others; else raises InputError listing them, since as a rule their frames were forgotten."""
        raise NotImplementedError

    def content(self, task: Task, scores: np.ndarray, thresholds: np.ndarray) -> bytes:
        """The file to be handed in."""
        raise NotImplementedError

    def asks_like(self, content: bytes) -> bool:
        """True if a file is a submission for this template."""
        raise NotImplementedError

    def write(self, out: Path, content: bytes) -> None:
        """Write a submission, inside an archive if the file is to be a .zip."""
        if out.suffix.lower() != ".zip":
            out.write_bytes(content)
            return
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(zipfile.ZipInfo(self.path.name, ZIP_TIME), content)

    def is_filled(self, path: Path) -> bool:
        """True if a file is a submission for this template, maybe in an archive."""
        try:
            if not zipfile.is_zipfile(path):
                return self.asks_like(path.read_bytes())
            with zipfile.ZipFile(path) as archive:
                return archive.getinfo(self.path.name).file_size <= MAX_BYTES and self.asks_like(
                    archive.read(self.path.name))
        except (InputError, KeyError, zipfile.BadZipFile):
            return False


def read_template(path: Path, task: Task) -> Template:
    """The template at this path. Raises InputError for one that is not as published, or of another task than the
    run's."""
    with path.open("rb") as file:
        blends = file.read(1000).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    if blends and not isinstance(task, Blends):
        raise InputError(f"{path} asks for blends of emotions: train a run with `fuse --unit source --classes "
                         f"{BLENDED} --task distribution`; this one has the {task.title}")
    if blends and (lacking := sorted(set(task.outputs) - set(EMOTIONS.values()))):
        raise InputError(f"{path}: BLEMORE has no emotion {lacking[0]}")
    if blends:
        return VideoTemplate(path, tuple(_answers(path.read_bytes(), path)))
    if type(task) is not Classification or task.taxonomy.name != CHALLENGE_CLASSES:
        raise InputError(f"a submission needs a run on the classes {CHALLENGE_CLASSES}, not {task.title}: "
                         f"train it with `fuse --classes {CHALLENGE_CLASSES}`")
    keys = template_frames(path)
    if keys != tuple(_frame_lines(path.read_bytes()).values()):
        raise InputError(f"{path}: its lines end in other characters than line ends: get the template anew")
    return FrameTemplate(path, keys)


class FrameTemplate(Template):
    """ABAW's: a line `01/00001.jpg,0,...` a frame, of which the class number is replaced."""

    def find(self, samples: pd.DataFrame, keys: np.ndarray) -> list[str]:
        """Cropped from the template's videos, or kept in its folders, maybe as PNG."""
        if {"source", "track", "box", "picture"} <= set(samples):
            return challenge_frames(samples, self.keys)
        return frames_of(self.keys, keys)

    def complete(self, scores: np.ndarray, window: np.ndarray, *, fill: bool) -> np.ndarray:
        """A video is a folder; its frames without a face are interpolated, and all smoothed."""
        smoothed, faceless = smooth_videos(scores, self.keys, [""] * len(self.keys), window)
        return _filled(smoothed, scores, faceless, "the frames of the template's videos", fill)

    def content(self, task: Task, scores: np.ndarray, thresholds: np.ndarray) -> bytes:
        """The template with class numbers: all other bytes stay as they are."""
        template = self.path.read_bytes()
        lines, numbers = template.splitlines(keepends=True), [task.taxonomy.numbers[c] for c in scores.argmax(axis=1)]
        for (line, key), number in zip(_frame_lines(template).items(), numbers, strict=True):
            lines[line] = b"%s,%d%s" % (key.encode(), number, lines[line][len(lines[line].rstrip(b"\r\n")):])
        return b"".join(lines)

    def asks_like(self, content: bytes) -> bool:
        return _frame_lines(content) == _frame_lines(self.path.read_bytes())


class VideoTemplate(Template):
    """BLEMORE's: for each video, one or two emotions with their salience in per cent."""

    def find(self, samples: pd.DataFrame, keys: np.ndarray) -> list[str]:
        """By the video's name, whatever its folder and suffix. Raises InputError if several have it."""
        found: dict[str, str] = {}
        for key in keys:
            if found.setdefault(stem := PurePosixPath(key).stem, key) != key:
                raise InputError(f"{found[stem]} and {key} have the same name: which one is {stem} of the template?")
        return [found.get(PurePosixPath(key).stem, key) for key in self.keys]

    def complete(self, scores: np.ndarray, window: np.ndarray, *, fill: bool) -> np.ndarray:
        if len(window) > 1:
            raise InputError("--smooth is of frames: this template asks for one answer a video")
        missing = [key for key, none in zip(self.keys, np.isnan(scores[:, 0]), strict=True) if none]
        return _filled(scores, scores, missing, "these videos", fill)

    def content(self, task: Task, scores: np.ndarray, thresholds: np.ndarray) -> bytes:
        assert isinstance(task, Blends)
        codes = {name: code for code, name in EMOTIONS.items()}
        answers = {key: [{"emotion": codes[task.outputs[c]], "salience": round(100 * float(row[c]), 1)}
                         for c in np.argsort(-row, kind="stable") if row[c] > 0]
                   for key, row in zip(self.keys, task.decided(scores, thresholds), strict=True)}
        return json.dumps({"predictions": answers}, indent=1).encode() + b"\n"

    def asks_like(self, content: bytes) -> bool:
        return set(_answers(content, self.path)) == set(self.keys)


def _filled(scores: np.ndarray, known: np.ndarray, missing: Sequence[str], what: str, fill: bool) -> np.ndarray:
    """(N, C) scores, where they are nan the mean of those known. Raises InputError unless asked to fill, or if all
    are."""
    if missing and (not fill or np.isnan(scores).all()):
        raise InputError(f"{len(missing)} whole videos of the template have no face: "
                         f"{', '.join(sorted(missing)[:60])}; add {what}, or say --fill-videos if they have none "
                         "(they get the mean of all others)")
    return np.where(np.isnan(scores[:, :1]), np.nanmean(known, axis=0), scores) if missing else scores


def _answers(content: bytes, path: Path) -> Mapping[str, object]:
    """The videos of BLEMORE's JSON with their answers. Raises InputError."""
    try:
        if len(content) > MAX_BYTES:
            raise ValueError(f"{len(content):,} bytes are too many")
        answers = json.loads(content)["predictions"]
        if not answers or not all(isinstance(value, list) for value in answers.values()):
            raise ValueError("no list of emotions for each video")
        return answers
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not a template like {{\"predictions\": {{\"test_0001.mov\": [...]}}}}: "
                         f"{first_line(error)}") from None


def _frame_lines(content: bytes) -> dict[int, str]:
    """The frame in each line below the header that is not blank, by the number of the line."""
    filled = [(number, line) for number, line in enumerate(content.splitlines()) if line.strip()]
    return {number: line.partition(b",")[0].strip().decode("utf-8", "replace") for number, line in filled[1:]}
