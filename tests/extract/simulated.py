"""A simulated device: forward passes take a stated time and nothing of the host."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from twofold.extract.encoders.encoder import Encoder


class SimulatedRunner:
    """Runs one pass after the other, `rate` pictures a second, whichever encoder they are for; features are ones."""

    in_flight = 3

    def __init__(self, rate: float):
        self.rate = rate
        self.busy = 0.0  #: seconds
        self._free_at = 0.0

    def start(self, encoder: Encoder, pixels: torch.Tensor) -> "SimulatedPass":
        seconds = len(pixels) / self.rate
        self._free_at = max(time.monotonic(), self._free_at) + seconds
        self.busy += seconds
        return SimulatedPass(self._free_at, (len(pixels), encoder.dim), seconds)

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class SimulatedPass:
    """ends: on the monotonic clock; shape: of the features."""

    ends: float
    shape: tuple[int, int]
    seconds: float

    def done(self) -> bool:
        return time.monotonic() >= self.ends

    def result(self) -> tuple[np.ndarray, float]:
        time.sleep(max(0.0, self.ends - time.monotonic()))
        return np.ones(self.shape, np.float32), self.seconds
