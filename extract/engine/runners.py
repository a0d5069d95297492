"""Forward passes that are started without waiting: on CUDA streams, elsewhere in a thread.

A runner starts passes on pixels (B, S, S, 3) uint8 on the host, which are not changed until the pass is done. A pass
says whether it is `done`; its `result` waits for it: features (B, dim) float32, and seconds of the device. Passes of
one encoder end in order; `in_flight` of them are started before the first has ended, so that it never waits.
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from twofold.extract.encoders.encoder import Encoder


class HostRunner:
    """One pass after the other in a thread: an encoder on the CPU uses all cores, and MPS has one queue."""

    in_flight = 2

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "forward")

    def start(self, encoder: Encoder, pixels: torch.Tensor) -> Future[tuple[np.ndarray, float]]:
        def run() -> tuple[np.ndarray, float]:
            began = time.perf_counter()
            return encoder.encode(pixels), time.perf_counter() - began

        return self._thread.submit(run)

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)


class CudaRunner:
    """Uploads, forward passes and downloads of one CUDA device, each on its own stream, so that they overlap.

    Batches and features lie in pinned memory, so that no copy waits for the host. Each encoder has its own stream, so
    that none waits for another.
    """

    in_flight = 3

    def __init__(self, device: torch.device):
        self.device = device
        self._upload, self._download = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._compute: dict[Encoder, torch.cuda.Stream] = {}

    def start(self, encoder: Encoder, pixels: torch.Tensor) -> "CudaPass":
        if encoder not in self._compute:
            self._compute[encoder] = torch.cuda.Stream(self.device)
        compute = self._compute[encoder]
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.stream(self._upload):
            uploaded = pixels.to(self.device, non_blocking=True)
            uploaded.record_stream(compute)  # its memory is not reused while that stream reads it
        compute.wait_stream(self._upload)
        with torch.cuda.stream(compute):
            began.record()
            features = encoder.embed(uploaded)
            features.record_stream(self._download)
            ended.record()
        self._download.wait_event(ended)
        with torch.cuda.stream(self._download):
            downloaded = torch.empty(features.shape, dtype=features.dtype, pin_memory=True)
            downloaded.copy_(features, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        return CudaPass(downloaded, began, ended, arrived)

    def close(self) -> None:
        torch.cuda.synchronize(self.device)


@dataclass(frozen=True, eq=False)
class CudaPass:
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


Runner = HostRunner | CudaRunner
ForwardPass = Future[tuple[np.ndarray, float]] | CudaPass


def runner_for(device: torch.device) -> Runner:
    return CudaRunner(device) if device.type == "cuda" else HostRunner()
