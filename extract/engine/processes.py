"""The rows that a run lacks, shared out among devices: one process each, this one among them."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

from twofold.cache.store import Store
from twofold.data.utils.errors import InputError
from twofold.extract.assignment import Assignment
from twofold.extract.engine.engine import compute
from twofold.extract.engine.stop import Stop
from twofold.extract.engine.tally import Tally
from twofold.extract.plan import Job
from twofold.extract.streams import Encoders
from twofold.extract.views import view

Receiver = Any  #: the reading end of a pipe, of a class that differs between systems
DIED = "a process ended with code {}: run the same command again to go on"


def carry_out(assignment: Assignment, encoders: Encoders, *, progress: bool = True, stop: Stop | None = None,
              decoded: Callable[[int], object] | None = None) -> Tally:
    """Compute the rows and leave them in parts of the store; stop, decoded: as of `compute`.

    Raises InputError as loading an encoder and `compute`.
    """
    jobs = []
    for file in assignment.files:
        missing = np.zeros(len(assignment.keys), bool)
        missing[file.rows] = True
        jobs.append(Job(encoders.load(file.source), view(file.recipe.view["name"]), file.recipe, missing))
    return compute(jobs, assignment.keys, assignment.faces, Store(assignment.store, new=True),
                   options=assignment.options, progress=progress, stop=stop, decoded=decoded)


def shared_out(assignment: Assignment, devices: Sequence[str]) -> list[Assignment]:
    """The assignment once for each device, each with every n-th of the faces that any file lacks."""
    faces = np.unique(np.concatenate([file.rows for file in assignment.files]))
    threads = assignment.options.workers or max(1, (os.cpu_count() or 1) // len(devices))
    return [replace(assignment, device=device, options=replace(assignment.options, workers=threads), files=[
        replace(file, rows=np.intersect1d(file.rows, faces[place::len(devices)], assume_unique=True))
        for file in assignment.files]) for place, device in enumerate(devices)]


def compute_on_devices(assignments: Sequence[Assignment], encoders: Encoders) -> Tally:
    """Carry out the first assignment here, with these encoders, and each other one in a process of its own.

    Signals to stop are passed on, and each process finishes its batches. Raises InputError with the reason of the
    first that fails; what the others computed is kept.
    """
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    children: list[tuple[BaseProcess, Receiver]] = []
    with Stop() as stop:
        for assignment in assignments[1:]:
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(assignment, sender))
            process.start()
            sender.close()
            children.append((process, receiver))
        try:
            tally = carry_out(assignments[0], encoders)
        except BaseException:
            _stop(children)
            raise
        if tally.stopped_by:
            _stop(children)
        results = [_result(process, receiver, stop, children) for process, receiver in children]
    for result in results:
        if isinstance(result, str):
            raise InputError(result)
        tally.add(result)
    return tally


def _child(assignment: Assignment, sender: Connection) -> None:
    try:
        sender.send(carry_out(assignment, Encoders(assignment.device)))
    except (ValueError, OSError) as error:
        sender.send(str(error))


def _stop(children: Sequence[tuple[BaseProcess, Receiver]]) -> None:
    for process, _ in children:
        if process.is_alive() and process.pid:
            os.kill(process.pid, signal.SIGTERM)


def _result(process: BaseProcess, receiver: Receiver, stop: Stop,
            children: Sequence[tuple[BaseProcess, Receiver]]) -> Tally | str:
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
