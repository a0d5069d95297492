"""Standardised features as training wants them: resident on the device, or read in shuffled blocks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

CHUNK = 256  #: rows that are read together: a chunk of a feature file
BLOCK = 8192  #: rows of a streamed block, and of a step in any pass over many rows

Read = Callable[[np.ndarray], np.ndarray]  #: row numbers (n,) to raw features (n, D) float32


@dataclass(frozen=True, kw_only=True)
class Scaler:
    """Mean and standard deviation (D,) of training features; a constant column has deviation 1."""

    mean: np.ndarray
    std: np.ndarray

    def tiled(self, times: int) -> "Scaler":
        """The same for each of several versions side by side."""
        return Scaler(mean=np.tile(self.mean, times), std=np.tile(self.std, times))

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Raw (n, D), standardised in place."""
        x -= self.mean
        x /= self.std
        return x


def fit_scaler(read: Read, rows: np.ndarray) -> Scaler:
    """The scaler of these rows, in one pass (Chan et al., 1983: sums of squares of blocks about their own means)."""
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for start in range(0, len(rows), BLOCK):
        block = read(rows[start:start + BLOCK])
        middle = block.mean(axis=0, dtype=np.float64)
        block -= middle.astype(np.float32)
        shift, total = middle - mean, count + len(block)
        own = np.einsum("nd,nd->d", block, block, dtype=np.float64)
        squares = squares + own + shift**2 * count * len(block) / total
        mean, count = mean + shift * len(block) / total, total
    std = np.sqrt(squares / max(count, 1))
    std = np.where(std > 1e-6 * np.maximum(np.abs(mean), 1e-3), std, 1.0)
    return Scaler(mean=mean.astype(np.float32), std=std.astype(np.float32))


@dataclass(frozen=True, kw_only=True)
class Samples:
    """n samples. label: (n,) class, -1 for none; basic: (n, 8) that sum to 1, zeros for none; basic_label:
    (n,), -1 for none.

    x: (n, D) standardised on the device, or None, and then rows are read when needed.
    """

    rows: np.ndarray
    label: np.ndarray
    basic: np.ndarray
    basic_label: np.ndarray
    read: Read
    scaler: Scaler
    device: torch.device
    x: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def blocks(self, generator: np.random.Generator | None = None) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """(positions, features on the device): everything at once if resident, else blocks.

        Given a generator, the blocks are made of chunks in random order: near to a full shuffle, at the speed of
        sequential reading. Within a block, rows stand in file order: shuffle them there.
        """
        if self.x is not None:
            yield np.arange(len(self)), self.x
            return
        chunks = np.array_split(np.arange(len(self)), max(1, -(-len(self) // CHUNK)))
        order = range(len(chunks)) if generator is None else generator.permutation(len(chunks))
        shuffled = [chunks[number] for number in order]
        for start in range(0, len(shuffled), BLOCK // CHUNK):
            positions = np.sort(np.concatenate(shuffled[start:start + BLOCK // CHUNK]))
            x = self.scaler.apply(self.read(self.rows[positions]))
            yield positions, torch.from_numpy(x).to(self.device)

    def resident(self) -> "Samples":
        """The same with all features on the device, standardised once."""
        x = self.scaler.apply(self.read(self.rows))
        return replace(self, x=torch.from_numpy(x).to(self.device))
