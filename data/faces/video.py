"""Stream the frames of a video file or an animation: upright, with their true times, as long as it can be read.

Videos are decoded in a process of their own (video_worker.py), which is ended when it says nothing for a while: a file
that crashes FFmpeg, or keeps it busy without end, costs that file and no more.
"""

import contextlib
import io
import json
import mmap
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Collection, Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from twofold.data.faces.settings import Sampling
from twofold.data.images.archives import ArchivePath, Place
from twofold.data.images.decode import (
    LEFT_OUT,
    REMARKS,
    count_images,
    decode,
    fit,
    formats_for,
    upright_rgb,
)
from twofold.data.images.formats import HEAD_BYTES, image_format
from twofold.data.images.limits import (
    MAX_FILE_BYTES,
    MAX_PARTS,
    PHOTO_LIMITS,
    TIFF_STARTS,
    ImageError,
    TimedFile,
    tiff_images,
)
from twofold.data.images.sources import read_file
from twofold.data.utils.errors import InputError
from twofold.data.utils.machine import usable_cores

MAX_SILENCE = 60.0  #: seconds without a message from the worker
SHARED_BYTES = 400_000_000  #: that both processes map, as in video_worker.py
WORKER = Path(__file__).with_name("video_worker.py")
#: formats whose further images are frames, shots of a burst, or pages
ANIMATED = ("GIF", "PNG", "WEBP", "AVIF", "HEIF", "TIFF")
MAX_HEAD_BYTES = 1 << 16  #: in which a JPEG is expected to list its further pictures
NEXT_JPEG = re.compile(rb"\xff\xd9[^\xff]{0,256}\xff\xd8\xff")  #: the end of one and the beginning of another
MAX_ANIMATION_PIXELS = 20_000_000_000  #: of all frames together


class VideoError(Exception):
    """A file that cannot be read as a video, or no further; the message is the reason."""


@dataclass(frozen=True)
class Frame:
    """index: position among all frames of the file, from 0; time: seconds since the first; pixels: (H, W, 3) BGR uint8,
    upright, empty for a frame that was to be skipped."""

    index: int
    time: float
    pixels: np.ndarray


@dataclass(frozen=True)
class VideoFacts:
    """What a file's header says: frames (an estimate, 0 where unknown), their rate in 1/s, width and height."""

    frames: int
    rate: float
    width: int
    height: int


class VideoReader(contextlib.AbstractContextManager):
    """Reads videos, one at a time, in one worker process, which is started anew where it was lost. threads: of the
    decoder, 0 for one a core; each more costs some time of all."""

    def __init__(self, threads: int = 0) -> None:
        self.threads = threads or usable_cores()
        self._process: subprocess.Popen[bytes] | None = None
        self.remarks = Counter[str]()  #: of the decoder, on animations

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker process."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._connection.close()
            self._process = None

    def facts(self, path: Path) -> VideoFacts:
        """Raises VideoError for a file without a video that can be decoded."""
        if is_animation(path):
            content = path.read_bytes()
            with Image.open(path, formats=formats_for(content)) as image:
                return VideoFacts(count_images(content), 0.0, *image.size)
        with contextlib.closing(self._ask(path)) as messages:
            return VideoFacts(**next(messages)["facts"])

    def frames(self, path: Path, sampling: Sampling, skip: Collection[int] = ()) -> Iterator[Frame]:
        """The frames that `sampling` selects, in order of time. Holds one at a time. skip: indices without pixels.
        Damaged parts are skipped. Raises VideoError, after the last frame that could be read, where parts were damaged
        or the file ends before it should."""
        if is_animation(path):
            yield from _animation(path, sampling, self.remarks)
            return
        request = asdict(sampling) | {"skip": sorted(skip), "threads": self.threads}
        with contextlib.closing(self._ask(path, **request)) as messages:
            for message in messages:
                pixels = np.empty((0, 0, 3), np.uint8)
                if "at" in message:
                    height, width, _ = shape = message["shape"]
                    shared = np.frombuffer(self._memory, np.uint8, 3 * height * width, message["at"])
                    pixels = shared.reshape(shape).copy()
                    self._connection.send_bytes(b"done")
                if "frame" in message:
                    yield Frame(message["frame"], message["time"], pixels)

    def _ask(self, path: Path, **request: Any) -> Generator[dict[str, Any]]:
        """The worker's messages, the last one included. Raises VideoError."""
        require_av()
        try:
            request |= {"path": os.fspath(path), "size": path.stat().st_size}
        except OSError as error:
            raise VideoError(f"unreadable file ({error.strerror})") from None
        if not self._process:
            self._start()
        done = False
        try:
            self._connection.send_bytes(json.dumps(request).encode())
            while not done:
                if not self._connection.poll(MAX_SILENCE):
                    raise VideoError(f"keeps the decoder busy: not a frame in {MAX_SILENCE:.0f} seconds")
                message = json.loads(self._connection.recv_bytes())
                done = not message.keys().isdisjoint(("end", "error", "facts"))
                if "error" in message:
                    raise VideoError(message["error"])
                yield message
        except (ConnectionError, EOFError):
            raise VideoError("crashes the decoder") from None
        finally:
            if not done:
                self.close()

    def _start(self) -> None:
        """Start the worker with this process's packages (-P: and not the modules beside the script)."""
        packages = os.pathsep.join(place for place in sys.path if os.path.isabs(place))
        in_memory = hasattr(os, "memfd_create")
        self._connection, theirs = multiprocessing.Pipe()
        with theirs, open(os.memfd_create("frames"), "r+b") if in_memory else tempfile.TemporaryFile() as file:
            os.truncate(file.fileno(), SHARED_BYTES)
            self._memory = mmap.mmap(file.fileno(), SHARED_BYTES)
            shared = theirs.fileno(), file.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(WORKER), *map(str, shared)], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=shared,
                env=os.environ | {"PYTHONPATH": packages}, start_new_session=True)  # Ctrl-C is for this process


def _announces_frames(png: BinaryIO) -> bool:
    """Whether a PNG has the chunk that makes it an animation, which comes before its pixels."""
    png.seek(8)
    for _ in range(MAX_PARTS):
        head = png.read(8)
        if len(head) < 8 or head[4:] in (b"acTL", b"IDAT"):
            return head[4:] == b"acTL"
        png.seek(4 + int.from_bytes(head[:4], "big"), os.SEEK_CUR)
    return False


def is_animation(place: Place) -> bool:
    """Whether an image file has several frames or pages, as GIF, APNG, WebP, AVIF, TIFF and HEIC bursts may."""
    try:
        with io.BytesIO(place.read_bytes()) if isinstance(place, ArchivePath) else place.open("rb") as file:
            kind = image_format(file.read(HEAD_BYTES))
            if kind is None or kind.name not in ANIMATED or (kind.name == "PNG" and not _announces_frames(file)):
                return False
            content = file.getvalue() if isinstance(file, io.BytesIO) else read_file(Path(str(place)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return count_images(content) > 1
    except Exception:  # decoders raise anything; reading it as an image reports why
        return False


def is_jpeg_stream(path: Path) -> bool:
    """Whether a file that begins as a JPEG has another right after it, as raw Motion JPEG has. Photographs with a
    second view (MPO), which say so in their head, are none."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES)
    except OSError:
        return False
    return b"MPF\0" not in content[:MAX_HEAD_BYTES] and NEXT_JPEG.search(content) is not None


def _animation(path: Path, sampling: Sampling, remarks: Counter[str]) -> Iterator[Frame]:
    """The frames of an animated image, transparent parts on white, or the pages of a TIFF; one without a duration lasts
    0.1 s. remarks: counts those of the decoder."""
    elapsed, due = 0.0, 0.0
    try:
        content = read_file(path)
        for index, (image, seconds) in enumerate(_images(content, remarks)):
            if elapsed * sampling.fps >= due if sampling.fps else index % sampling.every == 0:
                due = int(elapsed * sampling.fps) + 1
                yield Frame(index, elapsed, np.ascontiguousarray(np.asarray(image)[..., ::-1]))
            elapsed += seconds
    except (VideoError, GeneratorExit):
        raise
    except ImageError as error:
        raise VideoError(str(error)) from None
    except Exception as error:  # decoders raise anything
        raise VideoError(f"is damaged ({type(error).__name__})") from None


def _images(content: bytes, remarks: Counter[str]) -> Iterator[tuple[Image.Image, float]]:
    """RGB images of an animation with their durations in seconds."""
    count = count_images(content)
    if content[:4] in TIFF_STARTS:
        for page in tiff_images(content):
            image = decode(page)
            remarks.update({remark: count for remark, count in image.info[REMARKS].items() if remark != LEFT_OUT})
            yield image, 0.1
        return
    if count > MAX_PARTS:
        raise VideoError(f"has more than {MAX_PARTS} frames")
    file = TimedFile(content)
    with Image.open(file, formats=formats_for(content)) as image:
        fit(image, PHOTO_LIMITS, content)
        if count * image.width * image.height > MAX_ANIMATION_PIXELS:
            raise VideoError(f"has more than {MAX_ANIMATION_PIXELS} pixels in all frames together")
        first = int(getattr(image, "default_image", False))  # an APNG may have a picture before its frames
        for index in range(first, first + count):
            file.restart()
            image.seek(index)
            image.load()
            yield upright_rgb(image, remarks=remarks), (image.info.get("duration") or 100) / 1000


def require_av():
    """The module av, quiet. Raises InputError where it is not installed."""
    try:
        import av
        import av.error
        import av.logging
    except ImportError:
        raise InputError("videos need PyAV: pip install 'twofold[footage]' (or av)") from None
    av.logging.set_level(None)
    return av
