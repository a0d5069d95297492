"""The verb `bench extract`: each stage of extraction alone, extraction as a whole, and which of them is the limit."""

import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from twofold.cache.shards import Rows, publish_shard
from twofold.cache.store import Store
from twofold.data.images.sources import ImageSource, open_images, parse_roots
from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import read_manifest, write_manifest
from twofold.data.synthetic.dataset import draw_dataset
from twofold.data.utils.errors import InputError
from twofold.data.utils.machine import openmp_settings, usable_cores
from twofold.extract.engine.batches import BatchPool, LoadedSample, decode_into
from twofold.extract.engine.loop import compute_task
from twofold.extract.engine.task import ComputeTask, Encoders, FileRows, recipe_of
from twofold.extract.streams import Stream

SECONDS = 1.0  #: for which each stage runs at least, after one run that is not counted


@dataclass(frozen=True)
class Leg:
    """A stage alone. rate: samples a second, for all encoders together; cpu_seconds: a sample, over all threads."""

    name: str
    rate: float
    cpu_seconds: float


@dataclass(frozen=True)
class ExtractBench:
    """One run on one machine. whole: samples a second, all stages at once; ceiling: what `whole` cannot exceed, on a
    GPU the rate of the slowest stage, on a CPU what the summed CPU time of all stages allows."""

    backbones: list[str]
    samples: int
    device: str
    workers: int
    cores: int
    legs: list[Leg]
    whole: float
    ceiling: float

    def record(self) -> dict[str, Any]:
        return asdict(self) | {"waiting": openmp_settings(), "limit": self.limit()}

    def limit(self) -> str:
        """What is in the way, in a sentence."""
        if self.device == "cuda":
            slowest = min(self.legs, key=lambda leg: leg.rate)
            return f"{slowest.name} is the limit: {slowest.rate:.0f} samples/s alone"
        costly = max(self.legs, key=lambda leg: leg.cpu_seconds)
        share = costly.cpu_seconds / sum(leg.cpu_seconds for leg in self.legs)
        return f"the {self.cores} cores are the limit: {share:.0%} of their time is {costly.name}"

    def text(self) -> str:
        slowest = min(leg.rate for leg in self.legs)
        return "\n".join([
            f"{', '.join(self.backbones)} on {self.device}: {self.samples} samples, {self.workers} decoding threads, "
            f"{openmp_settings()}",
            *(f"  {leg.name:9} {leg.rate:10.1f} samples/s alone, {leg.rate / slowest:7.1f} x the slowest, "
              f"{1e3 * leg.cpu_seconds:8.3f} ms of CPU a sample" for leg in self.legs),
            f"  {'whole':9} {self.whole:10.1f} samples/s, {self.whole / self.ceiling:.2f} of the {self.ceiling:.1f} "
            f"that the {'slowest stage' if self.device == 'cuda' else 'cores'} would allow", f"{self.limit()}."])


def bench_extract(streams: Sequence[Stream], *, manifest: Path | None, roots: Sequence[str], device: str, workers: int,
                  samples: int) -> ExtractBench:
    """Measure extraction of the first `samples` samples of a manifest, or of drawn faces. Raises as `extract`."""
    if manifest and not roots:
        raise InputError(f"{manifest} is a manifest: say with --root which folder its keys are relative to")
    with tempfile.TemporaryDirectory(prefix="twofold-") as folder:
        if manifest is None:
            manifest, classes, roots = Path(folder, "faces.csv"), builtin_taxonomy("cexpr7"), [f"{folder}/faces"]
            write_manifest(draw_dataset(Path(folder, "faces"), taxonomy=classes, size=112, seed=0,
                                        per_class=-(-samples // len(classes.classes))), manifest)
        keys, images = read_manifest(manifest).keys[:samples], open_images(parse_roots(roots))
        if not keys:
            raise InputError(f"{manifest}: no samples in it, and bench extract needs at least one")
        encoders, workers = Encoders(device), workers or usable_cores()
        files = [FileRows(source=stream.source, rows=np.arange(len(keys)), recipe=recipe_of(
            encoders.load(stream.source), stream.view, dtype=stream.dtype)) for stream in streams]
        task = ComputeTask(files=files, keys=keys, images=images, store=Path(folder, "store"), workers=workers)
        loaded = [encoders.load(file.source) for file in files]
        size = min(encoder.batch_size for encoder in loaded)
        batches = [(encoder, torch.zeros((size, encoder.preprocessing.size, encoder.preprocessing.size, 3),
                                         dtype=torch.uint8, device=encoder.device)) for encoder in loaded]
        shards = [(file.recipe, encoder.dim, Rows(
            keys=[f"{row:08d}.jpg" for row in range(task.rows_per_shard)], sha256=[b"0" * 64] * task.rows_per_shard,
            features=np.random.default_rng(0).standard_normal((task.rows_per_shard, encoder.dim), np.float32).astype(
                file.recipe.dtype))) for file, encoder in zip(files, loaded, strict=True)]

        def forward() -> None:
            for encoder, batch in batches:
                encoder.embed(batch)
            if loaded[0].device.type == "cuda":
                torch.cuda.synchronize(loaded[0].device)

        def write() -> None:
            for shard in shards:
                publish_shard(Store(Path(folder, "written"), new=True), *shard)

        kinds = {(file.recipe.view["name"], encoder.preprocessing) for file, encoder in zip(files, loaded, strict=True)}
        pools = [BatchPool(view, how, np.ones(1, bool), batch_size=1, count=1, pinned=False) for view, how in kinds]
        legs = [_decode(images, keys, pools, workers), _timed("forward", forward, size),
                _timed("write", write, task.rows_per_shard)]
        stats = compute_task(task, encoders, progress=False)
    kind, cores = loaded[0].device.type, len(os.sched_getaffinity(0))
    return ExtractBench(
        backbones=[encoder.name for encoder in loaded], samples=len(keys), device=kind, workers=workers, cores=cores,
        legs=legs, whole=stats.samples / stats.seconds["wall"],
        ceiling=min(leg.rate for leg in legs) if kind == "cuda" else cores / sum(leg.cpu_seconds for leg in legs))


def _decode(images: ImageSource, keys: Sequence[str], pools: Sequence[BatchPool], workers: int) -> Leg:
    """Read, decode and prepare all samples in as many threads as extraction does, all into one slot of each pool."""
    slots = [(pool.free[0], 0) for pool in pools]
    began, before = time.perf_counter(), _cpu_seconds()
    with ThreadPoolExecutor(workers, "decode") as threads:
        for _ in threads.map(lambda key: decode_into(images, [(LoadedSample(0, key), slots)]), keys):
            pass
    return Leg("decode", len(keys) / (time.perf_counter() - began), (_cpu_seconds() - before) / len(keys))


def _timed(name: str, run: Callable[[], None], samples: int) -> Leg:
    run()
    began, before, rounds = time.perf_counter(), _cpu_seconds(), 0
    while (seconds := time.perf_counter() - began) < SECONDS:
        run()
        rounds += 1
    return Leg(name, rounds * samples / seconds, (_cpu_seconds() - before) / (rounds * samples))


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
