"""The one extraction loop: each face is decoded once for all encoders and views that lack it.

Decoding runs in threads a bounded way ahead, the forward passes in the calling thread, publishing parts in a thread
of its own. Batches are padded to full size, so that a value does not depend on how a run was cut up.
"""

import hashlib
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from tqdm import tqdm

from twofold.cache.parts import publish_part
from twofold.cache.rows import Rows
from twofold.cache.store import Store
from twofold.data.errors import InputError
from twofold.data.images.decode import ImageError, decode
from twofold.data.images.sources import NO_FACE, Faces
from twofold.extract.plan import Job, Settings

LOG_SECONDS = 30  #: between progress lines where stderr is not a terminal
PART_SECONDS = 120  #: a part is published at the latest after this long, however slow the encoder


@dataclass
class Seconds:
    """Where the time went: decode is summed over the decoding threads, the others passed in their own."""

    decode: float = 0.0
    forward: float = 0.0
    write: float = 0.0
    wall: float = 0.0


@dataclass
class Work:
    """What one run did."""

    faces: int = 0
    rows: int = 0
    failures: Counter = field(default_factory=Counter)  #: reason to number of faces
    failed: set[str] = field(default_factory=set)
    seconds: Seconds = field(default_factory=Seconds)
    stopped_by: int = 0  #: the signal that ended the run early, or 0


@dataclass(frozen=True)
class Pixels:
    """One decoded face: what each job needs of it, or why there is nothing."""

    key: str
    sha256: str
    arrays: dict[tuple, np.ndarray]
    failure: str
    seconds: float


class Lane:
    """The rows of one job on their way: pixels waiting for a batch, embeddings waiting for a part."""

    def __init__(self, job: Job, store: Store, settings: Settings, writer: ThreadPoolExecutor, work: Work):
        self.job, self.store, self.settings, self.writer, self.work = job, store, settings, writer, work
        self.batch_size = job.encoder.batch_size
        self.waiting: list[tuple[str, str, np.ndarray]] = []
        self.pending: Future | None = None
        self._open_part()

    def add(self, pixels: Pixels) -> None:
        """Take one face; runs the encoder once a batch is full and publishes once a part is."""
        if pixels.failure:
            self.failures[pixels.key] = pixels.failure
        else:
            self.waiting.append((pixels.key, pixels.sha256, pixels.arrays[pixels_needed(self.job)]))
            if len(self.waiting) == self.batch_size:
                self.forward()
        if len(self.keys) + len(self.failures) >= self.settings.rows_a_part or time.monotonic() > self.due:
            self.publish()

    def forward(self) -> None:
        """Encode what is waiting."""
        if not self.waiting:
            return
        began = time.perf_counter()
        batch = np.zeros((self.batch_size, *self.waiting[0][2].shape), np.uint8)
        for row, (_, _, array) in enumerate(self.waiting):
            batch[row] = array
        features = self.job.encoder.encode(torch.from_numpy(batch))[:len(self.waiting)]
        faults = value_faults(features, self.settings.dtype)
        stored = features.astype(self.settings.dtype)
        for (key, sha256, _), row, fault in zip(self.waiting, stored, faults, strict=True):
            if fault:
                self.failures[key] = fault
                self.work.failures[fault] += 1
                self.work.failed.add(key)
            else:
                self.keys.append(key)
                self.hashes.append(sha256)
                self.features.append(row)
        self.work.rows += len(self.waiting)
        self.waiting = []
        self.work.seconds.forward += time.perf_counter() - began

    def publish(self) -> None:
        """Hand the open part to the writer, once the one before is safe; raises what went wrong with that."""
        self.settle()
        if self.keys or self.failures:
            features = np.stack(self.features) if self.features else np.empty((0, self.job.encoder.dim))
            rows = Rows(keys=self.keys, sha256=self.hashes, features=features, failures=self.failures)
            self.pending = self.writer.submit(self._write, rows)
        self._open_part()

    def settle(self) -> None:
        """Wait until the last part is safely on disk."""
        if self.pending is not None:
            pending, self.pending = self.pending, None
            pending.result()

    def _write(self, rows: Rows) -> None:
        began = time.perf_counter()
        publish_part(self.store, self.job.recipe, self.job.encoder.dim, rows)
        self.work.seconds.write += time.perf_counter() - began

    def _open_part(self) -> None:
        self.keys: list[str] = []
        self.hashes: list[str] = []
        self.features: list[np.ndarray] = []
        self.failures: dict[str, str] = {}
        self.due = time.monotonic() + PART_SECONDS


def compute(jobs: Sequence[Job], keys: Sequence[str], faces: Faces, store: Store, *, settings: Settings,
            progress: bool = True) -> Work:
    """Compute every missing row of `jobs` and leave it in parts of `store`.

    A face that cannot be read, decoded or encoded is recorded with its reason and the run goes on; after more than
    `settings.max_failures` of them it raises InputError. On Ctrl-C or SIGTERM the batch in hand is finished and
    published, and `Work.stopped_by` says so. Whatever is raised, published parts stay.
    """
    work = Work()
    began = time.perf_counter()
    rows = np.flatnonzero(np.any([job.missing for job in jobs], axis=0)) if jobs else []
    with ThreadPoolExecutor(1, "write") as writer, Stop() as stop:
        lanes = [Lane(job, store, settings, writer, work) for job in jobs if job.missing.any()]
        try:
            for row, pixels in _decoded(rows, lanes, keys, faces, settings.workers, progress):
                _count(pixels, work, settings)
                for lane in lanes:
                    if lane.job.missing[row]:
                        lane.add(pixels)
                if stop.signal:
                    work.stopped_by = stop.signal
                    break
            for lane in lanes:
                lane.forward()
        finally:
            _publish_all(lanes)
    work.seconds.wall = time.perf_counter() - began
    return work


def _publish_all(lanes: Sequence[Lane]) -> None:
    for lane in lanes:
        lane.publish()
    for lane in lanes:
        lane.settle()


def pixels_needed(job: Job) -> tuple:
    """Jobs with equal preprocessing and view share their pixels."""
    return job.view.name, job.encoder.preprocessing


def value_faults(features: np.ndarray, dtype: str) -> list[str]:
    """For each row of (B, D): why it cannot be stored, or an empty text."""
    finite = np.isfinite(features).all(axis=1)
    with np.errstate(over="ignore"):
        fits = np.isfinite(features.astype(dtype)).all(axis=1)
    return ["" if ok and fit else "embedding out of the range of " + dtype if ok else "embedding not finite"
            for ok, fit in zip(finite, fits, strict=True)]


def _count(pixels: Pixels, work: Work, settings: Settings) -> None:
    work.faces += 1
    work.seconds.decode += pixels.seconds
    if pixels.failure:
        work.failures[pixels.failure] += 1
    if pixels.failure and pixels.failure != NO_FACE:  # a frame without a face is no fault
        work.failed.add(pixels.key)
    if 0 <= settings.max_failures < len(work.failed):
        reasons = ", ".join(f"{count} x {reason}" for reason, count in work.failures.most_common(3))
        raise InputError(f"stopped after {len(work.failed)} failed faces (--max-failures {settings.max_failures}): "
                         f"{reasons}, last {pixels.key!r}; what was computed is kept")


def _decoded(rows: Sequence[int], lanes: Sequence[Lane], keys: Sequence[str], faces: Faces,
             workers: int, progress: bool) -> Iterator[tuple[int, Pixels]]:
    """(row, pixels) in order, decoded in threads at most a few batches ahead."""
    workers = workers or os.cpu_count() or 1
    ahead = 2 * max((lane.batch_size for lane in lanes), default=1) + workers
    pace = 0.5 if sys.stderr.isatty() else LOG_SECONDS  # a log of a night's run should stay readable
    bar = tqdm(total=len(rows), unit="face", desc="extract", dynamic_ncols=True, mininterval=pace, maxinterval=2 * pace,
               disable=not progress)
    futures: deque[tuple[int, Future]] = deque()
    with bar, ThreadPoolExecutor(workers, "decode") as pool:
        try:
            for row in rows:
                needs = tuple(lane.job for lane in lanes if lane.job.missing[row])
                futures.append((row, pool.submit(_pixels, keys[row], faces, needs)))
                if len(futures) > ahead:
                    yield _next(futures, bar)
            while futures:
                yield _next(futures, bar)
        finally:
            pool.shutdown(cancel_futures=True)


def _next(futures: deque[tuple[int, Future]], bar: tqdm) -> tuple[int, Pixels]:
    row, future = futures.popleft()
    pixels = future.result()
    bar.update()
    return row, pixels


def _pixels(key: str, faces: Faces, jobs: tuple[Job, ...]) -> Pixels:
    """Read and decode one face, and prepare it for each job."""
    began = time.thread_time()
    arrays: dict[tuple, np.ndarray] = {}
    sha256, failure = "", ""
    try:
        content = faces.read(key)
        sha256 = hashlib.sha256(content).hexdigest()
        image = decode(content, faces.limits)
        viewed = {}
        for job in jobs:
            if job.view.name not in viewed:
                viewed[job.view.name] = job.view.apply(image, sha256)
            if pixels_needed(job) not in arrays:
                arrays[pixels_needed(job)] = job.encoder.preprocessing.prepare(viewed[job.view.name])
    except ImageError as error:
        failure = str(error)
    return Pixels(key, sha256, arrays, failure, time.thread_time() - began)


class Stop:
    """While it is entered, Ctrl-C and SIGTERM set `signal` instead of ending the process; a second Ctrl-C does."""

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, _frame: object) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
