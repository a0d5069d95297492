"""How the work on a store grows with its faces: each stage in a process of its own, with its time and memory."""

import logging
import multiprocessing
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from twofold.cache.report import table
from twofold.cache.verify import verify

log = logging.getLogger(__name__)

Step = Callable[[Path], float]  #: does something with the store there; gives the seconds of what is to be timed
Draw = Callable[[Path, int], None]  #: makes a store of so many faces, all of their rows in parts


@dataclass(frozen=True)
class StageCost:
    """Of one stage on so many faces. megabytes: the peak of its process's memory over what imports take."""

    stage: str
    faces: int
    seconds: float
    megabytes: float


@dataclass(frozen=True)
class GrowthBench:
    """The costs of all stages, for each number of faces in turn."""

    sizes: Sequence[int]
    costs: Sequence[StageCost]

    def record(self) -> dict:
        return {"sizes": list(self.sizes), "costs": [asdict(cost) for cost in self.costs]}

    def text(self) -> str:
        by = {(cost.stage, cost.faces): cost for cost in self.costs}
        rows = [("stage", *(f"{faces:,} faces" for faces in self.sizes), "time grows", "memory grows")]
        for stage in dict.fromkeys(cost.stage for cost in self.costs):
            few, many = by[stage, self.sizes[0]], by[stage, self.sizes[-1]]
            rows.append((stage, *(f"{by[stage, faces].seconds:.2f} s, {by[stage, faces].megabytes:.0f} MB"
                                  for faces in self.sizes),
                         f"{many.seconds / few.seconds:.1f} x", f"{many.megabytes / max(few.megabytes, 1):.1f} x"))
        first = f"{self.sizes[-1] / self.sizes[0]:.1f} x the faces; memory over what imports take"
        return "\n".join([first, *table(rows)])


def bench_growth(sizes: Sequence[int], *, draw: Draw, steps: Mapping[str, Step], folder: Path | None = None
                 ) -> GrowthBench:
    """Draw a store of each size and time the steps on it, in order. folder: where, by default the temporary folder."""
    costs = []
    for faces in sizes:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            log.info("drawing %d faces", faces)
            draw(Path(name, "store"), faces)
            for stage, step in steps.items():
                log.info("%s, %d faces", stage, faces)
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    seconds, megabytes = pool.apply(_measured, (step, Path(name, "store")))
                costs.append(StageCost(stage, faces, seconds, megabytes))
    return GrowthBench(sizes, costs)


def verify_store(path: Path) -> float:
    """`cache verify`."""
    began = time.perf_counter()
    verification = verify(path)
    assert not verification.exit_code, verification.text()
    return time.perf_counter() - began


def _measured(step: Step, path: Path) -> tuple[float, float]:
    before = _peak()
    seconds = step(path)
    return seconds, _peak() - before


def _peak() -> float:
    """Megabytes that this program's memory took at its peak."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1e3
