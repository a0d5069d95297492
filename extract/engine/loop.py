"""The one extraction loop: each sample is decoded once for all encoders and views that lack it.

Threads decode a few samples per task straight into batches; the calling thread starts forward passes as batches become
full and collects their results as they come; shards are published in a thread of their own. A bounded number of batches
is reused. Batches are padded to full size, so that a value does not depend on how a run was divided.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np
import torch

from twofold.cache.recipe import Recipe
from twofold.cache.shards import Rows
from twofold.data.faces.in_memory import FacesInMemory
from twofold.data.images.decode import ImageError
from twofold.data.images.sources import ImageSource
from twofold.data.utils.keys import NO_FACE
from twofold.data.utils.machine import usable_cores
from twofold.extract.encoders.encoder import Encoder
from twofold.extract.engine.batches import Batch, BatchPool, LoadedSample, decode_into
from twofold.extract.engine.progress import Stop, progress_bar
from twofold.extract.engine.runners import DeviceRunner, runner_for
from twofold.extract.engine.stats import RunStats, check_failure_limit
from twofold.extract.engine.writer import FeatureWriter, Publish
from twofold.extract.plan import ExtractOptions, Job
from twofold.extract.views import view

TASK_SAMPLES = 8  #: per decoding task: few enough to be done soon, enough to make its overhead small
STOP_SECONDS = 1.0  #: after a signal to stop, for an image that is being decoded
DECODER_THREADS = "decode"  #: prefix of their names
AHEAD = 2  #: batches of a pool that decoding may be ahead, besides those in flight


def run_jobs(jobs: Sequence[Job], keys: Sequence[str], images: ImageSource, publish: Publish, *,
             options: ExtractOptions, progress: bool = True, runner: DeviceRunner | None = None,
             stop: Stop | None = None, on_decoded: Callable[[int], object] | None = None) -> RunStats:
    """Compute every missing row of `jobs` and hand the rows, shard by shard, to `publish`.

    runner: runs the forward passes, by default that of each encoder's device; stop: checked instead of the signals of
    this process; on_decoded: called with each number of decoded samples, instead of a progress bar. A sample that
    cannot be read, decoded or encoded is recorded with its reason; more than `options.max_failures` of them raise
    InputError. On Ctrl-C or SIGTERM the batches in hand are finished and published, and `RunStats.stopped_by` is set.
    Published shards stay, whatever is raised.
    """
    stats = RunStats()
    began = time.perf_counter()
    jobs = [job for job in jobs if job.missing.any()]
    rows = np.flatnonzero(np.any([job.missing for job in jobs], axis=0)).tolist() if jobs else []
    with contextlib.ExitStack() as stack:
        stop = stop or stack.enter_context(Stop())
        thread = stack.enter_context(ThreadPoolExecutor(1, "write"))
        pools: dict[tuple, BatchPool] = {}
        runners: dict[torch.device, DeviceRunner] = {}
        writers = []
        for job in jobs:
            device = job.encoder.device
            if device not in runners:
                runners[device] = runner or runner_for(device)
                stack.callback(runners[device].close)
            pool = _pool_for(job, pools, runners[device])
            writers.append(FeatureWriter(job, pool, runners[device], publish, options.rows_per_shard, thread, stats))
        bar = stack.enter_context(progress_bar(len(rows), shown=progress and on_decoded is None))
        try:
            decoders = ThreadPoolExecutor(options.workers or usable_cores(), DECODER_THREADS)
            loop = Loop(writers, images, decoders, stats, options, on_decoded or bar.update, stop)
            try:
                loop.run(rows, keys)
            finally:
                decoders.shutdown(wait=not stop.signal, cancel_futures=True)
            loop.finish()
        finally:
            for writer in writers:
                writer.publish()
            for writer in writers:
                writer.wait()
    stats.stopped_by = stop.signal
    stats.seconds.wall = time.perf_counter() - began
    return stats


def _pool_for(job: Job, pools: dict[tuple, BatchPool], runner: DeviceRunner) -> BatchPool:
    """Return the pool of the job's pixels; jobs that need the same pixels of the same samples share it."""
    preprocessing, pinned = job.encoder.preprocessing, job.encoder.device.type == "cuda"
    key = (job.view.name, preprocessing, job.batch_size, pinned, job.missing.tobytes())
    if key not in pools:
        pools[key] = BatchPool(job.view, preprocessing, job.missing, batch_size=job.batch_size,
                               count=AHEAD + runner.in_flight, pinned=pinned)
    return pools[key]


class Loop:
    """Decoding tasks and forward passes in flight, and the order in which they are waited for."""

    def __init__(self, writers: Sequence[FeatureWriter], images: ImageSource, decoders: ThreadPoolExecutor,
                 stats: RunStats, options: ExtractOptions, on_decoded: Callable[[int], object], stop: Stop):
        self.writers, self.images, self.decoders = writers, images, decoders
        self.stats, self.options, self.on_decoded, self.stop = stats, options, on_decoded, stop
        self.users = {pool: [writer for writer in writers if writer.pool is pool]
                      for pool in {writer.pool for writer in writers}}
        self.tasks: deque[tuple[list[LoadedSample], Future[float]]] = deque()
        self.unreadable: dict[str, str] = {}  #: key to reason

    def run(self, rows: Sequence[int], keys: Sequence[str]) -> None:
        """Decode these rows of the manifest and start the forward passes, until all are decoded or `stop` is set."""
        size = min([TASK_SAMPLES, *(pool.batch_size for pool in self.users)])
        for start in range(0, len(rows), size):
            samples = [LoadedSample(row, keys[row]) for row in rows[start:start + size]]
            self._make_room(samples)
            if self.stop.signal:
                return
            wanted = [(sample, [pool.slot_for(sample) for pool in self.users if pool.missing[sample.row]])
                      for sample in samples]
            self.tasks.append((samples, self.decoders.submit(decode_into, self.images, wanted)))
            while self.tasks and self.tasks[0][1].done():
                self._finish_task()
            for writer in self.writers:
                writer.collect_done()
            if self.stop.signal:
                return
        while self.tasks and not self.stop.signal:
            self._finish_task()

    def finish(self) -> None:
        """Encode what is decoded and wait for all results."""
        for pool, writers in self.users.items():
            if batch := pool.pop_partial():
                self._start(batch, writers)
        for writer in self.writers:
            while writer.in_flight:
                writer.collect()

    def _make_room(self, samples: Sequence[LoadedSample]) -> None:
        """Wait until every pool has slots for these samples."""
        for pool, writers in self.users.items():
            needed = sum(bool(pool.missing[sample.row]) for sample in samples)
            while pool.free_slots < needed and not self.stop.signal:
                writer = max(writers, key=lambda writer: len(writer.in_flight))
                if self.tasks and len(writer.in_flight) < writer.runner.in_flight:
                    self._finish_task()  # what is decoded next can start at once
                else:
                    writer.collect()

    def _finish_task(self) -> None:
        """Wait for the oldest decoding task, unless told to stop; start the passes of the batches that it completes."""
        while not wait([self.tasks[0][1]], timeout=STOP_SECONDS).done:
            if self.stop.signal:  # an image may take minutes
                return
        samples, task = self.tasks.popleft()
        self.stats.seconds.decode += task.result()
        self.stats.samples += len(samples)
        self.on_decoded(len(samples))
        self.unreadable |= {sample.key: sample.failure for sample in samples if sample.failure not in ("", NO_FACE)}
        if self.options.max_failures >= 0:
            check_failure_limit(self.unreadable | self.stats.failed_samples, self.options.max_failures)
        for pool, writers in self.users.items():
            for batch in pool.mark_decoded(sum(bool(pool.missing[sample.row]) for sample in samples)):
                self._start(batch, writers)

    def _start(self, batch: Batch, writers: Sequence[FeatureWriter]) -> None:
        batch.users = len(writers)
        for writer in writers:
            writer.start(batch)


# ---------------------------------------------------------------------------------------------------- images in memory
@dataclass(frozen=True)
class LoadedEncoders:
    """Encoders with the recipe that each makes, in the order of a head's columns."""

    recipes: tuple[Recipe, ...]
    encoders: tuple[Encoder, ...]

    def embed(self, images: Sequence[bytes]) -> np.ndarray:
        """Return (N, D) float32 features of these image files of faces, all streams side by side, rounded as stored.

        They are those that `extract` stores but for the last digits, since batches are only as long as they need be.
        Raises ImageError for an image that cannot be read or encoded.
        """
        keys, everything = [str(row) for row in range(len(images))], np.ones(len(images), bool)
        jobs = {recipe.fingerprint: Job(encoder, view(recipe.view["name"]), recipe, everything,
                                        min(encoder.batch_size, len(images)))
                for recipe, encoder in zip(self.recipes, self.encoders, strict=True)}
        shards: dict[str, list[Rows]] = {fingerprint: [] for fingerprint in jobs}
        stats = run_jobs(list(jobs.values()), keys, FacesInMemory(keys, dict(zip(keys, images, strict=True))),
                         lambda recipe, dim, rows: shards[recipe.fingerprint].append(rows),
                         options=ExtractOptions(), progress=False, stop=Stop())
        for reason in (reason for failures in stats.failures.values() for reason in failures.values()):
            raise ImageError(reason)
        return np.concatenate([np.concatenate([rows.features for rows in shards[recipe.fingerprint]])
                               for recipe in self.recipes], axis=1, dtype=np.float32)
