"""The pixels of the faces that teach and choose: decoded once, kept as bytes in memory where they fit."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from twofold.data.images.decode import ImageError, decode
from twofold.data.images.sources import ImageRoots
from twofold.extract.encoders.preprocessing import Preprocessing
from twofold.extract.engine.progress import progress_bar


@dataclass(frozen=True, eq=False)
class Pictures:
    """Prepared pictures by row of the manifest. kept: (n, S, S, 3) uint8, or None: decoded whenever asked for.

    place: (N,) where each row's picture is in `kept`, -1 for rows without one; sha256: of the image files, by row.
    """

    keys: Sequence[str]
    faces: ImageRoots
    preprocessing: Preprocessing
    place: np.ndarray
    kept: torch.Tensor | None
    sha256: dict[int, str]
    failures: dict[int, str]

    def read(self, rows: np.ndarray) -> torch.Tensor:
        """(n, S, S, 3) uint8 of these rows."""
        if self.kept is not None:
            return self.kept[torch.from_numpy(self.place[rows])]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            pictures = list(pool.map(self._decoded, rows.tolist()))
        return torch.from_numpy(np.stack(pictures))

    def _decoded(self, row: int) -> np.ndarray:
        return _prepared(self.keys[row], self.faces, self.preprocessing)[1]


def read_pictures(keys: Sequence[str], rows: np.ndarray, faces: ImageRoots, how: Preprocessing, *, memory: float,
                  progress: bool = True) -> Pictures:
    """Decode these rows once, to keep them in at most `memory` bytes or, if they are more, to know which can be read.

    A face that cannot be read is in `failures` with its reason.
    """
    fits = len(rows) * how.size**2 * 3 <= memory
    kept = torch.empty((len(rows) if fits else 0, how.size, how.size, 3), dtype=torch.uint8)
    place, sha256, failures = np.full(len(keys), -1, np.int64), {}, {}

    def prepare(row: int) -> tuple[int, str, np.ndarray | None, str]:
        try:
            digest, picture = _prepared(keys[row], faces, how)
            return row, digest, picture if fits else None, ""
        except ImageError as error:
            return row, "", None, str(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool, progress_bar(len(rows), shown=progress, doing="decode") as bar:
        count = 0
        for start in range(0, len(rows), 4096):  # a million waiting tasks would fill the memory
            for row, digest, picture, failure in pool.map(prepare, rows[start:start + 4096].tolist()):
                bar.update()
                if failure:
                    failures[row] = failure
                    continue
                sha256[row], place[row] = digest, count
                if picture is not None:
                    kept[count] = torch.from_numpy(picture)
                count += 1
    return Pictures(keys, faces, how, place, kept[:count] if fits else None, sha256, failures)


def _prepared(key: str, faces: ImageRoots, how: Preprocessing) -> tuple[str, np.ndarray]:
    content = faces.read(key)
    return hashlib.sha256(content).hexdigest(), how.prepare(decode(content))
