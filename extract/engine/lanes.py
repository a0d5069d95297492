"""The rows of one feature file on their way: batches on their device, embeddings waiting for a part."""

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from twofold.cache.layout import first_non_finite_row
from twofold.cache.shards import Rows, publish_shard
from twofold.cache.store import Store
from twofold.extract.engine.batches import Batch, Feed
from twofold.extract.engine.passes import Pass, Passes
from twofold.extract.engine.tally import Tally
from twofold.extract.plan import ExtractOptions, Job

PART_SECONDS = 120  #: a part is published at the latest after this long, however slow the encoder


class Lane:
    """Starts the forward passes of one job, a few at once, and publishes what they give in parts."""

    def __init__(self, job: Job, feed: Feed, passes: Passes, store: Store, options: ExtractOptions,
                 writer: ThreadPoolExecutor, tally: Tally):
        self.job, self.feed, self.passes, self.store, self.options = job, feed, passes, store, options
        self.writer, self.tally = writer, tally
        self.fingerprint = job.recipe.fingerprint
        self.under_way: deque[tuple[Batch, Pass]] = deque()
        self.part = OpenPart()
        self.publishing: Future | None = None

    def start(self, batch: Batch) -> None:
        """Start the forward pass of a batch, once not too many are under way."""
        while len(self.under_way) >= self.passes.at_once:
            self.collect()
        self.under_way.append((batch, self.passes.start(self.job.encoder, batch.pixels)))

    def collect_done(self) -> None:
        """Take the results that have come, without waiting."""
        while self.under_way and self.under_way[0][1].done():
            self.collect()

    def collect(self) -> None:
        """Wait for the oldest pass and take its results."""
        batch, under_way = self.under_way.popleft()
        features, seconds = under_way.result()
        self.tally.seconds.forward += seconds
        self._take(batch, features[:len(batch.faces)])
        self.feed.give_back(batch)
        if self.part.faces >= self.options.rows_a_part or time.monotonic() > self.part.due:
            self.publish()

    def _take(self, batch: Batch, features: np.ndarray) -> None:
        stored, faults = storable(features, self.job.recipe.dtype)
        sound = [place for place, face in enumerate(batch.faces) if not (face.failure or faults[place])]
        self.part.keys += [batch.faces[place].key for place in sound]
        self.part.hashes += [batch.faces[place].sha256 for place in sound]
        self.part.features.append(stored if len(sound) == len(stored) else stored[sound])
        self.tally.rows[self.fingerprint] += len(sound)
        if len(sound) < len(stored):
            for face, fault in zip(batch.faces, faults, strict=True):
                if face.failure or fault:
                    self.part.failures[face.key] = face.failure or fault
                    self.tally.failures[self.fingerprint][face.key] = face.failure or fault

    def publish(self) -> None:
        """Hand the open part to the writer, once the one before is safe; raises what went wrong with that."""
        self.settle()
        if self.part.faces:
            self.publishing = self.writer.submit(self._write, self.part)
        self.part = OpenPart()

    def settle(self) -> None:
        """Wait until the last part is safely on disk."""
        if self.publishing is not None:
            publishing, self.publishing = self.publishing, None
            publishing.result()

    def _write(self, part: "OpenPart") -> None:
        began = time.perf_counter()
        dim = self.job.encoder.dim
        features = np.concatenate([np.empty((0, dim), self.job.recipe.dtype), *part.features])
        publish_shard(self.store, self.job.recipe, dim, Rows(
            keys=part.keys, sha256=part.hashes, features=features, failures=part.failures))
        self.tally.seconds.write += time.perf_counter() - began


@dataclass
class OpenPart:
    """Rows that are not published yet: keys, image hashes, blocks of features, and failures by key."""

    keys: list[str] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    features: list[np.ndarray] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    due: float = field(default_factory=lambda: time.monotonic() + PART_SECONDS)

    @property
    def faces(self) -> int:
        return len(self.keys) + len(self.failures)


def storable(features: np.ndarray, dtype: str) -> tuple[np.ndarray, Sequence[str]]:
    """(B, D) float32 as it is stored, and for each row why it cannot be, or an empty text."""
    with np.errstate(over="ignore"):
        stored = features.astype(dtype)
    if first_non_finite_row(stored) is None:
        return stored, [""] * len(stored)
    return stored, [_fault(row, stored_row) for row, stored_row in zip(features, stored, strict=True)]


def _fault(features: np.ndarray, stored: np.ndarray) -> str:
    if np.isfinite(stored).all():
        return ""
    finite = np.isfinite(features).all()
    return f"embedding out of the range of {stored.dtype}" if finite else "embedding not finite"
