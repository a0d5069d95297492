"""Standardisation of each stream by what the training faces look like."""

from dataclasses import dataclass

import numpy as np

MIN_STD = 1e-6  #: a dimension that never varies stays zero instead of blowing up


@dataclass(frozen=True)
class Standard:
    """Mean and standard deviation (D,) of each stream over the training rows."""

    mean: dict[str, np.ndarray]
    std: dict[str, np.ndarray]

    @property
    def streams(self) -> list[str]:
        return list(self.mean)

    def apply(self, blocks: dict[str, np.ndarray], rows: np.ndarray | None = None) -> np.ndarray:
        """(M, sum of D) float32: the streams standardised and side by side, all rows or those at `rows`."""
        columns = [len(self.mean[name]) for name in self.streams]
        count = len(next(iter(blocks.values()))) if rows is None else len(rows)
        out, start = np.empty((count, sum(columns)), np.float32), 0
        for name, width in zip(self.streams, columns, strict=True):
            part = out[:, start:start + width]
            np.subtract(blocks[name] if rows is None else blocks[name][rows], self.mean[name], out=part)
            part /= self.std[name]
            start += width
        return out


def fit_standard(blocks: dict[str, np.ndarray], streams: list[str], rows: np.ndarray) -> Standard:
    """Mean and deviation of these streams over these (training) rows."""
    mean, std = {}, {}
    for name in streams:
        values = blocks[name][rows]
        mean[name] = values.mean(axis=0, dtype=np.float64).astype(np.float32)
        deviation = values.std(axis=0, dtype=np.float64).astype(np.float32)
        std[name] = np.where(deviation > MIN_STD, deviation, 1).astype(np.float32)
    return Standard(mean, std)
