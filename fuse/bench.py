"""The verb `bench fuse`: an epoch of training on cached features beside the matrix products that it is made of."""

import timeit
from collections.abc import Callable, Sequence

import numpy as np
import torch

from twofold.data.utils.errors import InputError
from twofold.data.utils.machine import openmp_settings
from twofold.data.utils.terminal import Summary
from twofold.fuse.core.choice import label_taxonomy
from twofold.fuse.core.kinds import Classification, one_hot
from twofold.fuse.core.settings import PRESETS, settings_from
from twofold.fuse.heads.head import build
from twofold.fuse.tables import columns
from twofold.fuse.training.data import Samples
from twofold.fuse.training.ensemble import Spec, initialise
from twofold.fuse.training.loop import train

CLASSES, HIDDEN, BATCH, EPOCHS, REPEATS = 14, 512, 128, 4, 3
#: samples and the dims of the streams: RAF-CE with vit_mae and resnet50; a large set with all four presets
SIZES = {"rafce": (3_162, (768, 2048)), "large": (100_000, (768, 768, 512, 2048))}


def bench_fuse(names: Sequence[str]) -> Summary:
    """Time an epoch of an MLP head for each named size, one seed and eight. Raises InputError for an unknown size.

    Compare the ratios, over the seconds of the matrix products alone, not the seconds: they are of this machine.
    """
    if unknown := [name for name in names if name not in SIZES]:
        raise InputError(f"unknown size {unknown[0]!r}: choose from {', '.join(SIZES)}")
    timings = []
    for name in names:
        for seeds in (1, 8):
            seconds = {"matrix products alone": product_seconds(name, seeds)} | {
                f"training, {precision}": training_seconds(name, seeds, precision) for precision in ("fp32", "bf16")}
            timings += [{"size": name, "what": what, "seeds": seeds, "seconds": each,
                         "ratio": each / seconds["matrix products alone"]} for what, each in seconds.items()]
    best = min((each for each in timings if each["what"].startswith("training")), key=lambda each: each["ratio"])
    limit = (f"the matrix products are the limit: {1 / best['ratio']:.0%} of an epoch ({best['what']}, {best['seeds']} "
             "seeds)")
    threads, waiting = torch.get_num_threads(), openmp_settings()
    rows = [("size", "what", "seeds", "s an epoch", "x the products"), *(
        (each["size"], each["what"], str(each["seeds"]), f"{each['seconds']:.3f}", f"{each['ratio']:.2f}")
        for each in timings)]
    return Summary([f"{threads} threads ({waiting})", "", *columns(rows), "", f"{limit}."],
                   {"threads": threads, "waiting": waiting, "limit": limit, "timings": timings})


def product_seconds(size: str, seeds: int) -> float:
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
    task = Classification(label_taxonomy("classification", spec.classes))
    training, validation = (Samples(
        task=task, target=one_hot(y[:rows], CLASSES), label=y[:rows], basic=np.zeros((rows, 8), np.float32),
        basic_label=np.full(rows, -1), read=lambda numbers: x[numbers],
        device=torch.device("cpu"), x=torch.from_numpy(x[:rows])) for rows in (count, 100))

    def run() -> None:
        head = build(spec)
        initialise(head, range(seeds))
        train(head, training, validation, spec=spec, settings=settings, seeds=range(seeds), precision=precision)

    return _fastest(run) / EPOCHS


def _fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of several runs; the first one of them warms up."""
    return min(timeit.repeat(work, number=1, repeat=REPEATS))
