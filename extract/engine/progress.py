"""The progress, interruption and statistics of long runs."""

import signal
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from tqdm import tqdm

from twofold.data.utils.errors import InputError
from twofold.data.utils.keys import NO_FACE

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
        self.shared = SimpleNamespace(value=0) if shared is None else shared  # a shared 0 is false
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


@dataclass
class RunStats:
    """What one run computed. samples: decoded; rows: computed, by fingerprint of the feature file; failures: by
    fingerprint, key to reason; remarks: of the decoder, and how often; seconds: decode is summed over threads, forward
    over devices; stopped_by: the signal that ended the run early, or 0."""

    samples: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    failures: defaultdict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    remarks: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("decode", "forward", "write", "wall"), 0.0))
    stopped_by: int = 0

    @property
    def failed_samples(self) -> dict[str, str]:
        """Key to reason, of samples that failed for any file; images without a face are none of them."""
        return {key: reason for failures in self.failures.values() for key, reason in failures.items()
                if reason != NO_FACE}

    def add(self, other: "RunStats") -> None:
        """Add the statistics of another process; the wall time becomes that of the slower."""
        self.samples += other.samples
        self.rows += other.rows
        self.remarks += other.remarks
        for fingerprint, failures in other.failures.items():
            self.failures[fingerprint] |= failures
        wall = max(self.seconds["wall"], other.seconds["wall"])
        self.seconds = {name: seconds + other.seconds[name] for name, seconds in self.seconds.items()} | {"wall": wall}
        self.stopped_by = self.stopped_by or other.stopped_by


def check_failure_limit(failures: Mapping[str, str], limit: int) -> None:
    """Raise InputError if more samples than `limit` failed (-1: no limit). failures: key to reason."""
    if 0 <= limit < len(failures):
        reasons = ", ".join(f"{count} x {reason}" for reason, count in Counter(failures.values()).most_common(3))
        raise InputError(f"stopped after {len(failures)} failed samples (--max-failures {limit}): {reasons}, "
                         f"last {list(failures)[-1]!r}; what was computed is kept")
