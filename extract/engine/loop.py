"""The one extraction loop: each sample is decoded once for all encoders and views that lack it.

Threads decode a few samples at a time straight into batches; the calling thread starts forward passes as batches become
full and collects their results as they come; shards are published in a thread of their own. A bounded number of batches
is reused. Batches are padded to full size, so that a value does not depend on how a run was divided.
"""

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from multiprocessing.util import Finalize
from typing import Any

import numpy as np
import torch

from twofold.cache.feature_file import first_non_finite_row
from twofold.cache.recipe import Recipe
from twofold.cache.shards import Rows, publish_shard
from twofold.cache.store import Store
from twofold.data.utils.errors import InputError
from twofold.data.utils.keys import NO_FACE
from twofold.data.utils.machine import usable_cores
from twofold.data.utils.processes import CONTEXT
from twofold.extract.encoders.encoder import Encoder
from twofold.extract.engine.batches import Batch, BatchPool, LoadedSample, decode_into
from twofold.extract.engine.progress import RunStats, Stop, check_failure_limit, progress_bar
from twofold.extract.engine.runners import ForwardPass, Runner, runner_for
from twofold.extract.engine.task import ComputeTask, Encoders

DECODED_TOGETHER = 8  #: samples: few enough to be done soon, enough to make the overhead small
STOP_SECONDS = 1.0  #: after a signal to stop, for an image that is being decoded
AHEAD = 2  #: batches of a pool that decoding may be ahead, besides those in flight
SHARD_BYTES = 1 << 28  #: in memory at most, where rows are long
SHARD_SECONDS = 120  #: a shard is published at the latest after this long, however slow the encoder
Publish = Callable[[Recipe, int, Rows], object]  #: takes recipe, dimension and the rows of one shard


def compute_task(task: ComputeTask, encoders: Encoders, *, publish: Publish | None = None, progress: bool = True,
                 stop: Stop | None = None, on_decoded: Callable[[int], object] | None = None) -> RunStats:
    """Compute the rows of a task and hand them, shard by shard, to `publish`, by default into its store.

    stop: checked instead of the signals of this process; on_decoded: called with each number of decoded samples,
    instead of a progress bar. A sample that cannot be read, decoded or encoded is recorded with its reason; more than
    `max_failures` of them raise InputError. On Ctrl-C or SIGTERM the batches in hand are finished and published, and
    the result says so. Published shards stay, whatever is raised.
    """
    stats, began = RunStats(), time.perf_counter()
    publish = publish or partial(publish_shard, Store(task.store, new=True))
    with contextlib.ExitStack() as stack:
        stop = stop or stack.enter_context(Stop())
        thread = stack.enter_context(ThreadPoolExecutor(1, "write"))
        pools: dict[tuple, BatchPool] = {}
        runners: dict[torch.device, Runner] = {}
        writers = []
        for file in task.files:
            if not len(file.rows):
                continue
            encoder, view = encoders.load(file.source), file.recipe.view["name"]
            if encoder.device not in runners:
                runners[encoder.device] = runner_for(encoder.device)
                stack.callback(runners[encoder.device].close)
            runner, pinned = runners[encoder.device], encoder.device.type == "cuda"
            size = min(encoder.batch_size, task.max_batch or encoder.batch_size)
            key = (view, file.recipe.decoder, encoder.preprocessing, size, pinned, file.rows.tobytes())
            if key not in pools:
                missing = np.zeros(len(task.keys), bool)
                missing[file.rows] = True
                pools[key] = BatchPool(view, encoder.preprocessing, missing, batch_size=size,
                                       count=AHEAD + runner.in_flight, pinned=pinned, decoder=file.recipe.decoder)
            writers.append(FeatureWriter(encoder, file.recipe, pools[key], runner, partial(publish, file.recipe),
                                         task.rows_per_shard, thread, stats))
        samples = task.samples.tolist()
        bar = stack.enter_context(progress_bar(len(samples), shown=progress and on_decoded is None))
        try:
            decoders = ThreadPoolExecutor(task.workers or usable_cores(), "decode")
            loop = Loop(task, writers, decoders, stats, on_decoded or bar.update, stop)
            try:
                loop.run(samples)
            finally:
                decoders.shutdown(wait=not stop.signal, cancel_futures=True)
            loop.finish()
        finally:
            for writer in writers:
                writer.publish()
            for writer in writers:
                writer.wait()
    stats.stopped_by, stats.seconds["wall"] = stop.signal, time.perf_counter() - began
    return stats


class Loop:
    """Decoding and forward passes of a task, as far ahead of each other as the batches of its pools allow."""

    def __init__(self, task: ComputeTask, writers: "Sequence[FeatureWriter]", decoders: ThreadPoolExecutor,
                 stats: RunStats, on_decoded: Callable[[int], object], stop: Stop):
        self.task, self.writers, self.decoders = task, writers, decoders
        self.stats, self.on_decoded, self.stop = stats, on_decoded, stop
        self.users = {pool: [writer for writer in writers if writer.pool is pool]
                      for pool in {writer.pool for writer in writers}}
        self.decoding: deque[tuple[list[LoadedSample], Future[float]]] = deque()
        self.unreadable: dict[str, str] = {}  #: key to reason

    def run(self, rows: Sequence[int]) -> None:
        """Decode these samples and start the forward passes, until all are decoded or `stop` is set."""
        size = min([DECODED_TOGETHER, *(pool.batch_size for pool in self.users)])
        for start in range(0, len(rows), size):
            samples = [LoadedSample(row, self.task.keys[row]) for row in rows[start:start + size]]
            self._make_room(samples)
            if self.stop.signal:
                return
            wanted = [(sample, [pool.slot_for(sample) for pool in self.users if pool.missing[sample.row]])
                      for sample in samples]
            self.decoding.append((samples, self.decoders.submit(decode_into, self.task.images, wanted)))
            while self.decoding and self.decoding[0][1].done():
                self._take_decoded()
            for writer in self.writers:
                writer.collect_done()
        while self.decoding and not self.stop.signal:
            self._take_decoded()

    def finish(self) -> None:
        """Encode what is decoded and wait for all results."""
        for pool, writers in self.users.items():
            if batch := pool.pop_partial():
                for writer in writers:
                    writer.start(batch)
        for writer in self.writers:
            while writer.in_flight:
                writer.collect()

    def _make_room(self, samples: Sequence[LoadedSample]) -> None:
        """Wait until every pool has slots for these samples."""
        for pool, writers in self.users.items():
            while pool.free_slots < pool.missing_of(samples) and not self.stop.signal:
                writer = max(writers, key=lambda writer: len(writer.in_flight))
                if self.decoding and len(writer.in_flight) < writer.runner.in_flight:
                    self._take_decoded()  # what is decoded next can start at once
                else:
                    writer.collect()

    def _take_decoded(self) -> None:
        """Wait for the oldest samples, unless told to stop; start the passes of the batches that they complete."""
        while not wait([self.decoding[0][1]], timeout=STOP_SECONDS).done:
            if self.stop.signal:  # an image may take minutes
                return
        samples, decoding = self.decoding.popleft()
        self.stats.seconds["decode"] += decoding.result()
        self.stats.samples += len(samples)
        for sample in samples:
            self.stats.remarks += sample.remarks
        self.on_decoded(len(samples))
        self.unreadable |= {sample.key: sample.failure for sample in samples if sample.failure not in ("", NO_FACE)}
        if self.task.max_failures >= 0:
            check_failure_limit(self.unreadable | self.stats.failed_samples, self.task.max_failures)
        for pool, writers in self.users.items():
            for batch in pool.mark_decoded(pool.missing_of(samples)):
                for writer in writers:
                    writer.start(batch)


class FeatureWriter:
    """Starts the forward passes of one feature file, a few at once, and publishes the features in shards."""

    def __init__(self, encoder: Encoder, recipe: Recipe, pool: BatchPool, runner: Runner,
                 publish: Callable[[int, Rows], object], rows_per_shard: int, thread: ThreadPoolExecutor,
                 stats: RunStats):
        self.encoder, self.recipe, self.pool, self.runner, self.stats = encoder, recipe, pool, runner, stats
        self.in_flight: deque[tuple[Batch, ForwardPass]] = deque()
        self._publish, self._thread = publish, thread
        self._rows_per_shard = max(1, min(rows_per_shard, SHARD_BYTES // (4 * encoder.dim)))
        self._publishing: Future | None = None
        self._open: list[Rows] = []  #: of each batch, not published yet
        self._due = time.monotonic() + SHARD_SECONDS

    def start(self, batch: Batch) -> None:
        """Start the forward pass of a batch, once not too many are in flight."""
        while len(self.in_flight) >= self.runner.in_flight:
            self.collect()
        batch.users += 1
        self.in_flight.append((batch, self.runner.start(self.encoder, batch.pixels)))

    def collect_done(self) -> None:
        """Collect the results that are there, without waiting."""
        while self.in_flight and self.in_flight[0][1].done():
            self.collect()

    def collect(self) -> None:
        """Wait for the oldest pass and collect its results."""
        batch, forward = self.in_flight.popleft()
        features, seconds = forward.result()
        self.stats.seconds["forward"] += seconds
        self.add(batch, features[:len(batch.samples)])
        batch.release()
        rows = sum(len(block.keys) + len(block.failures) for block in self._open)
        if rows >= self._rows_per_shard or time.monotonic() > self._due:
            self.publish()

    def add(self, batch: Batch, features: np.ndarray) -> None:
        """Add the features of a batch to the open shard. features: (B, dim) float32."""
        stored, faults = storable(features, self.recipe.dtype)
        failures = {sample.key: sample.failure or fault
                    for sample, fault in zip(batch.samples, faults, strict=True) if sample.failure or fault}
        valid = [row for row, sample in enumerate(batch.samples) if sample.key not in failures]
        samples = [batch.samples[row] for row in valid]
        self._open.append(Rows(keys=[sample.key for sample in samples], sha256=[sample.sha256 for sample in samples],
                               features=stored[valid] if failures else stored, failures=failures))
        self.stats.rows[self.recipe.fingerprint] += len(valid)
        if failures:
            self.stats.failures[self.recipe.fingerprint] |= failures

    def publish(self) -> None:
        """Hand the open shard to the writing thread, once the one before is safe; raise what went wrong with that."""
        self.wait()
        if self._open:
            self._publishing = self._thread.submit(self._write, self._open)
        self._open, self._due = [], time.monotonic() + SHARD_SECONDS

    def wait(self) -> None:
        """Wait until the last shard is safe on disk."""
        if self._publishing is not None:
            publishing, self._publishing = self._publishing, None
            publishing.result()

    def _write(self, blocks: Sequence[Rows]) -> None:
        began = time.perf_counter()
        self._publish(self.encoder.dim, Rows(
            keys=[key for block in blocks for key in block.keys],
            sha256=[text for block in blocks for text in block.sha256],
            features=np.concatenate([block.features for block in blocks]),
            failures={key: reason for block in blocks for key, reason in block.failures.items()}))
        self.stats.seconds["write"] += time.perf_counter() - began


def storable(features: np.ndarray, dtype: str) -> tuple[np.ndarray, Sequence[str]]:
    """Return (B, D) float32 features in the stored dtype, and for each row why it cannot be stored, or ""."""
    with np.errstate(over="ignore"):
        stored = features.astype(dtype)
    if first_non_finite_row(stored) is None:
        return stored, [""] * len(stored)
    finite, storable_rows = (np.asarray(np.isfinite(rows).all(axis=1)) for rows in (features, stored))
    return stored, ["" if fits else f"embedding out of the range of {dtype}" if exists else "embedding not finite"
                    for exists, fits in zip(finite, storable_rows, strict=True)]


# ------------------------------------------------------------------------------------------------------ several devices
def compute_on_devices(task: ComputeTask, *, devices: Sequence[str], encoders: Encoders) -> RunStats:
    """Compute a task on these devices: on the first here, with these encoders, on each other in a process of its own.

    Signals to stop are passed on, and each process finishes its batches. Raises what the first process that fails
    raises; what the others computed is kept.
    """
    if len(devices) == 1:
        return compute_task(task, encoders)
    samples = task.samples
    tasks = [replace(task, workers=task.workers or max(1, usable_cores() // len(devices)), files=[
        replace(file, rows=np.intersect1d(file.rows, samples[number::len(devices)], assume_unique=True))
        for file in task.files]) for number in range(len(devices))]
    shared = CONTEXT.Value("i", 0, lock=False)
    with Stop(shared) as stop, ProcessPoolExecutor(len(devices) - 1, CONTEXT, _share_stop, (shared,)) as processes:
        futures = [processes.submit(_compute_on, part, device)
                   for part, device in zip(tasks[1:], devices[1:], strict=True)]
        try:
            stats = compute_task(tasks[0], encoders, stop=stop)
            for future in futures:
                stats.add(future.result())
        except BrokenProcessPool:
            raise InputError("a process ended early: run the same command again to go on") from None
        finally:
            shared.value = shared.value or signal.SIGTERM  # after an error the others end, too
    return stats


_stop = Stop()  #: of a process that computes for another


def _share_stop(shared: Any) -> None:
    """Take signals to stop from the process that started this one, which gets those of the terminal, too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _stop.shared = shared
    Finalize(None, os._exit, args=(0,), exitpriority=-100)  # nobody waits for a thread that still decodes an image


def _compute_on(task: ComputeTask, device: str) -> RunStats:
    return compute_task(task, Encoders(device), stop=_stop)
