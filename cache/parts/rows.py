"""Rows of one recipe: on their way into a file, and as several files hold them together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from twofold.cache.format.featurefile import BLOCK_ROWS, FeatureFile


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of one recipe on their way into a file: keys, image hashes and features (N, D), and what failed."""

    keys: Sequence[str]
    sha256: Sequence[str | bytes]
    features: np.ndarray
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CachedRows:
    """All rows of one recipe in some files. place: for each key the number of its file, and its row there."""

    files: list[FeatureFile]
    place: dict[str, tuple[int, int]]
    failures: dict[str, str]

    def sha256(self, key: str) -> str:
        """Of the image that the row of this key was made from, in hex."""
        file, row = self.place[key]
        return self.files[file].sha256[row].decode()

    def covers(self, keys: Sequence[str]) -> bool:
        """True if every key is cached or known to fail."""
        return all(key in self.place or key in self.failures for key in keys)

    def blocks(self, keys: Sequence[str]) -> Iterator[np.ndarray]:
        """Blocks of rows (<= BLOCK_ROWS, D), as stored, in the order of `keys`; each file is read once a block."""
        for start in range(0, len(keys), BLOCK_ROWS):
            places = np.array([self.place[key] for key in keys[start:start + BLOCK_ROWS]])
            first = self.files[places[0, 0]]
            block = np.empty((len(places), first.dim), first.recipe.dtype)
            for number in np.unique(places[:, 0]):
                here = np.flatnonzero(places[:, 0] == number)
                block[here] = self.files[number].read_rows(places[here, 1], dtype=block.dtype)
            yield block


def rows_in(files: Sequence[FeatureFile]) -> CachedRows:
    """What these files of one recipe hold together; what a later one says of a key counts."""
    place: dict[str, tuple[int, int]] = {}
    failures: dict[str, str] = {}
    for number, file in enumerate(files):
        place |= {key: (number, row) for row, key in enumerate(file.keys)}
        failures |= file.failures
        for key in file.failures:  # an image that was changed, and cannot be encoded any more
            place.pop(key, None)
    return CachedRows(list(files), place, {key: reason for key, reason in failures.items() if key not in place})
