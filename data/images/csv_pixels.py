"""Faces kept as numbers in a CSV file (FER2013's `fer2013.csv`), each readable as an image file by its row."""

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twofold.data.images.limits import MAX_FILE_BYTES, ImageError
from twofold.data.utils.csv_files import detect_separator
from twofold.data.utils.errors import InputError

BLOCK = 1 << 24


@dataclass(frozen=True)
class PixelTable:
    """A CSV file with a column `pixels`: where each row starts, so that any face is one read away."""

    path: Path
    starts: np.ndarray  #: (rows + 1,) byte offsets, the end of the file last
    column: int
    columns: int
    separator: str = ","

    def __len__(self) -> int:
        return len(self.starts) - 1

    def read(self, row: int) -> bytes:
        """The face in a row (from 0, below the header) as a PNG file, the same bytes everywhere. Raises ImageError."""
        if not 0 <= row < len(self):
            raise ImageError("no such row")
        size = self.starts[row + 1] - self.starts[row]
        if size > MAX_FILE_BYTES:
            raise ImageError(f"row larger than {MAX_FILE_BYTES >> 20} MB")
        with self.path.open("rb") as file:
            file.seek(self.starts[row])
            cells = file.read(size).split(self.separator.encode())
        if len(cells) != self.columns:
            raise ImageError("row with other columns")
        try:
            values = bytes(map(int, cells[self.column].strip(b' "\r\n').split()))
        except ValueError:
            raise ImageError("pixel values not 0 to 255") from None
        side = math.isqrt(len(values))
        if not values or side * side != len(values):
            raise ImageError("pixel values not a square")
        return encode_png(values, side)


def open_pixel_table(path: Path) -> PixelTable:
    """Find the rows of a file with a column `pixels`. Raises InputError if it has none."""
    with path.open("rb") as file:
        header = file.readline()
        text = header.decode("utf-8-sig", "replace")
        separator = detect_separator(text)
        names = [name.strip(' "\r\n') for name in text.split(separator)]
        if "pixels" not in names:
            raise InputError(f"{path}: no column 'pixels'; it has {', '.join(names)[:200]}")
        starts, place = [np.array([len(header)])], len(header)
        while block := file.read(BLOCK):
            starts.append(np.flatnonzero(np.frombuffer(block, np.uint8) == 10) + place + 1)
            place += len(block)
    offsets = np.concatenate([*starts, [place]] if starts[-1][-1:] != place else starts)
    return PixelTable(path, offsets, names.index("pixels"), len(names), separator)


def encode_png(grey: bytes, side: int) -> bytes:
    """A grey PNG of side x side bytes, stored uncompressed: no compressor's version can change the file's hash."""
    rows = b"".join(b"\0" + grey[place:place + side] for place in range(0, len(grey), side))
    blocks = [rows[place:place + 65535] for place in range(0, len(rows), 65535)]
    stored = b"".join(struct.pack("<BHH", block is blocks[-1], len(block), 65535 - len(block)) + block
                      for block in blocks)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)),
              (b"IDAT", b"\x78\x01" + stored + struct.pack(">I", zlib.adler32(rows))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(body)) + kind + body + struct.pack(
        ">I", zlib.crc32(kind + body)) for kind, body in chunks)


def row_key(file: str, row: int) -> str:
    """The key of a face inside a CSV file: `fer2013.csv/0000006.png` is row 6."""
    return f"{file}/{row:07d}.png"


def parse_row_key(key: str) -> tuple[str, int] | None:
    """File and row that a key names, or None if it names a file of its own."""
    folder, _, name = key.rpartition("/")
    stem, dot, suffix = name.rpartition(".")
    inside = folder.lower().endswith(".csv") and dot and suffix == "png" and stem.isdecimal()
    return (folder, int(stem)) if inside else None
