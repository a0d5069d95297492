"""Chance for several members at once: each has a generator of its own, so its numbers do not depend on company."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Noise:
    """One generator a member, M in all. Results are (M, ...) tensors on `device`."""

    generators: tuple[np.random.Generator, ...]
    device: torch.device

    @classmethod
    def of(cls, seeds: Sequence[int], device: torch.device) -> "Noise":
        """Generators for the seeds of the members."""
        return cls(tuple(np.random.default_rng((seed, 1)) for seed in seeds), device)

    def _stack(self, draws: list[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack(draws)).to(self.device)

    def uniform(self, *shape: int) -> torch.Tensor:
        """(M, *shape) float32 in [0, 1)."""
        return self._stack([generator.random(shape, np.float32) for generator in self.generators])

    def beta(self, alpha: float, *shape: int) -> torch.Tensor:
        """(M, *shape) float32 from Beta(alpha, alpha)."""
        return self._stack([generator.beta(alpha, alpha, shape).astype(np.float32) for generator in self.generators])

    def keep(self, drop: float, *shape: int) -> torch.Tensor:
        """(M, *shape) float32 mask of inverted dropout: 0, or the number that keeps the mean at one.

        Drawn from bytes, eight times as fast as from floats: `drop` is rounded to 1/256.
        """
        bar = round(drop * 256)
        draws = [np.frombuffer(generator.bytes(int(np.prod(shape))), np.uint8).reshape(shape)
                 for generator in self.generators]
        return (self._stack(draws) >= bar).float() * (256 / (256 - bar))

    def order(self, rows: int) -> torch.Tensor:
        """(M, rows) a permutation for each member."""
        return self._stack([generator.permutation(rows) for generator in self.generators])

    def sample(self, weights: np.ndarray, draws: int) -> torch.Tensor:
        """(M, draws) row numbers drawn with replacement in proportion to `weights` (rows,)."""
        edges = np.cumsum(weights / weights.sum())
        return self._stack([np.minimum(np.searchsorted(edges, generator.random(draws), "right"), len(weights) - 1)
                            for generator in self.generators])
