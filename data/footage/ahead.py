"""An iterator that works ahead in a thread of its own, while what it gave last is used."""

import threading
from collections.abc import Generator, Iterable
from queue import Empty, Full, Queue
from typing import TypeVar

Item = TypeVar("Item")
WAIT_SECONDS = 0.2  #: between looks whether the other side has gone


def ahead(items: Iterable[Item]) -> Generator[Item]:
    """The items in order; the next one is made meanwhile. What making them raises is raised where they are taken."""
    queue: Queue[tuple[Item | None, BaseException | None]] = Queue(maxsize=1)
    gone = threading.Event()

    def put(item: Item | None, error: BaseException | None) -> bool:
        while not gone.is_set():
            try:
                queue.put((item, error), timeout=WAIT_SECONDS)
                return True
            except Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item, None):
                    return
            put(None, StopIteration())
        except BaseException as error:
            put(None, error)

    thread = threading.Thread(target=work, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            try:
                item, error = queue.get(timeout=WAIT_SECONDS)
            except Empty:
                continue
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # pyright: ignore[reportReturnType]
    finally:
        gone.set()
        thread.join()
