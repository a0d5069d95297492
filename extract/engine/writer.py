"""The rows of one feature file on their way: batches on their device, embeddings waiting for a shard."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from twofold.cache.feature_file import first_non_finite_row
from twofold.cache.recipe import Recipe
from twofold.cache.shards import Rows
from twofold.extract.engine.batches import Batch, BatchPool
from twofold.extract.engine.runners import DeviceRunner, ForwardPass
from twofold.extract.engine.stats import RunStats
from twofold.extract.plan import Job

SHARD_SECONDS = 120  #: a shard is published at the latest after this long, however slow the encoder
Publish = Callable[[Recipe, int, Rows], object]  #: takes recipe, dimension and the rows of one shard


class FeatureWriter:
    """Starts the forward passes of one job, a few at once, and publishes the features in shards."""

    def __init__(self, job: Job, pool: BatchPool, runner: DeviceRunner, publish: Publish, rows_per_shard: int,
                 thread: ThreadPoolExecutor, stats: RunStats):
        self.job, self.pool, self.runner, self.stats = job, pool, runner, stats
        self._publish, self._rows_per_shard, self._thread = publish, rows_per_shard, thread
        self.in_flight: deque[tuple[Batch, ForwardPass]] = deque()
        self._shard = OpenShard()
        self._publishing: Future | None = None

    def start(self, batch: Batch) -> None:
        """Start the forward pass of a batch, once not too many are in flight."""
        while len(self.in_flight) >= self.runner.in_flight:
            self.collect()
        self.in_flight.append((batch, self.runner.start(self.job.encoder, batch.pixels)))

    def collect_done(self) -> None:
        """Collect the results that are there, without waiting."""
        while self.in_flight and self.in_flight[0][1].done():
            self.collect()

    def collect(self) -> None:
        """Wait for the oldest pass and collect its results."""
        batch, forward = self.in_flight.popleft()
        features, seconds = forward.result()
        self.stats.seconds.forward += seconds
        self.add(batch, features[:len(batch.samples)])
        self.pool.release(batch)
        if self._shard.samples >= self._rows_per_shard or time.monotonic() > self._shard.due:
            self.publish()

    def add(self, batch: Batch, features: np.ndarray) -> None:
        """Add the features of a batch to the open shard. features: (B, dim) float32."""
        shard, fingerprint = self._shard, self.job.recipe.fingerprint
        stored, faults = storable(features, self.job.recipe.dtype)
        valid = [row for row, sample in enumerate(batch.samples) if not (sample.failure or faults[row])]
        shard.keys += [batch.samples[row].key for row in valid]
        shard.hashes += [batch.samples[row].sha256 for row in valid]
        shard.features.append(stored if len(valid) == len(stored) else stored[valid])
        self.stats.rows[fingerprint] += len(valid)
        if len(valid) < len(stored):
            failures = {sample.key: sample.failure or fault
                        for sample, fault in zip(batch.samples, faults, strict=True) if sample.failure or fault}
            shard.failures |= failures
            self.stats.failures[fingerprint] |= failures

    def publish(self) -> None:
        """Hand the open shard to the writing thread, once the one before is safe; raise what went wrong with that."""
        self.wait()
        if self._shard.samples:
            self._publishing = self._thread.submit(self._write, self._shard)
        self._shard = OpenShard()

    def wait(self) -> None:
        """Wait until the last shard is safe on disk."""
        if self._publishing is not None:
            publishing, self._publishing = self._publishing, None
            publishing.result()

    def _write(self, shard: "OpenShard") -> None:
        began = time.perf_counter()
        recipe, dim = self.job.recipe, self.job.encoder.dim
        features = np.concatenate([np.empty((0, dim), recipe.dtype), *shard.features])
        self._publish(recipe, dim, Rows(keys=shard.keys, sha256=shard.hashes, features=features,
                                        failures=shard.failures))
        self.stats.seconds.write += time.perf_counter() - began


@dataclass
class OpenShard:
    """Rows that are not published yet: keys, image hashes, blocks of features, and failures by key."""

    keys: list[str] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    features: list[np.ndarray] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    due: float = field(default_factory=lambda: time.monotonic() + SHARD_SECONDS)

    @property
    def samples(self) -> int:
        return len(self.keys) + len(self.failures)


def storable(features: np.ndarray, dtype: str) -> tuple[np.ndarray, Sequence[str]]:
    """Return (B, D) float32 features in the stored dtype, and for each row why it cannot be stored, or ""."""
    with np.errstate(over="ignore"):
        stored = features.astype(dtype)
    if first_non_finite_row(stored) is None:
        return stored, [""] * len(stored)
    finite, storable_rows = (np.asarray(np.isfinite(rows).all(axis=1)) for rows in (features, stored))
    return stored, ["" if fits else f"embedding out of the range of {dtype}" if exists else "embedding not finite"
                    for exists, fits in zip(finite, storable_rows, strict=True)]
