"""The verb `bench fuse`: our training loop against its floor and against what people write otherwise, in one run."""

import logging
import multiprocessing
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

from twofold.data.utils.errors import InputError
from twofold.data.utils.machine import openmp_settings
from twofold.fuse.bench import contenders
from twofold.fuse.bench.contenders import Size
from twofold.fuse.tables.columns import columns

log = logging.getLogger(__name__)
#: RAF-CE with vit_mae and resnet50; a large set with all four presets
SIZES = (Size("rafce", 3_162, (768, 2048)), Size("large", 100_000, (768, 768, 512, 2048), epochs=1, repeats=1))
FLOOR, OURS, BF16 = "bare matrix products", "ours, fp32", "ours, bf16"
WITH_SEEDS = {FLOOR: contenders.floor, OURS: partial(contenders.ours, precision="fp32"),
              BF16: partial(contenders.ours, precision="bf16")}
ALONE = {"ours, before it: reading, once": contenders.reading, "DataLoader over feature files": contenders.dataloader,
         "DataLoader over plain HDF5": contenders.dataloader_plain,
         "scikit-learn MLPClassifier": contenders.sklearn_mlp}


@dataclass(frozen=True)
class Timing:
    """Seconds of an epoch of all seeds together, and the megabytes that the peak of memory lies above the imports.

    floors: seconds over those of the bare matrix products of the same seeds.
    """

    size: str
    what: str
    seeds: int
    seconds: float
    megabytes: float
    floors: float


@dataclass(frozen=True)
class FuseBench:
    """Timings of one run on one machine; the ratios travel, the seconds do not."""

    timings: list[Timing]
    sizes: list[Size]
    threads: int

    def record(self) -> dict:
        return {"threads": self.threads, "waiting": openmp_settings(),
                "timings": [asdict(timing) for timing in self.timings]}

    def text(self) -> str:
        rows = [("size", "what", "seeds", "s an epoch", "x floor", "x ours fp32", "x ours bf16", "peak MB")]
        ours, bf16 = ({(timing.size, timing.seeds): timing.seconds for timing in self.timings if timing.what == what}
                      for what in (OURS, BF16))
        rows += [(timing.size, timing.what, str(timing.seeds), f"{timing.seconds:.3f}", f"{timing.floors:.2f}",
                  *(f"{timing.seconds / of[timing.size, timing.seeds]:.2f}" for of in (ours, bf16)),
                  f"{timing.megabytes:.0f}") for timing in self.timings]
        lines = [f"{size.name}: {size.rows} x {size.dim}, hidden {size.hidden}, batch {size.batch}"
                 + (f"; DataLoader, scikit-learn and reading from {size.sampled} rows, scaled up"
                    if size.sampled < size.rows else "") for size in self.sizes]
        eight = [f"{size.name}: eight seeds take {ours[size.name, 8] / ours[size.name, 1]:.2f} times one"
                 for size in self.sizes]
        how = f"{self.threads} threads ({openmp_settings()}), each contender in a process of its own"
        return "\n".join([*lines, how, "", *columns(rows), "", *eight])


def bench_fuse(*, sizes: tuple[str, ...] = ("rafce",)) -> FuseBench:
    """Time an epoch of an MLP head for each named size, one seed and eight. Raises InputError for an unknown size."""
    by_name = {size.name: size for size in SIZES}
    for name in sizes:
        if name not in by_name:
            raise InputError(f"unknown size {name!r}: choose from {', '.join(by_name)}")
    return bench_sizes([by_name[name] for name in sizes])


def bench_sizes(sizes: list[Size]) -> FuseBench:
    """Time all contenders on these sizes."""
    import torch

    timings: list[Timing] = []
    for size in sizes:
        for seeds in (1, 8):
            results = {}
            for what, contender in (WITH_SEEDS | (ALONE if seeds == 1 else {})).items():
                log.info("%s: %s, %d seeds", size.name, what, seeds)
                results[what] = _isolated(contender, size, seeds)
            timings += [Timing(size.name, what, seeds, seconds, megabytes, seconds / results[FLOOR][0])
                        for what, (seconds, megabytes) in results.items()]
    return FuseBench(timings, sizes, torch.get_num_threads())


def _isolated(contender: Callable[[Size, int], tuple[float, float]], size: Size, seeds: int) -> tuple[float, float]:
    """Run a contender in a fresh process: its peak of memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(contender, (size, seeds))
