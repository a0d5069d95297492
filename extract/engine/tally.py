"""What a run did: faces, rows, failures and seconds, of one process or of several together."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from twofold.data.images.sources import NO_FACE
from twofold.data.utils.errors import InputError


@dataclass
class Seconds:
    """Where the time went: decode is summed over the decoding threads, forward over the encoders' devices."""

    decode: float = 0.0
    forward: float = 0.0
    write: float = 0.0
    wall: float = 0.0


@dataclass
class Tally:
    """What one run did. faces: decoded; of each file, by fingerprint, rows: computed; failures: key to reason."""

    faces: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    failures: defaultdict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))  #: by fingerprint
    seconds: Seconds = field(default_factory=Seconds)
    stopped_by: int = 0  #: the signal that ended the run early, or 0

    @property
    def failed_faces(self) -> dict[str, str]:
        """Key to reason, of faces that failed for any file, but for pictures and frames in which there is no face."""
        return {key: reason for failures in self.failures.values() for key, reason in failures.items()
                if reason != NO_FACE}

    def add(self, other: "Tally") -> None:
        """Count the work of another process, too; the wall time is that of the slower."""
        self.faces += other.faces
        self.rows += other.rows
        for fingerprint, failures in other.failures.items():
            self.failures[fingerprint].update(failures)
        self.seconds = Seconds(*(getattr(self.seconds, name) + getattr(other.seconds, name)
                                 for name in ("decode", "forward", "write")),
                               wall=max(self.seconds.wall, other.seconds.wall))
        self.stopped_by = self.stopped_by or other.stopped_by


def refuse_too_many(failures: Mapping[str, str], limit: int) -> None:
    """Raises InputError if more faces than `limit` have failed; failures: key to reason."""
    if len(failures) > limit:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in Counter(failures.values()).most_common(3))
        raise InputError(f"stopped after {len(failures)} failed faces (--max-failures {limit}): {reasons}, "
                         f"last {list(failures)[-1]!r}; what was computed is kept")
