"""Each leg of extraction on its own: decoding, upload, forward pass, download and writing, as rates."""

import resource
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from twofold.cache.parts.parts import publish_part
from twofold.cache.parts.rows import Rows
from twofold.cache.store import Store
from twofold.data.images.sources import ImageSource
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
    legs = [_decode(jobs, keys, faces, workers)]
    if all(job.encoder.device.type == "cuda" for job in jobs):
        legs += [_timed("upload", *_uploads(jobs)), _timed("forward", *_forwards(jobs)),
                 _timed("download", *_downloads(jobs))]
    else:
        legs.append(_timed("forward", *_forwards(jobs)))
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


def _forwards(jobs: Sequence[Job]) -> tuple[Callable[[], None], int]:
    """One forward pass of each encoder, and the faces of it."""
    size = min(job.encoder.batch_size for job in jobs)
    batches = [torch.zeros((size, *_picture(job)), dtype=torch.uint8, device=job.encoder.device) for job in jobs]

    def run() -> None:
        for job, batch in zip(jobs, batches, strict=True):
            job.encoder.embed(batch)
        _wait(jobs)

    return run, size


def _uploads(jobs: Sequence[Job]) -> tuple[Callable[[], None], int]:
    size = min(job.encoder.batch_size for job in jobs)
    batches = [torch.zeros((size, *_picture(job)), dtype=torch.uint8, pin_memory=True) for job in jobs]

    def run() -> None:
        for job, batch in zip(jobs, batches, strict=True):
            batch.to(job.encoder.device, non_blocking=True)
        _wait(jobs)

    return run, size


def _downloads(jobs: Sequence[Job]) -> tuple[Callable[[], None], int]:
    size = min(job.encoder.batch_size for job in jobs)
    features = [torch.zeros((size, job.encoder.dim), device=job.encoder.device) for job in jobs]
    places = [torch.empty((size, job.encoder.dim), pin_memory=True) for job in jobs]

    def run() -> None:
        for place, values in zip(places, features, strict=True):
            place.copy_(values, non_blocking=True)
        _wait(jobs)

    return run, size


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


def _picture(job: Job) -> tuple[int, int, int]:
    return job.encoder.preprocessing.size, job.encoder.preprocessing.size, 3


def _wait(jobs: Sequence[Job]) -> None:
    for device in {job.encoder.device for job in jobs if job.encoder.device.type == "cuda"}:
        torch.cuda.synchronize(device)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
