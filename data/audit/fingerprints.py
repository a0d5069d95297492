"""What an image file is, exactly (SHA-256) and to the eye (difference hashes), for many files at once."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import numpy as np
from PIL import Image

from twofold.data.images.decode import ImageError, decode
from twofold.data.images.sources import Faces

FLAT = 2.0  #: standard deviation of grey levels below which a picture shows nothing to compare
FEW = 4000  #: faces that are hashed sooner than processes start


@dataclass(frozen=True)
class Fingerprints:
    """N image files in order; a file that cannot be read has a reason and zeros elsewhere."""

    sha256: np.ndarray  #: (N, 32) uint8
    coarse: np.ndarray  #: (N,) uint64, difference hash of 8 x 8 bits
    fine: np.ndarray  #: (N, 4) uint64, difference hash of 16 x 16 bits
    shows: np.ndarray  #: (N,) bool, false for pictures too flat to compare by eye
    reasons: np.ndarray  #: (N,) text, empty where the file was read

    def __len__(self) -> int:
        return len(self.reasons)


def fingerprints(
    keys: Sequence[str], faces: Faces, *, workers: int = 0, progress: Callable[[int], object] = lambda count: None,
) -> Fingerprints:
    """Read and hash every face, on `workers` processes (0: one a core); `progress` gets the faces done since the last.

    The difference hash is one bit for each pixel of a small grey copy: brighter than its left neighbour or not
    (N. Krawetz, "Kind of like that", 2013).
    """
    workers = workers or os.cpu_count() or 1
    size = min(2048, max(64, len(keys) // (workers * 8))) if len(keys) > FEW else 256
    chunks = [keys[place:place + size] for place in range(0, len(keys), size)]
    parts, several = [], workers > 1 and len(keys) > FEW
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) if several else nullcontext() as pool:
        for part in (pool.map if pool else map)(partial(_chunk, faces=faces), chunks):
            parts.append(part)
            progress(len(part))
    return Fingerprints(*(np.concatenate([getattr(part, name) for part in parts]) if parts else empty
                          for name, empty in vars(_empty(0)).items()))


def difference_hash(grey: Image.Image, side: int) -> np.ndarray:
    """(side * side,) bool of a grey picture, side even."""
    small = np.asarray(grey.resize((side + 1, side), Image.Resampling.BOX), np.int16)
    return (small[:, 1:] > small[:, :-1]).ravel()


def _empty(count: int) -> Fingerprints:
    return Fingerprints(np.zeros((count, 32), np.uint8), np.zeros(count, np.uint64), np.zeros((count, 4), np.uint64),
                        np.zeros(count, bool), np.full(count, "", object))


def _chunk(keys: Sequence[str], faces: Faces) -> Fingerprints:
    prints = _empty(len(keys))
    for row, key in enumerate(keys):
        try:
            content = faces.read(key)
            grey = decode(content, faces.limits).convert("L")
        except ImageError as error:
            prints.reasons[row] = str(error)
            continue
        prints.sha256[row] = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
        prints.coarse[row] = np.packbits(difference_hash(grey, 8)).view(np.uint64)[0]
        prints.fine[row] = np.packbits(difference_hash(grey, 16)).view(np.uint64)
        prints.shows[row] = np.asarray(grey.resize((16, 16), Image.Resampling.BOX)).std() >= FLAT
    return prints
