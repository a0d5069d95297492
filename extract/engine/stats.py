"""What a run computed: samples, rows, failures and seconds, of one process or of several together."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from twofold.data.utils.errors import InputError
from twofold.data.utils.keys import NO_FACE


@dataclass
class Seconds:
    """Where the time went: decode is summed over the decoding threads, forward over the encoders' devices."""

    decode: float = 0.0
    forward: float = 0.0
    write: float = 0.0
    wall: float = 0.0


@dataclass
class RunStats:
    """What one run computed. samples: decoded; rows: computed, by fingerprint of the feature file."""

    samples: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    failures: defaultdict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    """Fingerprint of the feature file to key to reason."""
    seconds: Seconds = field(default_factory=Seconds)
    stopped_by: int = 0  #: the signal that ended the run early, or 0

    @property
    def failed_samples(self) -> dict[str, str]:
        """Key to reason, of samples that failed for any file; images without a face are none of them."""
        return {key: reason for failures in self.failures.values() for key, reason in failures.items()
                if reason != NO_FACE}

    def add(self, other: "RunStats") -> None:
        """Add the statistics of another process; the wall time becomes that of the slower."""
        self.samples += other.samples
        self.rows += other.rows
        for fingerprint, failures in other.failures.items():
            self.failures[fingerprint].update(failures)
        self.seconds = Seconds(*(getattr(self.seconds, name) + getattr(other.seconds, name)
                                 for name in ("decode", "forward", "write")),
                               wall=max(self.seconds.wall, other.seconds.wall))
        self.stopped_by = self.stopped_by or other.stopped_by


def check_failure_limit(failures: Mapping[str, str], limit: int) -> None:
    """Raise InputError if more samples than `limit` failed (-1: no limit). failures: key to reason."""
    if 0 <= limit < len(failures):
        reasons = ", ".join(f"{count} x {reason}" for reason, count in Counter(failures.values()).most_common(3))
        raise InputError(f"stopped after {len(failures)} failed samples (--max-failures {limit}): {reasons}, "
                         f"last {list(failures)[-1]!r}; what was computed is kept")
