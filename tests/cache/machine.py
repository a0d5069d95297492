"""Writers of one store, stopped or killed at any moment at which they touch the disk, and interleaved there.

The disk is the real one; the modules that write get an `os` of ours, which asks before and after each new file, write,
rename, sync, removal and new folder what is to happen: go on, let another writer go first, or die.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from twofold.cache import feature_writer
from twofold.data.utils import atomic

MOMENTS = ("open", "posix_fallocate", "pwrite", "replace", "fsync", "unlink", "mkdir", "rmdir")
WRITERS = (atomic, feature_writer)


class Killed(BaseException):
    """Stands for `kill -9`: what a writer had begun stays as it is, and its locks are released."""


class Stops:
    """An `os` that calls `moment` before and after each thing that changes a file or folder or makes it last."""

    def __init__(self, moment: Callable[[str], None]):
        self.moment = moment

    def __getattr__(self, name: str):
        real = getattr(os, name)
        if name not in MOMENTS:
            return real

        def stopped(*arguments):
            if name == "open" and not arguments[1] & os.O_CREAT:
                return real(*arguments)
            self.moment(name)
            result = real(*arguments)
            self.moment(name)
            return result
        return stopped


@contextmanager
def stopped_by(moment: Callable[[str], None]) -> Iterator[None]:
    """Within it the modules that write ask `moment`."""
    for module in WRITERS:
        module.os = Stops(moment)
    try:
        yield
    finally:
        for module in WRITERS:
            module.os = os


@contextmanager
def dying_at(number: int) -> Iterator[list[int]]:
    """Within it the writer dies at the `number`-th moment; gives the moments there were."""
    count = [0]

    def moment(name: str) -> None:
        count[0] += 1
        if count[0] == number:
            dead.append(True)
        if dead:  # a dead process does nothing more: not even removes its temporary files
            raise Killed

    dead: list[bool] = []
    with suppress(Killed), stopped_by(moment):
        yield count


def interleaved(writers: list[Callable[[], None]], order: Callable[[int], int], *, deaths: dict[int, int] | None = None,
                ) -> None:
    """Run writers in threads of which one goes at a time; at each moment `order(n)` says which of n goes on.

    deaths: number of a writer to the moment at which it dies. What they raise is raised.
    """
    turns = [threading.Semaphore(0) for _ in writers]
    alive, errors = list(range(len(writers))), []
    counts, own = [0] * len(writers), threading.local()
    finished = threading.Semaphore(0)

    def next_turn() -> None:
        if alive:
            turns[alive[order(len(alive)) % len(alive)]].release()
        else:
            finished.release()

    def moment(name: str) -> None:
        me = own.number
        counts[me] += 1
        if own.dead or counts[me] == (deaths or {}).get(me):
            own.dead = True
            raise Killed
        next_turn()
        turns[me].acquire()

    class Clock:
        """In the place of `time`: who waits for a lock lets another writer go."""

        def __getattr__(self, name: str):
            return (lambda seconds: moment("wait")) if name == "sleep" else getattr(os_time, name)

    def run(number: int) -> None:
        own.number, own.dead = number, False
        turns[number].acquire()
        try:
            writers[number]()
        except Killed:
            pass
        except BaseException as error:
            errors.append(error)
        finally:
            alive.remove(number)
            next_turn()

    os_time, atomic.time = atomic.time, Clock()
    try:
        with stopped_by(moment):
            threads = [threading.Thread(target=run, args=(number,)) for number in range(len(writers))]
            for thread in threads:
                thread.start()
            next_turn()
            finished.acquire()
            for thread in threads:
                thread.join()
    finally:
        atomic.time = os_time
    if errors:
        raise errors[0]
