"""What `predict` draws beside its table: class scores over time, and a video with a box and classes at every face."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from twofold.data.faces.detectors import require_opencv
from twofold.data.faces.settings import Sampling
from twofold.data.faces.sources import Source
from twofold.data.faces.video import VideoError, VideoReader, require_av
from twofold.data.utils.csv_files import read_table
from twofold.data.utils.errors import InputError
from twofold.data.utils.keys import NO_FACE
from twofold.data.utils.outputs import Output, OutputKind, read_head

MARK = "drawn by twofold predict"  #: in the metadata of the files, so that a later run recognises them
MAX_PANELS = 30  #: of a timeline, one a person
MIN_FRAMES = 2  #: of a track with a panel
CLASSES_SHOWN = 3  #: at a face
TIME_BASE = Fraction(1, 90_000)  #: of the written times: every usual frame rate fits
CODECS = ("libx264", "mpeg4")
#: of the classes, in order: the first seven are told apart by colour-blind readers (after Okabe and Ito)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A6D00", "#666666", "#7F3C8D", "#11A579",
           "#B22222", "#2F4F4F", "#A0522D", "#4B0082")


def _is_annotated(path: Path) -> bool:
    av = require_av()
    try:
        with av.open(str(path)) as container:
            return MARK in map(str, container.metadata.values())
    except av.error.FFmpegError:
        return False


TIMELINE = OutputKind("a timeline of `predict`", lambda path: MARK in read_head(path))  # texts stand before the pixels
ANNOTATED = OutputKind("a video that `predict` drew into", _is_annotated)


@dataclass(frozen=True)
class Drawing:
    """timeline: a PNG file; annotate: a video; None is not drawn. overwrite: older ones of ours."""

    timeline: Path | None = None
    annotate: Path | None = None
    overwrite: bool = False

    @property
    def wanted(self) -> bool:
        return bool(self.timeline or self.annotate)

    def check(self, sources: Sequence[Source], out: Path | None, *, submission: bool) -> None:
        """Raises InputError, before anything is computed, for what cannot be drawn or would overwrite an input."""
        videos = [source.path for source in sources if source.video]
        for option, path, suffixes, kind in (("--timeline", self.timeline, (".png",), TIMELINE),
                                             ("--annotate", self.annotate, (".mp4", ".mkv", ".mov"), ANNOTATED)):
            if path is None:
                continue
            if out is None:
                raise InputError(f"{option} draws from the table: name one with -o")
            if path.resolve() == out.resolve():
                raise InputError(f"{option} {path} is the table, too: choose another name")
            if not videos:
                raise InputError(f"{option}: there is no video among the inputs")
            if submission:
                raise InputError(f"{option} needs the table of scores: leave out --submission")
            if path.suffix.lower() not in suffixes:
                raise InputError(f"{option} {path}: a {' or '.join(suffixes)} file can be written")
            if kind is ANNOTATED and len(videos) > 1:
                raise InputError(f"--annotate writes one video, and there are {len(videos)} among the inputs")
            self._output(path, kind, sources).check()
        if self.timeline and find_spec("matplotlib") is None:
            raise InputError("--timeline needs matplotlib: pip install 'twofold[report]' (or matplotlib)")
        if self.annotate:
            with VideoReader() as reader, suppress(VideoError):  # which is reported elsewhere
                facts = reader.facts(videos[0])
                if min(facts.width, facts.height) < 2:
                    raise InputError(f"--annotate: {videos[0]} has frames of {facts.width} x {facts.height} pixels, "
                                     "and at least 2 x 2 can be written")

    def draw(self, sources: Sequence[Source], out: Path, classes: Sequence[str]) -> None:
        """Draw from the table that `predict` wrote to `out`."""
        if not self.wanted:
            return
        table = read_table(pd.read_parquet(out) if out.suffix.lower() == ".parquet" else out)
        if self.timeline:
            draw_timeline(table, classes, self._output(self.timeline, TIMELINE, sources))
        if self.annotate:
            source = next(source for source in sources if source.video)
            annotate_video(source.path, table[table["source"] == source.name], classes,
                           self._output(self.annotate, ANNOTATED, sources))

    def _output(self, path: Path, kind: OutputKind, sources: Sequence[Source]) -> Output:
        return Output(path, kind, self.overwrite, [source.path for source in sources])


def draw_timeline(table: pd.DataFrame, classes: Sequence[str], out: Output) -> None:
    """Write the class scores of a table of `predict` over time as PNG: a panel a person, a line a class, gaps where the
    face was not seen. People seen in a single frame are left out, and counted."""
    from matplotlib.figure import Figure

    videos = {str(source): np.unique(rows["time"].astype(float)) for source, rows in table[table["time"] != ""].groupby(
        "source")}
    seen = table[(table["time"] != "") & (table["track"] != "") & (table["prediction"] != NO_FACE)]
    tracks = [(source, track, rows) for (source, track), rows in seen.groupby(["source", seen["track"].astype(int)])]
    shown = [track for track in tracks if len(track[2]) >= MIN_FRAMES][:MAX_PANELS]
    figure = Figure(figsize=(14, 1.2 + 2.2 * max(1, len(shown))), layout="constrained")
    panels = figure.subplots(max(1, len(shown)), squeeze=False)[:, 0]
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(classes))]
    for panel, (source, track, rows) in zip(panels, shown, strict=False):
        clock, times = videos[str(source)], rows["time"].astype(float).to_numpy()
        panel.set(title=f"{source}, person {track}", xlim=clock[[0, -1]] if len(clock) > 1 else None, ylim=(0, 1),
                  xlabel="seconds", facecolor="#e6e6e6")  # grey: not seen
        panel.title.set_parse_math(False)
        gaps = np.flatnonzero(np.diff(np.searchsorted(clock, times)) > 1) + 1
        scores = rows[list(classes)].astype(float).to_numpy()
        for part in np.split(np.arange(len(times)), gaps):
            panel.axvspan(*times[part[[0, -1]]], color="white", zorder=0)
            for values, colour in zip(scores[part].T, colours, strict=True):
                panel.plot(times[part], values, color=colour, marker="." if len(part) == 1 else None)
    left_out = len(tracks) - len(shown)
    note = f"{left_out} more, seen in a single frame or beyond {MAX_PANELS}" if left_out else ""
    figure.supxlabel(note if shown else "nobody was seen in more than one frame", fontsize="small")
    lines = [panels[0].plot([], color=colour)[0] for colour in colours]
    figure.legend(lines, classes, loc="outside upper left", ncols=6)
    with out.writing() as temporary:
        figure.savefig(temporary, format="png", dpi=100, metadata={"Software": MARK})


def annotate_video(video: Path, rows: pd.DataFrame, classes: Sequence[str], out: Output) -> None:
    """Write the video with the rows of `predict` drawn into it, without its sound, whole or not at all. Every frame is
    written, at its own time; between frames that were used, the last answer stays."""
    av, cv2 = require_av(), require_opencv()
    answers = {int(str(frame)): group for frame, group in rows[rows["frame"] != ""].groupby("frame")}
    current, stamp, size = pd.DataFrame(columns=rows.columns), -1, ()
    stream: Any = None
    with VideoReader() as reader, out.writing() as temporary, av.open(str(temporary), "w") as container:
        rate = reader.facts(video).rate
        container.metadata["comment"] = MARK
        with suppress(VideoError):  # the annotated video ends where its source does; the table says why
            for frame in reader.frames(video, Sampling()):
                size = size or tuple(side // 2 * 2 for side in frame.pixels.shape[1::-1])
                pixels = frame.pixels[:size[1], :size[0]].copy()
                if pixels.shape[1::-1] != size:  # the video changes its size on the way
                    pixels = cv2.resize(frame.pixels, size)
                stream = stream or _add_stream(av, container, size, rate)
                current = answers.get(frame.index, current)
                for _, row in current[current["box"] != ""].iterrows():
                    _draw_face(pixels, row, classes)
                image = av.VideoFrame.from_ndarray(np.asarray(pixels, np.uint8), format="bgr24")
                stamp = max(stamp + 1, round(Fraction(frame.time) / TIME_BASE))
                image.pts, image.time_base = stamp, TIME_BASE
                container.mux(stream.encode(image))
        if stream is not None:
            container.mux(stream.encode())


def _add_stream(av: Any, container: Any, size: tuple[int, int], rate: float) -> Any:
    codec = next(name for name in CODECS if name in av.codecs_available)
    stream = container.add_stream(codec, rate=Fraction(rate or 25).limit_denominator(1001))
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = TIME_BASE
    if codec == "libx264":
        stream.options = {"crf": "20", "preset": "veryfast"}
    else:
        stream.bit_rate = 4_000_000
    return stream


def _draw_face(pixels: np.ndarray, row: pd.Series, classes: Sequence[str]) -> None:
    """Draw a box, and the track and leading classes below it, or above it where there is no room below."""
    cv2, (height, width) = require_opencv(), pixels.shape[:2]
    scores = row[list(classes)].astype(float).nlargest(CLASSES_SHOWN)
    texts = [f"person {row['track']}" + (": uncertain" if row["prediction"] == "uncertain" else ""),
             *(f"{name} {score:.2f}" for name, score in scores.items())]
    code = COLOURS[int(row["track"] or 0) % len(COLOURS)]
    box = [float(value) for value in row["box"].split()]
    x, y, right, bottom = round(box[0]), round(box[1]), round(box[0] + box[2]), round(box[1] + box[3])
    thick, size = max(1, round(height / 300)), max(0.45, height / 900)
    cv2.rectangle(pixels, (x, y), (right, bottom), tuple(int(code[at:at + 2], 16) for at in (5, 3, 1)), thick)
    step = round(32 * size)
    top = bottom + step if bottom + step * len(texts) < height else max(step, y - step * len(texts) + step // 2)
    for number, text in enumerate(texts):
        origin = (max(2, min(x, width - round(step * 0.62 * len(text)))), min(height - 3, top + number * step))
        for shade, weight in (((0, 0, 0), thick + 2), ((255, 255, 255), thick + (number == 1))):  # the first class bold
            cv2.putText(pixels, text, origin, cv2.FONT_HERSHEY_SIMPLEX, size, shade, weight, cv2.LINE_AA)
