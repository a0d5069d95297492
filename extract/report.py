"""What an extraction did, or would do, as a person and as a program read it."""

import signal
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from twofold.data.images.sources import NO_FACE
from twofold.extract.lanes import Work


@dataclass(frozen=True)
class FileLine:
    """One (backbone, view) of the run. computed and cached count faces; left: faces nobody has computed yet;
    parts and bytes: what the rows to compute are written as."""

    backbone: str
    view: str
    fingerprint: str
    dim: int
    precision: str
    untrained: bool
    cached: int
    to_compute: int
    parts: int
    bytes: int
    left: int
    failed: int
    retired: int
    file: str


@dataclass(frozen=True)
class Report:
    """The end of `extract`: a line for each file, then faces, failures by reason, speed and where the time went."""

    store: Path
    faces: int
    lines: list[FileLine]
    work: Work | None  #: None for a dry run
    expected_seconds: float = 0.0  #: of a dry run

    @property
    def exit_code(self) -> int:
        if self.work is None:
            return 0
        if self.work.stopped_by:
            return 128 + self.work.stopped_by
        return 1 if any(line.failed for line in self.lines) else 0

    def record(self) -> dict:
        work = self.work
        return {
            "store": str(self.store), "faces": self.faces, "files": [asdict(line) for line in self.lines],
            "computed_faces": work.faces if work else 0, "computed_rows": work.rows if work else 0,
            "failures": dict(Counter(work.failures.values())) if work else {},
            "seconds": asdict(work.seconds) if work else {},
            "expected_seconds": self.expected_seconds, "stopped_by": work.stopped_by if work else 0,
        }

    def text(self) -> str:
        lines = [_line(line, self.work is None) for line in self.lines]
        return "\n".join([*lines, *(self._done() if self.work else self._planned())])

    def _planned(self) -> list[str]:
        rows, parts, size = (sum(getattr(line, name) for line in self.lines)
                             for name in ("to_compute", "parts", "bytes"))
        told = f"dry run: {rows} rows to compute, {size / 1e6:.1f} MB in {parts} parts"
        if self.expected_seconds:
            told += f", about {timedelta(seconds=round(self.expected_seconds))} on this machine"
        return [f"{told}; nothing was written"]

    def _done(self) -> list[str]:
        work, seconds = self.work, self.work.seconds
        if work.stopped_by:
            name = signal.Signals(work.stopped_by).name
            return [f"stopped by {name} after {work.faces} faces; all of them are safe, the same command goes on"]
        if not work.faces:
            return [f"{self.faces} faces, nothing to compute: all of it is cached in {self.store}"]
        reasons = [f"  {count:6} {'with' if reason == NO_FACE else 'failed:'} {reason}"
                   for reason, count in Counter(work.failures.values()).most_common()]
        return [
            f"{self.faces} faces, {work.faces} computed, {len(work.faults)} failures, "
            f"{work.faces / max(seconds.wall, 1e-9):.1f} faces/s over {seconds.wall:.1f} s",
            *reasons,
            f"seconds: decode {seconds.decode:.1f} (in threads), forward {seconds.forward:.1f}, "
            f"write {seconds.write:.1f}",
        ]


def _line(line: FileLine, dry: bool) -> str:
    name = f"{line.backbone} ({line.view}, {line.dim}-d, {line.precision}{', UNTRAINED' if line.untrained else ''})"
    verb = "to compute" if dry else "computed"
    text = f"{name}: {line.cached} cached, {line.to_compute} {verb}"
    text += f", {line.failed} failed" if line.failed else ""
    text += f", {line.left} left for other shards or a later run" if line.left and not dry else ""
    text += f", {line.retired} kept of faces no longer in the manifest" if line.retired else ""
    return text + (f" -> {line.file}" if line.file else "")
