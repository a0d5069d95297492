"""Worker processes that start however Twofold itself was started: installed, from a plain clone under any name, from a
notebook, or from a script without a main guard, which they do not run again."""

import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

Result = TypeVar("Result")
PIPELINE = Path(__file__).resolve().parents[2] / "pipeline.py"  #: makes `twofold` known, wherever it lies


class _Process(SpawnProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        """Start it with our command line in place of the main module of the caller."""
        main, ours = sys.modules["__main__"], ModuleType("__main__")
        ours.__file__ = str(PIPELINE)
        sys.modules["__main__"] = ours
        try:
            return SpawnProcess._Popen(process_obj)
        finally:
            sys.modules["__main__"] = main


class _Context(SpawnContext):
    Process = _Process


CONTEXT = _Context()  #: for `ProcessPoolExecutor`; a forked process would not survive CUDA and threads


def map_unordered(function: Callable[..., Result], calls: Iterable[tuple], *, workers: int,
                  initializer: Callable[..., object] | None = None, initargs: tuple = ()) -> Iterator[Result]:
    """Yield `function(*call)` for each call as results come; with one worker in this process.

    initializer: called once in each worker process.
    """
    if workers == 1:
        yield from (function(*call) for call in calls)
        return
    with ProcessPoolExecutor(workers, CONTEXT, initializer, initargs) as pool:
        try:
            for future in as_completed([pool.submit(function, *call) for call in calls]):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)
