"""One process a device, each with a slice of the faces: what `--device cuda:0,cuda:1` starts."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

from twofold.data.errors import InputError
from twofold.extract.engine import Stop
from twofold.extract.lanes import Seconds, Work

DIED = "a process ended with code {}: run the same command again to go on"


def compute_in_processes(worker: Callable[[object], Work], requests: Sequence[object]) -> Work:
    """Run `worker` on each request in a process of its own; returns the sum of their work.

    Signals to stop are passed on, and each process finishes its batch. Raises InputError with the first child's
    reason if one fails; what the others computed is kept.
    """
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    children = []
    with Stop() as stop:
        for request in requests:
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(worker, request, sender))
            process.start()
            sender.close()
            children.append((process, receiver))
        results = [_result(process, receiver, stop, children) for process, receiver in children]
    for result in results:
        if isinstance(result, str):
            raise InputError(result)
    return _sum(results)


def _child(worker: Callable[[object], Work], request: object, sender: Connection) -> None:
    try:
        sender.send(worker(request))
    except (ValueError, OSError) as error:
        sender.send(str(error))


def _result(
    process: multiprocessing.Process, receiver: Connection, stop: Stop, children: Sequence[tuple],
) -> Work | str:
    passed_on = False
    while not receiver.poll(0.2):
        if stop.signal and not passed_on:
            for other, _ in children:
                if other.is_alive():
                    os.kill(other.pid, signal.SIGTERM)
            passed_on = True
        if not process.is_alive() and not receiver.poll(0):
            return DIED.format(process.exitcode)
    try:
        result = receiver.recv()
    except EOFError:
        result = DIED.format(process.exitcode)
    process.join()
    return result


def _sum(works: Sequence[Work]) -> Work:
    """Faces, failures and seconds add up; the wall time is that of the slowest."""
    total = Work(seconds=Seconds(wall=max(work.seconds.wall for work in works)))
    for work in works:
        total.faces += work.faces
        total.rows += work.rows
        total.failures |= work.failures
        total.seconds.decode += work.seconds.decode
        total.seconds.forward += work.seconds.forward
        total.seconds.write += work.seconds.write
        total.stopped_by = total.stopped_by or work.stopped_by
    return total
