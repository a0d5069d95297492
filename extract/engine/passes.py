"""Forward passes that are started and not waited for: on a card by streams, elsewhere in a thread of their own."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from twofold.extract.encoders.encoder import Encoder


class Pass(Protocol):
    """A forward pass under way."""

    def done(self) -> bool: ...

    def result(self) -> tuple[np.ndarray, float]:
        """Waits for it; gives the features (B, dim) float32 and the seconds that it took its device."""
        ...


class Passes(Protocol):
    """What a device does with batches: several passes may be under way, of one encoder they end in order."""

    at_once: int  #: passes of one encoder that are started before the first has ended, so that it never waits for one

    def start(self, encoder: Encoder, pixels: torch.Tensor) -> Pass:
        """pixels: (B, S, S, 3) uint8 on the host, left alone until the pass is done."""
        ...

    def close(self) -> None: ...


class HostPasses:
    """One pass after the other in a thread: an encoder on the CPU takes all its cores, and MPS has one queue."""

    at_once = 2

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "forward")

    def start(self, encoder: Encoder, pixels: torch.Tensor) -> "Future[tuple[np.ndarray, float]]":
        return self._thread.submit(_timed, encoder, pixels)

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)


def _timed(encoder: Encoder, pixels: torch.Tensor) -> tuple[np.ndarray, float]:
    began = time.perf_counter()
    features = encoder.encode(pixels)
    return features, time.perf_counter() - began


class CardPasses:
    """Uploads, forward passes and downloads of one CUDA device, each on streams of their own, so that they overlap.

    The batches lie in pinned memory, and so do the features, so that no copy waits for the host. Each encoder has its
    stream: several share the card as its scheduler sees fit, and none waits for another.
    """

    at_once = 3

    def __init__(self, device: torch.device):
        self.device = device
        self._upload, self._download = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._compute: dict[Encoder, torch.cuda.Stream] = {}

    def start(self, encoder: Encoder, pixels: torch.Tensor) -> "CardPass":
        compute = self._stream_of(encoder)
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.stream(self._upload):
            there = pixels.to(self.device, non_blocking=True)
            there.record_stream(compute)  # its memory is not given away while that stream reads it
        compute.wait_stream(self._upload)
        with torch.cuda.stream(compute):
            began.record()
            features = encoder.embed(there)
            features.record_stream(self._download)
            ended.record()
        self._download.wait_event(ended)
        with torch.cuda.stream(self._download):
            here = torch.empty(features.shape, dtype=features.dtype, pin_memory=True)
            here.copy_(features, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        return CardPass(here, began, ended, arrived)

    def _stream_of(self, encoder: Encoder) -> torch.cuda.Stream:
        if encoder not in self._compute:
            self._compute[encoder] = torch.cuda.Stream(self.device)
        return self._compute[encoder]

    def close(self) -> None:
        torch.cuda.synchronize(self.device)


@dataclass(frozen=True, eq=False)
class CardPass:
    """features: (B, dim) float32 in pinned memory, valid once `arrived` has happened."""

    features: torch.Tensor
    began: torch.cuda.Event
    ended: torch.cuda.Event
    arrived: torch.cuda.Event

    def done(self) -> bool:
        return self.arrived.query()

    def result(self) -> tuple[np.ndarray, float]:
        self.arrived.synchronize()
        return self.features.numpy(), self.began.elapsed_time(self.ended) / 1e3


def passes_on(device: torch.device) -> Passes:
    """What runs the forward passes of encoders on this device."""
    return CardPasses(device) if device.type == "cuda" else HostPasses()
