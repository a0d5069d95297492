"""Nobody may keep us for ever: what another place is asked for has to come within a time, and faster than a trickle."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from twofold.cache.errors import TransferError

T = TypeVar("T")
WINDOW = 60.0  #: seconds of waiting in which LEAST_BYTES, or the end, must arrive
LEAST_BYTES = 8 << 10
AHEAD = 4  #: chunks that are fetched before they are used


def within(ask: Callable[[], T], where: str) -> T:
    """What `ask` returns or raises, if it does so within WINDOW seconds, whatever trickles in meanwhile.

    Raises TransferError if it does not; the thread that still waits ends with the process.
    """
    return next(_from_thread((answer() for answer in [ask]), lambda answer: LEAST_BYTES, where))


def brisk(chunks: Iterable[bytes], where: str) -> Iterator[bytes]:
    """The same chunks, fetched ahead. Raises TransferError once less than LEAST_BYTES arrive in WINDOW seconds."""
    return _from_thread(chunks, len, where)


def _from_thread(items: Iterable[T], weight: Callable[[T], int], where: str) -> Iterator[T]:
    ready: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(AHEAD)  #: items, or how they ended
    abandoned = threading.Event()

    def put(entry: tuple[T] | BaseException | None) -> None:
        while not abandoned.is_set():
            try:
                return ready.put(entry, timeout=1)
            except queue.Full:
                continue

    def fetch() -> None:
        try:
            for item in items:
                put((item,))
                if abandoned.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    threading.Thread(target=fetch, daemon=True).start()
    arrived, patience = 0, WINDOW
    try:
        while True:
            started = time.monotonic()
            try:
                entry = ready.get(timeout=patience)
            except queue.Empty:
                raise TransferError(f"{where}: less than {LEAST_BYTES >> 10} KB came in {WINDOW:g} seconds: run the "
                                    "same command again when the other side is faster") from None
            if entry is None:
                return
            if isinstance(entry, BaseException):
                raise entry
            patience = max(0.0, patience - (time.monotonic() - started))
            arrived += weight(entry[0])
            if arrived >= LEAST_BYTES:
                arrived, patience = 0, WINDOW
            yield entry[0]
    finally:
        abandoned.set()
