"""Stream the frames of a video file: upright, with their true times, as long as the file can be read."""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from twofold.data.faces.settings import Sampling
from twofold.data.utils.errors import InputError

MAX_PIXELS = 64_000_000  #: of a frame, as of a picture


class VideoError(Exception):
    """A file that cannot be read as a video, or no further; the message is the reason."""


@dataclass(frozen=True)
class Frame:
    """index: position among all frames of the file, from 0; time: seconds since the first; pixels: returns the
    (H, W, 3) BGR image, upright (a function, so that skipped frames cost no conversion); pixel_count: H x W."""

    index: int
    time: float
    pixels: Callable[[], np.ndarray]
    pixel_count: int


@dataclass(frozen=True)
class VideoFacts:
    """What a file's header says: frames (an estimate, 0 where unknown), their rate in 1/s, width and height."""

    frames: int
    rate: float
    width: int
    height: int


def video_facts(path: Path) -> VideoFacts:
    """Raises VideoError for a file without a video that can be decoded."""
    with _opened(path) as container:
        stream = _stream(container)
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        seconds = float(_length(container, stream)) or (container.duration or 0) / 1e6
        return VideoFacts(stream.frames or max(0, round(seconds * rate)), rate, stream.width, stream.height)


def read_frames(path: Path, sampling: Sampling) -> Iterator[Frame]:
    """The frames that `sampling` wants, in order of time. Holds one at a time.

    What is damaged in between is passed over. Raises VideoError, after the last frame that could be read, where parts
    were damaged or the file ends before it should.
    """
    index, due = -1, 0
    first: Fraction | None = None
    last: Fraction | None = None
    with _opened(path) as container:
        stream = _stream(container)
        stream.thread_type = "AUTO"
        step = 1 / Fraction(stream.average_rate or stream.guessed_rate or 25)
        length = _length(container, stream)
        damage: list[str] = []
        for index, picture in enumerate(_decoded(container, stream, damage)):
            if picture.width * picture.height > MAX_PIXELS:
                raise VideoError(f"has frames of more than {MAX_PIXELS} pixels")
            stamp = _stamp(picture)
            time = last + step if stamp is None and last is not None else stamp or Fraction(0)
            time = time if last is None or time > last else last  # a clock set back: time stands, frames go on
            first, last = (time if first is None else first), time
            elapsed = time - first
            if sampling.fps:
                if elapsed * Fraction(sampling.fps) < due:
                    continue
                due = math.floor(elapsed * Fraction(sampling.fps)) + 1
            elif index % sampling.every:
                continue
            yield Frame(index, float(elapsed), _upright(picture), picture.width * picture.height)
    if first is None or last is None:
        raise VideoError(f"no frame in it can be decoded{f' ({damage[0]})' if damage else ''}")
    end = last + step - min(first, 0)  # some clocks begin late and count from 0 all the same
    if end < length - max(Fraction(1, 2), 5 * step, length / 50):  # edit lists cut a few frames off
        shown = f"{float(end):.1f} of {float(length):.1f} s"
        raise VideoError(f"ends after {shown}: the rest is missing or damaged")
    if damage:
        raise VideoError(f"is damaged in {len(damage)} places, where frames are missing ({damage[0]})")


def _decoded(container, stream, damage: list[str]) -> Iterator:
    """Every picture that can be decoded; why others cannot is noted in `damage`."""
    av = require_av()
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError as error:  # the file itself cannot be read on
            damage.append(error.strerror or "damaged")
            return
        try:
            yield from packet.decode()
        except av.error.FFmpegError as error:
            damage.append(error.strerror or "damaged")


def _length(container, stream) -> Fraction:
    """Seconds that the file says it lasts, 0 where it does not; sound may go on longer than the picture."""
    if stream.duration and stream.time_base:
        return stream.duration * Fraction(stream.time_base)
    written = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))  # Matroska's
    if written:
        return 3600 * int(written[1]) + 60 * int(written[2]) + Fraction(written[3])
    return Fraction(0) if container.streams.audio else Fraction(container.duration or 0, 1_000_000)


def _stamp(picture) -> Fraction | None:
    if picture.pts is None or picture.time_base is None:
        return None
    return picture.pts * Fraction(picture.time_base)


def _upright(picture) -> Callable[[], np.ndarray]:
    """Turned as the file's rotation says, pixels made square."""
    turns = round((picture.rotation or 0) / 90) % 4
    aspect = picture.sample_aspect_ratio if hasattr(picture, "sample_aspect_ratio") else None

    def pixels() -> np.ndarray:
        width = round(picture.width * aspect) if aspect and 0.2 < aspect < 5 else picture.width
        array = picture.to_ndarray(format="bgr24", width=width, height=picture.height)
        return np.ascontiguousarray(np.rot90(array, turns)) if turns else array

    return pixels


def _opened(path: Path):
    av = require_av()
    try:
        if not path.stat().st_size:
            raise VideoError("empty file")
        return av.open(str(path), metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise VideoError(f"not a video that can be read ({error.strerror or type(error).__name__})") from None
    except OSError as error:
        raise VideoError(f"unreadable file ({error.strerror})") from None


def _stream(container):
    """The first video stream that is no cover picture of a sound file. Raises VideoError."""
    av = require_av()
    streams = [stream for stream in container.streams.video
               if not stream.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise VideoError("no video in it, only sound" if container.streams.audio else "no video in it")
    if streams[0].codec_context is None:
        raise VideoError("its codec is unknown here")
    return streams[0]


def require_av():
    """The module av, quiet. Raises InputError where it is not installed."""
    try:
        import av
        import av.error
        import av.logging
        import av.stream
    except ImportError:
        raise InputError("videos need PyAV: pip install 'twofold[footage]' (or av)") from None
    av.logging.set_level(None)
    return av
