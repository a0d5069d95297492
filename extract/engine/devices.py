"""The rows that a run lacks, computed on one device or divided among several: one process each, this one included."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from twofold.cache.recipe import Recipe
from twofold.cache.shards import publish_shard
from twofold.cache.store import Store
from twofold.data.images.sources import ImageSource
from twofold.data.utils.errors import InputError
from twofold.extract.engine.loop import run_jobs
from twofold.extract.engine.progress import Stop
from twofold.extract.engine.stats import RunStats
from twofold.extract.plan import ExtractOptions, Job
from twofold.extract.streams import Encoders, EncoderSource
from twofold.extract.views import view

Receiver = Any  #: the reading end of a pipe, of a class that differs between systems
DIED = "a process ended with code {}: run the same command again to go on"


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

    Signals to stop are passed on, and each process finishes its batches. Raises InputError with the reason of the
    first process that fails; what the others computed is kept.
    """
    if len(devices) == 1:
        return compute_task(task, encoders)
    samples = missing_samples(task.files)
    threads = task.options.workers or max(1, (os.cpu_count() or 1) // len(devices))
    tasks = [replace(task, options=replace(task.options, workers=threads), files=[
        replace(file, rows=np.intersect1d(file.rows, samples[number::len(devices)], assume_unique=True))
        for file in task.files]) for number in range(len(devices))]
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    children: list[tuple[BaseProcess, Receiver]] = []
    with Stop() as stop:
        for part, device in zip(tasks[1:], devices[1:], strict=True):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(part, device, sender))
            process.start()
            sender.close()
            children.append((process, receiver))
        try:
            stats = compute_task(tasks[0], encoders, stop=stop)
        except BaseException:
            _stop(children)
            raise
        if stop.signal:
            _stop(children)
        results = [_result(process, receiver, stop, children) for process, receiver in children]
    for result in results:
        if isinstance(result, str):
            raise InputError(result)
        stats.add(result)
    return stats


def _child(task: ComputeTask, device: str, sender: Connection) -> None:
    try:
        sender.send(compute_task(task, Encoders(device)))
    except (ValueError, OSError) as error:
        sender.send(str(error))


def _stop(children: Sequence[tuple[BaseProcess, Receiver]]) -> None:
    for process, _ in children:
        if process.is_alive() and process.pid:
            os.kill(process.pid, signal.SIGTERM)


def _result(process: BaseProcess, receiver: Receiver, stop: Stop,
            children: Sequence[tuple[BaseProcess, Receiver]]) -> RunStats | str:
    passed_on = False
    while not receiver.poll(0.2):
        if stop.signal and not passed_on:
            _stop(children)
            passed_on = True
        if not process.is_alive() and not receiver.poll(0):
            return DIED.format(process.exitcode)
    try:
        result = receiver.recv()
    except EOFError:
        result = DIED.format(process.exitcode)
    process.join()
    return result
