"""What `predict` draws beside its table: a timeline, and a video with a box and the leading classes at every face."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from twofold.data.faces.detectors import require_opencv
from twofold.data.faces.settings import Sampling
from twofold.data.faces.sources import Source
from twofold.data.faces.timeline import COLOURS, MARK, TIMELINE, draw_timeline, require_matplotlib
from twofold.data.faces.video import VideoError, VideoReader, require_av
from twofold.data.utils.csv_files import read_table
from twofold.data.utils.errors import InputError
from twofold.data.utils.outputs import Output, OutputKind

CLASSES_SHOWN = 3  #: at a face
TIME_BASE = Fraction(1, 90_000)  #: of the written times: every usual frame rate fits
CODECS = ("libx264", "mpeg4")


@dataclass(frozen=True)
class Drawing:
    """timeline: a PNG file; annotate: a video; None is not drawn. overwrite: older ones of ours."""

    timeline: Path | None = None
    annotate: Path | None = None
    overwrite: bool = False

    @property
    def wanted(self) -> bool:
        return bool(self.timeline or self.annotate)

    def check(self, sources: Sequence[Source], out: Path, *, submission: bool) -> None:
        """Raises InputError, before anything is computed, for what cannot be drawn or would overwrite an input."""
        videos = [source for source in sources if source.video]
        for option, path in (("--timeline", self.timeline), ("--annotate", self.annotate)):
            if path is None:
                continue
            if path.resolve() == out.resolve():
                raise InputError(f"{option} {path} is the table, too: choose another name")
            if not videos:
                raise InputError(f"{option}: there is no video among the inputs")
            if submission:
                raise InputError(f"{option} needs the table of scores: leave out --submission")
        if self.timeline and self.timeline.suffix.lower() != ".png":
            raise InputError(f"--timeline {self.timeline}: the timeline is a .png file")
        if self.timeline:
            require_matplotlib()
        if self.annotate and self.annotate.suffix.lower() not in (".mp4", ".mkv", ".mov"):
            raise InputError(f"--annotate {self.annotate}: a .mp4, .mkv or .mov file can be written")
        if self.annotate and len(videos) > 1:
            raise InputError(f"--annotate writes one video, and there are {len(videos)} among the inputs")
        if self.annotate:
            _check_frame_size(videos[0].path)
        for path, kind in ((self.timeline, TIMELINE), (self.annotate, ANNOTATED)):
            if path:
                self._output(path, kind, sources).check()

    def draw(self, sources: Sequence[Source], out: Path, classes: Sequence[str]) -> None:
        """Draw from the table that `predict` wrote to `out`."""
        table = read_table(out) if self.wanted else pd.DataFrame()
        if self.timeline:
            draw_timeline(table, classes, self._output(self.timeline, TIMELINE, sources))
        if self.annotate:
            source = next(source for source in sources if source.video)
            annotate_video(source.path, table[table["source"] == source.name], classes,
                           self._output(self.annotate, ANNOTATED, sources))

    def _output(self, path: Path, kind: OutputKind, sources: Sequence[Source]) -> Output:
        return Output(path, kind, self.overwrite, [source.path for source in sources])


def annotate_video(video: Path, rows: pd.DataFrame, classes: Sequence[str], out: Output) -> None:
    """Write the video with the rows of `predict` drawn into it, without its sound, whole or not at all.

    Every frame is written, at its own time; between frames that were used, the last answer stays.
    """
    av = require_av()
    answers = {int(str(frame)): group for frame, group in rows[rows["frame"] != ""].groupby("frame")}
    current, stamp, size = None, -1, ()
    stream: Any = None
    with VideoReader() as reader, out.writing() as temporary, av.open(str(temporary), "w") as container:
        rate = reader.facts(video).rate
        container.metadata["comment"] = MARK
        try:
            for frame in reader.frames(video, Sampling()):
                assert frame.pixels is not None
                size = size or tuple(side // 2 * 2 for side in frame.pixels.shape[1::-1])
                pixels = frame.pixels[:size[1], :size[0]].copy()
                if pixels.shape[1::-1] != size:  # the video changes its size on the way
                    pixels = require_opencv().resize(frame.pixels, size)
                if stream is None:
                    stream = _add_stream(av, container, pixels, rate)
                current = answers.get(frame.index, current)
                if current is not None:
                    _draw_rows(pixels, current, classes)
                image = av.VideoFrame.from_ndarray(np.asarray(pixels, np.uint8), format="bgr24")
                stamp = max(stamp + 1, round(Fraction(frame.time) / TIME_BASE))
                image.pts, image.time_base = stamp, TIME_BASE
                container.mux(stream.encode(image))
        except VideoError:  # the annotated video ends where its source does; the table says why
            pass
        if stream is not None:
            container.mux(stream.encode())


def _check_frame_size(video: Path) -> None:
    """Raises InputError for frames of which no video can be written. What cannot be read is reported elsewhere."""
    with VideoReader() as reader, contextlib.suppress(VideoError):
        facts = reader.facts(video)
        if min(facts.width, facts.height) < 2:
            raise InputError(f"--annotate: {video} has frames of {facts.width} x {facts.height} pixels, and at least "
                             "2 x 2 can be written")


def _is_annotated(path: Path) -> bool:
    av = require_av()
    try:
        with av.open(str(path)) as container:
            return MARK in map(str, container.metadata.values())
    except av.error.FFmpegError:
        return False


ANNOTATED = OutputKind("a video that `predict` drew into", _is_annotated)


def _add_stream(av: Any, container: Any, pixels: np.ndarray, rate: float) -> Any:
    codec = next(name for name in CODECS if name in av.codecs_available)
    stream = container.add_stream(codec, rate=Fraction(rate or 25).limit_denominator(1001))
    stream.height, stream.width = pixels.shape[:2]
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = TIME_BASE
    if codec == "libx264":
        stream.options = {"crf": "20", "preset": "veryfast"}
    else:
        stream.bit_rate = 4_000_000
    return stream


def _draw_rows(pixels: np.ndarray, rows: pd.DataFrame, classes: Sequence[str]) -> None:
    for _, row in rows[rows["box"] != ""].iterrows():
        box = [float(value) for value in row["box"].split()]
        label = f"person {row['track']}" + (": uncertain" if row["prediction"] == "uncertain" else "")
        scores = row[list(classes)].astype(float).nlargest(CLASSES_SHOWN)
        _draw_face(pixels, box, [label, *(f"{name} {score:.2f}" for name, score in scores.items())],
                   int(row["track"] or 0))


def _draw_face(pixels: np.ndarray, box: Sequence[float], texts: Sequence[str], track: int) -> None:
    """Draw a box, and the texts below it, or above it where there is no room below; the second one bold."""
    cv2 = require_opencv()
    height, width = pixels.shape[:2]
    code = COLOURS[track % len(COLOURS)]
    colour = tuple(int(code[start:start + 2], 16) for start in (5, 3, 1))
    x, y, right, bottom = round(box[0]), round(box[1]), round(box[0] + box[2]), round(box[1] + box[3])
    thick, size = max(1, round(height / 300)), max(0.45, height / 900)
    cv2.rectangle(pixels, (x, y), (right, bottom), colour, thick)
    step = round(32 * size)
    top = bottom + step if bottom + step * len(texts) < height else max(step, y - step * len(texts) + step // 2)
    for number, text in enumerate(texts):
        origin = (max(2, min(x, width - round(step * 0.62 * len(text)))), min(height - 3, top + number * step))
        for shade, weight in (((0, 0, 0), thick + 2), ((255, 255, 255), thick + (number == 1))):
            cv2.putText(pixels, text, origin, cv2.FONT_HERSHEY_SIMPLEX, size, shade, weight, cv2.LINE_AA)
