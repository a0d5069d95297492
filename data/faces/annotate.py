"""The answers drawn into a video: a box around every face, and its leading classes beside it."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from twofold.data.faces.detect import require_opencv
from twofold.data.faces.settings import Sampling
from twofold.data.faces.timeline import COLOURS, MARK
from twofold.data.faces.video import VideoError, read_frames, require_av, video_facts
from twofold.data.utils.outputs import Output, OutputKind

LEADING = 3  #: classes named at a face
CLOCK = Fraction(1, 90_000)  #: of the written times: every usual frame rate fits
CODECS = ("libx264", "mpeg4")


def annotate(video: Path, rows: pd.DataFrame, classes: Sequence[str], out: Output) -> None:
    """Write the video with the rows of `predict` drawn into it, without its sound, whole or not at all.

    Every frame is written, at its own time; between frames that were looked at, the last answer stays.
    """
    answers = {int(str(frame)): group for frame, group in rows[rows["frame"] != ""].groupby("frame")}
    with out.writing() as temporary:
        _write(video, answers, classes, temporary)


def _is_annotated(path: Path) -> bool:
    av = require_av()
    try:
        with av.open(str(path)) as container:
            return MARK in map(str, container.metadata.values())
    except av.error.FFmpegError:
        return False


ANNOTATED = OutputKind("a video that `predict` drew into", _is_annotated)


def _write(video: Path, answers: dict[int, pd.DataFrame], classes: Sequence[str], out: Path) -> None:
    av = require_av()
    current, stamp = None, -1
    stream: Any = None
    with av.open(str(out), "w") as container:
        container.metadata["comment"] = MARK
        try:
            for frame in read_frames(video, Sampling()):
                pixels = frame.pixels()
                pixels = np.ascontiguousarray(pixels[:pixels.shape[0] // 2 * 2, :pixels.shape[1] // 2 * 2])
                if stream is None:
                    stream = _stream(av, container, pixels, video_facts(video).rate)
                current = answers.get(frame.index, current)
                if current is not None:
                    _draw(pixels, current, classes)
                picture = av.VideoFrame.from_ndarray(pixels, format="bgr24")
                stamp = max(stamp + 1, round(Fraction(frame.time) / CLOCK))
                picture.pts, picture.time_base = stamp, CLOCK
                container.mux(stream.encode(picture))
        except VideoError:  # it ends where it ends; the table says why
            pass
        if stream is not None:
            container.mux(stream.encode())


def _stream(av: Any, container: Any, pixels: np.ndarray, rate: float) -> Any:
    codec = next(name for name in CODECS if name in av.codecs_available)
    stream = container.add_stream(codec, rate=Fraction(rate or 25).limit_denominator(1001))
    stream.height, stream.width = pixels.shape[:2]
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = CLOCK
    if codec == "libx264":
        stream.options = {"crf": "20", "preset": "veryfast"}
    else:
        stream.bit_rate = 4_000_000
    return stream


def _draw(pixels: np.ndarray, rows: pd.DataFrame, classes: Sequence[str]) -> None:
    for _, row in rows[rows["box"] != ""].iterrows():
        scores = row[list(classes)].astype(float)
        box = [float(value) for value in row["box"].split()]
        label = f"person {row['track']}" + (": uncertain" if row["prediction"] == "uncertain" else "")
        _draw_face(pixels, box, label, scores.nlargest(LEADING), int(row["track"] or 0))


def _draw_face(pixels: np.ndarray, box: Sequence[float], label: str, scores: pd.Series, track: int) -> None:
    """The lines stand below the box, or above it where there is no room below; the likeliest class first, bold."""
    cv2 = require_opencv()
    height, width = pixels.shape[:2]
    code = COLOURS[track % len(COLOURS)]
    colour = tuple(int(code[place:place + 2], 16) for place in (5, 3, 1))
    x, y, right, bottom = round(box[0]), round(box[1]), round(box[0] + box[2]), round(box[1] + box[3])
    thick = max(1, round(height / 300))
    cv2.rectangle(pixels, (x, y), (right, bottom), colour, thick)
    size = max(0.45, height / 900)
    step = round(32 * size)
    texts = [label, *(f"{name} {score:.2f}" for name, score in scores.items())]
    top = bottom + step if bottom + step * len(texts) < height else max(step, y - step * len(texts) + step // 2)
    for number, text in enumerate(texts):
        place = (max(2, min(x, width - round(step * 0.62 * len(text)))), min(height - 3, top + number * step))
        for shade, weight in (((0, 0, 0), thick + 2), ((255, 255, 255), thick + (number == 1))):
            cv2.putText(pixels, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, shade, weight, cv2.LINE_AA)
