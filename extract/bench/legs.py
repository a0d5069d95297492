"""Each leg of extraction on its own: decoding, upload, forward pass, download and writing, as rates."""

import resource
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from twofold.cache.parts.parts import publish_part
from twofold.cache.parts.rows import Rows
from twofold.cache.store import Store
from twofold.data.images.sources import ImageSource
from twofold.extract.encoders.encoder import Encoder
from twofold.extract.engine.batches import Face, Feed, fill
from twofold.extract.engine.engine import TASK_FACES
from twofold.extract.plan import ExtractOptions, Job

SECONDS = 1.0  #: that a leg is tried at least, after a first round that is not counted


@dataclass(frozen=True)
class Leg:
    """faces_a_second: for all encoders together; cpu_seconds: of a face, over all threads of this process."""

    name: str
    faces_a_second: float
    cpu_seconds: float


def measure_legs(jobs: Sequence[Job], keys: Sequence[str], faces: ImageSource, *, workers: int) -> list[Leg]:
    """The legs that there are for these encoders: copies only where they run on a card."""
    encoders, size = [job.encoder for job in jobs], min(job.encoder.batch_size for job in jobs)

    def pictures(encoder: Encoder, **place: Any) -> torch.Tensor:
        side = encoder.preprocessing.size
        return torch.zeros((size, side, side, 3), dtype=torch.uint8, **place)

    def timed(name: str, buffer: Callable[[Encoder], Any], work: Callable[[Encoder, Any], object]) -> Leg:
        """One piece of work of each encoder, on a buffer that lies ready."""
        buffers = [buffer(encoder) for encoder in encoders]

        def run() -> None:
            for encoder, values in zip(encoders, buffers, strict=True):
                work(encoder, values)
            for device in {encoder.device for encoder in encoders if encoder.device.type == "cuda"}:
                torch.cuda.synchronize(device)

        return _timed(name, run, size)

    legs = [_decode(jobs, keys, faces, workers),
            timed("forward", lambda encoder: pictures(encoder, device=encoder.device),
                  lambda encoder, batch: encoder.embed(batch))]
    if all(encoder.device.type == "cuda" for encoder in encoders):
        legs.insert(1, timed("upload", lambda encoder: pictures(encoder, pin_memory=True),
                             lambda encoder, batch: batch.to(encoder.device, non_blocking=True)))
        legs.append(timed("download", lambda encoder: (torch.zeros((size, encoder.dim), device=encoder.device),
                                                       torch.empty((size, encoder.dim), pin_memory=True)),
                          lambda _, features: features[1].copy_(features[0], non_blocking=True)))
    return [*legs, _write(jobs)]


def _decode(jobs: Sequence[Job], keys: Sequence[str], faces: ImageSource, workers: int) -> Leg:
    """Reading, decoding and preparing all faces in as many threads, as the loop does it."""
    ahead, everything = 2 * workers, np.ones(len(keys), bool)
    kinds = {(job.view.name, job.encoder.preprocessing): job for job in jobs}
    feeds = [Feed(job.view, job.encoder.preprocessing, everything, batch_size=TASK_FACES, count=ahead + 1,
                  pinned=False) for job in kinds.values()]

    def take(task) -> None:
        task.result()
        for feed in feeds:
            for batch in feed.take(TASK_FACES):
                batch.passes = 1
                feed.give_back(batch)

    began, before, tasks = time.perf_counter(), _cpu_seconds(), deque()
    with ThreadPoolExecutor(workers, "decode") as pool:
        whole = len(keys) // TASK_FACES * TASK_FACES
        for start in range(0, whole, TASK_FACES):
            block = [Face(row, keys[row]) for row in range(start, start + TASK_FACES)]
            tasks.append(pool.submit(fill, faces, [(face, [feed.place(face) for feed in feeds]) for face in block]))
            if len(tasks) > ahead:
                take(tasks.popleft())
        while tasks:
            take(tasks.popleft())
    return Leg("decode", whole / (time.perf_counter() - began), (_cpu_seconds() - before) / max(1, whole))


def _write(jobs: Sequence[Job]) -> Leg:
    """Publishing a part of each file."""
    count = ExtractOptions().rows_a_part
    draw = np.random.default_rng(0)
    parts = [Rows(keys=[f"{row:08d}.jpg" for row in range(count)], sha256=[b"0" * 64] * count,
                  features=draw.standard_normal((count, job.encoder.dim), np.float32).astype(job.recipe.dtype))
             for job in jobs]
    with tempfile.TemporaryDirectory(prefix="twofold-") as folder:
        def run() -> None:
            for job, part in zip(jobs, parts, strict=True):
                publish_part(Store(Path(folder), new=True), job.recipe, job.encoder.dim, part)

        return _timed("write", run, count)


def _timed(name: str, run: Callable[[], None], faces: int) -> Leg:
    run()
    began, before, rounds = time.perf_counter(), _cpu_seconds(), 0
    while (seconds := time.perf_counter() - began) < SECONDS:
        run()
        rounds += 1
    return Leg(name, rounds * faces / seconds, (_cpu_seconds() - before) / (rounds * faces))


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
