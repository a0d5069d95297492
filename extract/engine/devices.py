"""The rows that a run lacks, computed on one device or divided among several: one process each, this one included."""

import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from twofold.cache.recipe import Recipe
from twofold.cache.shards import publish_shard
from twofold.cache.store import Store
from twofold.data.images.sources import ImageSource
from twofold.data.utils.errors import InputError
from twofold.data.utils.machine import usable_cores
from twofold.data.utils.processes import CONTEXT
from twofold.extract.engine.loop import run_jobs
from twofold.extract.engine.progress import Stop
from twofold.extract.engine.stats import RunStats
from twofold.extract.plan import ExtractOptions, Job
from twofold.extract.streams import Encoders, EncoderSource
from twofold.extract.views import view


@dataclass(frozen=True, kw_only=True)
class MissingRows:
    """Rows of one feature file to compute. rows: indices into the keys of the task, sorted."""

    source: EncoderSource
    recipe: Recipe
    rows: np.ndarray


@dataclass(frozen=True, kw_only=True)
class ComputeTask:
    """What one process computes, complete in itself, so that it can be sent to another process or node."""

    files: Sequence[MissingRows]
    keys: Sequence[str]
    images: ImageSource
    store: Path
    options: ExtractOptions


def compute_task(task: ComputeTask, encoders: Encoders, *, progress: bool = True, stop: Stop | None = None,
                 on_decoded: Callable[[int], object] | None = None) -> RunStats:
    """Compute the rows of a task and publish them as shards of its store; arguments and errors as of `run_jobs`."""
    jobs = []
    for file in task.files:
        missing = np.zeros(len(task.keys), bool)
        missing[file.rows] = True
        jobs.append(Job(encoders.load(file.source), view(file.recipe.view["name"]), file.recipe, missing))
    return run_jobs(jobs, task.keys, task.images, partial(publish_shard, Store(task.store, new=True)),
                    options=task.options, progress=progress, stop=stop, on_decoded=on_decoded)


def missing_samples(files: Sequence[MissingRows]) -> np.ndarray:
    """Return the indices of all samples that any file lacks, sorted."""
    return np.unique(np.concatenate([file.rows for file in files])) if files else np.empty(0, int)


def compute_on_devices(task: ComputeTask, *, devices: Sequence[str], encoders: Encoders) -> RunStats:
    """Compute a task on these devices: on the first here, with these encoders, on each other in a process of its own.

    Signals to stop are passed on, and each process finishes its batches. Raises what the first process that fails
    raises; what the others computed is kept.
    """
    if len(devices) == 1:
        return compute_task(task, encoders)
    samples = missing_samples(task.files)
    threads = task.options.workers or max(1, usable_cores() // len(devices))
    tasks = [replace(task, options=replace(task.options, workers=threads), files=[
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


def _compute_on(task: ComputeTask, device: str) -> RunStats:
    return compute_task(task, Encoders(device), stop=_stop)
