"""The verb `bench fuse`: an epoch of training on cached features beside the matrix products that it is made of."""

import timeit
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from twofold.data.utils.errors import InputError
from twofold.data.utils.machine import openmp_settings
from twofold.fuse.core.settings import PRESETS, settings_from
from twofold.fuse.heads.head import build
from twofold.fuse.tables import columns
from twofold.fuse.training.data import Samples
from twofold.fuse.training.ensemble import Spec, initialise
from twofold.fuse.training.loop import train

CLASSES, HIDDEN, BATCH, EPOCHS, REPEATS = 14, 512, 128, 4, 3
PRODUCTS = "matrix products alone"
#: samples and the dims of the streams: RAF-CE with vit_mae and resnet50; a large set with all four presets
SIZES = {"rafce": (3_162, (768, 2048)), "large": (100_000, (768, 768, 512, 2048))}


@dataclass(frozen=True)
class Timing:
    """Seconds of an epoch of all seeds together. ratio: over those of the matrix products alone."""

    size: str
    what: str
    seeds: int
    seconds: float
    ratio: float


@dataclass(frozen=True)
class FuseBench:
    """Timings of one run on one machine; compare the ratios, not the seconds."""

    timings: list[Timing]
    threads: int

    def record(self) -> dict[str, Any]:
        return {"threads": self.threads, "waiting": openmp_settings(), "limit": self.limit(),
                "timings": [asdict(timing) for timing in self.timings]}

    def limit(self) -> str:
        """How much of an epoch is matrix products, in a sentence."""
        best = min((timing for timing in self.timings if timing.what != PRODUCTS), key=lambda timing: timing.ratio)
        return f"the matrix products are the limit: {1 / best.ratio:.0%} of an epoch ({best.what}, {best.seeds} seeds)"

    def text(self) -> str:
        rows = [("size", "what", "seeds", "s an epoch", "x the products"),
                *((timing.size, timing.what, str(timing.seeds), f"{timing.seconds:.3f}", f"{timing.ratio:.2f}")
                  for timing in self.timings)]
        return "\n".join([f"{self.threads} threads ({openmp_settings()})", "", *columns(rows), "", f"{self.limit()}."])


def bench_fuse(names: Sequence[str]) -> FuseBench:
    """Time an epoch of an MLP head for each named size, one seed and eight. Raises InputError for an unknown size."""
    unknown = [name for name in names if name not in SIZES]
    if unknown:
        raise InputError(f"unknown size {unknown[0]!r}: choose from {', '.join(SIZES)}")
    timings: list[Timing] = []
    for name in names:
        for seeds in (1, 8):
            least = _product_seconds(name, seeds)
            timings.append(Timing(name, PRODUCTS, seeds, least, 1.0))
            for precision in ("fp32", "bf16"):
                seconds = training_seconds(name, seeds, precision)
                timings.append(Timing(name, f"training, {precision}", seeds, seconds, seconds / least))
    return FuseBench(timings, torch.get_num_threads())


def _product_seconds(size: str, seeds: int) -> float:
    """Seconds of the products of forward and backward pass, operands in place: no training can be faster."""
    rows, dim = SIZES[size][0], sum(SIZES[size][1])
    x, h, g = (torch.randn(seeds, BATCH, width) for width in (dim, HIDDEN, CLASSES))
    first, last = torch.randn(seeds, dim, HIDDEN), torch.randn(seeds, HIDDEN, CLASSES)
    gf, gl, gh = torch.empty_like(first), torch.empty_like(last), torch.empty_like(h)

    def epoch() -> None:
        for _ in range(-(-rows // BATCH)):
            torch.bmm(x, first, out=h)
            torch.bmm(h, last)
            torch.bmm(h.transpose(1, 2), g, out=gl)
            torch.bmm(g, last.transpose(1, 2), out=gh)
            torch.bmm(x.transpose(1, 2), gh, out=gf)

    return _fastest(epoch)


def training_seconds(size: str, seeds: int, precision: str) -> float:
    """Seconds of an epoch of `train`, as `fuse` calls it, on features in memory; validation on a hundred samples."""
    count, dims = SIZES[size]
    x = np.random.default_rng(0).standard_normal((count, sum(dims)), np.float32)
    y = np.arange(count) % CLASSES
    spec = Spec(kind="mlp", dims=dims, classes=tuple(map(str, range(CLASSES))), members=seeds, hidden=HIDDEN)
    settings = settings_from(PRESETS["paper"] | {"epochs": EPOCHS, "batch_size": BATCH, "seeds": seeds})

    def examples(rows: int) -> Samples:
        return Samples(label=y[:rows], basic=np.zeros((rows, 8), np.float32), basic_label=np.full(rows, -1),
                       read=lambda numbers: x[numbers], device=torch.device("cpu"), x=torch.from_numpy(x[:rows]))

    training, validation = examples(count), examples(100)

    def run() -> None:
        head = build(spec)
        initialise(head, range(seeds))
        train(head, training, validation, spec=spec, settings=settings, seeds=range(seeds), precision=precision)

    return _fastest(run) / EPOCHS


def _fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of several runs; the first one of them warms up."""
    return min(timeit.repeat(work, number=1, repeat=REPEATS))
