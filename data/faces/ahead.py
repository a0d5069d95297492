"""An iterator that works ahead in a thread of its own, while what it gave last is used."""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
DEPTH = 2  #: items that are ready or being made while another is used


def ahead(items: Iterable[Item]) -> Generator[Item]:
    """The items in order; the next ones are made meanwhile. What making them raises is raised where they are taken."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1, "ahead") as pool:
        waiting = deque(pool.submit(next, iterator, end) for _ in range(DEPTH))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(pool.submit(next, iterator, end))
                yield item  # pyright: ignore[reportReturnType]
        finally:
            pool.shutdown(cancel_futures=True)
