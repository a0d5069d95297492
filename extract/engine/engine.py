"""The one extraction loop: each face is decoded once for all encoders and views that lack it.

Threads decode a few faces a task straight into batches; the calling thread starts forward passes as batches become
full and takes their results as they come; parts are published in a thread of its own. Nothing waits but for room:
a bounded number of batches goes round. Batches are padded to full size, so that a value does not depend on how a run
was cut up.
"""

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from twofold.cache.store import Store
from twofold.data.images.sources import NO_FACE, ImageSource
from twofold.extract.engine.batches import Batch, Face, Feed, fill
from twofold.extract.engine.lanes import Lane
from twofold.extract.engine.passes import Passes, passes_on
from twofold.extract.engine.progress import progress_bar
from twofold.extract.engine.stop import Stop
from twofold.extract.engine.tally import Tally, refuse_too_many
from twofold.extract.plan import ExtractOptions, Job

TASK_FACES = 8  #: that one decoding task takes: few enough to be soon done, enough to make its overhead small
FILLING = 2  #: batches of a feed that decoding may be ahead, besides those of which forward passes are under way


def compute(jobs: Sequence[Job], keys: Sequence[str], faces: ImageSource, store: Store, *, options: ExtractOptions,
            progress: bool = True, passes: Passes | None = None, stop: Stop | None = None,
            decoded: Callable[[int], object] | None = None) -> Tally:
    """Compute every missing row of `jobs` and leave it in parts of `store`.

    passes: what runs the forward passes, if not what belongs to the encoders' devices; stop: asked instead of the
    signals of this process; decoded: told how many faces were, each time, instead of a progress bar. A face that cannot
    be read, decoded or encoded is recorded with its reason and the run goes on; after more than `options.max_failures`
    of them it raises InputError. On Ctrl-C or SIGTERM the batches in hand are finished and published, and
    `Tally.stopped_by` says so. Whatever is raised, published parts stay.
    """
    tally = Tally()
    began = time.perf_counter()
    jobs = [job for job in jobs if job.missing.any()]
    rows = np.flatnonzero(np.any([job.missing for job in jobs], axis=0)).tolist() if jobs else []
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop or Stop())
        writer = stack.enter_context(ThreadPoolExecutor(1, "write"))
        lanes = _lanes(jobs, store, options, writer, tally, stack, passes)
        bar = stack.enter_context(progress_bar(len(rows), shown=progress and decoded is None))
        try:
            with ThreadPoolExecutor(options.workers or os.cpu_count() or 1, "decode") as decoders:
                loop = Loop(lanes, faces, decoders, tally, options, decoded or bar.update)
                try:
                    loop.run(rows, keys, stop)
                finally:
                    decoders.shutdown(cancel_futures=True)
            loop.finish()
        finally:
            for lane in lanes:
                lane.publish()
            for lane in lanes:
                lane.settle()
    tally.stopped_by = stop.signal
    tally.seconds.wall = time.perf_counter() - began
    return tally


def _lanes(jobs: Sequence[Job], store: Store, options: ExtractOptions, writer: ThreadPoolExecutor, tally: Tally,
           stack: contextlib.ExitStack, passes: Passes | None) -> list[Lane]:
    """A lane for each job; those that need the same pixels of the same faces share their batches."""
    feeds: dict[tuple, Feed] = {}
    runners: dict[torch.device, Passes] = {}
    lanes = []
    for job in jobs:
        encoder, device = job.encoder, job.encoder.device
        if device not in runners:
            runners[device] = passes or passes_on(device)
            stack.callback(runners[device].close)
        pinned = device.type == "cuda"
        pixels = (job.view.name, encoder.preprocessing, encoder.batch_size, pinned, job.missing.tobytes())
        if pixels not in feeds:
            feeds[pixels] = Feed(job.view, encoder.preprocessing, job.missing, batch_size=encoder.batch_size,
                                 count=FILLING + runners[device].at_once, pinned=pinned)
        lanes.append(Lane(job, feeds[pixels], runners[device], store, options, writer, tally))
    return lanes


class Loop:
    """Decoding tasks and forward passes under way, and the order in which they are waited for."""

    def __init__(self, lanes: Sequence[Lane], faces: ImageSource, decoders: ThreadPoolExecutor, tally: Tally,
                 options: ExtractOptions, decoded: Callable[[int], object]):
        self.lanes, self.faces, self.decoders = lanes, faces, decoders
        self.tally, self.options, self.decoded = tally, options, decoded
        self.users = {feed: [lane for lane in lanes if lane.feed is feed] for feed in {lane.feed for lane in lanes}}
        self.tasks: deque[tuple[list[Face], Future[float]]] = deque()
        self.unreadable: dict[str, str] = {}  #: key to reason

    def run(self, rows: Sequence[int], keys: Sequence[str], stop: Stop) -> None:
        """Decode these rows of the manifest and start the forward passes, until all are decoded or one says stop."""
        size = min([TASK_FACES, *(feed.batch_size for feed in self.users)])
        for start in range(0, len(rows), size):
            faces = [Face(row, keys[row]) for row in rows[start:start + size]]
            self._make_room(faces)
            self._submit(faces)
            self._advance()
            if stop.signal:
                return
        while self.tasks and not stop.signal:
            self._take_task()

    def finish(self) -> None:
        """Encode what is decoded and wait for all results."""
        for feed, lanes in self.users.items():
            batch = feed.last()
            if batch:
                self._start(batch, lanes)
        for lane in self.lanes:
            while lane.under_way:
                lane.collect()

    def _submit(self, faces: Sequence[Face]) -> None:
        wanted = [(face, [feed.place(face) for feed in self.users if feed.missing[face.row]]) for face in faces]
        self.tasks.append((list(faces), self.decoders.submit(fill, self.faces, wanted)))

    def _make_room(self, faces: Sequence[Face]) -> None:
        """Wait until every feed has places for these faces."""
        for feed, lanes in self.users.items():
            needed = sum(bool(feed.missing[face.row]) for face in faces)
            while feed.room < needed:
                lane = max(lanes, key=lambda lane: len(lane.under_way))
                if self.tasks and len(lane.under_way) < lane.passes.at_once:
                    self._take_task()  # what is decoded next can start at once
                else:
                    lane.collect()

    def _advance(self) -> None:
        """Take what is done, without waiting."""
        while self.tasks and self.tasks[0][1].done():
            self._take_task()
        for lane in self.lanes:
            lane.collect_done()

    def _take_task(self) -> None:
        """Wait for the oldest decoding task; start the forward passes of the batches that are full by it."""
        faces, task = self.tasks.popleft()
        self.tally.seconds.decode += task.result()
        self.tally.faces += len(faces)
        self.decoded(len(faces))
        self.unreadable |= {face.key: face.failure for face in faces if face.failure not in ("", NO_FACE)}
        if self.options.max_failures >= 0:
            refuse_too_many(self.unreadable | self.tally.failed_faces, self.options.max_failures)
        for feed, lanes in self.users.items():
            for batch in feed.take(sum(bool(feed.missing[face.row]) for face in faces)):
                self._start(batch, lanes)

    def _start(self, batch: Batch, lanes: Sequence[Lane]) -> None:
        batch.passes = len(lanes)
        for lane in lanes:
            lane.start(batch)
