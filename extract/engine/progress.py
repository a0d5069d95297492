"""The progress bar and the interruption of long runs."""

import signal
import sys
import threading
from types import SimpleNamespace
from typing import Any

from tqdm import tqdm

LOG_SECONDS = 30  #: between progress lines where stderr is not a terminal


def progress_bar(total: int, *, shown: bool, doing: str = "extract", unit: str = "sample", initial: int = 0) -> tqdm:
    pace = 0.5 if sys.stderr.isatty() else LOG_SECONDS  # a log of a night's run should stay readable
    return tqdm(total=total, initial=initial, unit=unit, desc=doing, dynamic_ncols=True, mininterval=pace,
                maxinterval=2 * pace, disable=not shown)


class Stop:
    """While entered, Ctrl-C and SIGTERM set `signal` instead of ending the process; a second Ctrl-C does end it.

    shared: a number that other processes see, too.
    """

    def __init__(self, shared: Any = None) -> None:
        self.shared = shared or SimpleNamespace(value=0)
        self._before: dict[int, Any] = {}

    @property
    def signal(self) -> int:
        return self.shared.value

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self.set) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def set(self, number: int, _frame: object = None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.shared.value = number
