"""Films of coloured heads whose places are known, and a detector that finds them: no weights, no photographs."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from twofold.data.faces.detectors import Detection, DetectorModel
from twofold.data.faces.video import VideoReader

RED, GREEN = (230, 30, 30), (30, 200, 30)  #: RGB of two people
GREY = 128
READER = VideoReader()  #: one process for the films of all tests; it ends with them


class Blobs:
    """Finds the bounding box of all pixels of a person's colour; its landmarks lie at fixed shares of the box."""

    def detect(self, image: np.ndarray) -> list[Detection]:
        faces = []
        for colour in (RED, GREEN):
            away = np.abs(image[..., ::-1].astype(int) - colour).max(axis=2)
            rows, columns = np.nonzero(away < 60)
            if len(rows) < 100:
                continue
            x, y, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            width, height = right - x, bottom - y
            points = ((0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8))
            faces.append(Detection((float(x), float(y), float(width), float(height)), tuple(
                (float(x + width * a), float(y + height * b)) for a, b in points), 0.9))
        return sorted(faces, key=lambda face: -face.box[2] * face.box[3])


BLOBS = DetectorModel("b" * 64, lambda settings: Blobs())


def still(*heads: tuple[tuple[int, int, int], int, int], width: int = 160, height: int = 96, side: int = 32
          ) -> np.ndarray:
    """(H, W, 3) RGB: grey, with a square head of (colour, x, y) each."""
    image = np.full((height, width, 3), GREY, np.uint8)
    for colour, x, y in heads:
        image[y:y + side, x:x + side] = colour
    return image


def film(path: Path, frames: list[np.ndarray], *, rate: int = 25, stamps: list[int] | None = None,
         time_base: Fraction | None = None, codec: str = "mpeg4", pixels: str = "yuv420p",
         metadata: dict[str, str] | None = None) -> Path:
    """Write a video; stamps: each frame's time in units of `time_base`, by default one a frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.metadata.update(metadata or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.bit_rate = pixels, 4_000_000
        if time_base:
            stream.codec_context.time_base = time_base
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = stamps[number] if stamps else number
            frame.time_base = time_base or Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def sound(path: Path) -> Path:
    """A file with half a second of sound and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def set_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Write the display matrix of an MP4 file: (x, y) is shown at (a x + c y, b x + d y)."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44
    content[start:start + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path
