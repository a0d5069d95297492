"""The verb `bench extract`: each stage of extraction alone, extraction as a whole, and which of them is the limit."""

import hashlib
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from twofold.cache.shards import Rows, publish_shard
from twofold.cache.store import Store
from twofold.data.images.decode import decode
from twofold.data.images.sources import ImageSource, open_images, parse_roots
from twofold.data.manifest import read_manifest
from twofold.data.utils.errors import InputError
from twofold.data.utils.machine import openmp_settings, usable_cores
from twofold.extract.engine.loop import run_jobs
from twofold.extract.plan import ExtractOptions, Job, recipe_of
from twofold.extract.streams import Encoders, Stream
from twofold.extract.views import view

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


def bench_extract(streams: Sequence[Stream], *, manifest: Path, roots: Sequence[str], device: str, workers: int,
                  samples: int) -> ExtractBench:
    """Measure extraction of the first `samples` samples of a manifest. Raises InputError as `extract` does."""
    keys = list(read_manifest(manifest).keys)[:samples]
    source = open_images(parse_roots(roots))
    if not keys:
        raise InputError(f"{manifest}: no samples in it, and bench extract needs at least one")
    encoders, workers = Encoders(device), workers or usable_cores()
    jobs = []
    for stream in streams:
        encoder, seen = encoders.load(stream.source), view(stream.view)
        jobs.append(Job(encoder, seen, recipe_of(encoder, seen, dtype=stream.dtype), np.ones(len(keys), bool)))
    legs = _legs(jobs, keys, source, workers)
    kind, cores = jobs[0].encoder.device.type, len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="twofold-") as folder:
        stats = run_jobs(jobs, keys, source, partial(publish_shard, Store(Path(folder), new=True)),
                         options=ExtractOptions(workers=workers), progress=False)
    return ExtractBench(
        backbones=[job.encoder.name for job in jobs], samples=len(keys), device=kind, workers=workers, cores=cores,
        legs=legs, whole=stats.samples / stats.seconds.wall,
        ceiling=min(leg.rate for leg in legs) if kind == "cuda" else cores / sum(leg.cpu_seconds for leg in legs))


def _legs(jobs: Sequence[Job], keys: Sequence[str], source: ImageSource, workers: int) -> list[Leg]:
    """The stages alone, one after the other."""
    size, batches = min(job.encoder.batch_size for job in jobs), []
    for encoder in (job.encoder for job in jobs):
        side = encoder.preprocessing.size
        batches.append((encoder, torch.zeros((size, side, side, 3), dtype=torch.uint8, device=encoder.device)))

    def forward() -> None:
        for encoder, batch in batches:
            encoder.embed(batch)
        for device in {encoder.device for encoder, _ in batches if encoder.device.type == "cuda"}:
            torch.cuda.synchronize(device)

    return [_decode(jobs, keys, source, workers), _timed("forward", forward, size), _write(jobs)]


def _decode(jobs: Sequence[Job], keys: Sequence[str], source: ImageSource, workers: int) -> Leg:
    """Read, decode and prepare all samples in as many threads as extraction does."""
    kinds = {(job.view.name, job.encoder.preprocessing): job for job in jobs}.values()

    def prepare(key: str) -> None:
        content = source.read(key)
        image, sha256 = decode(content, source.limits), hashlib.sha256(content).hexdigest()
        for job in kinds:
            job.encoder.preprocessing.prepare(job.view.apply(image, sha256))

    began, before = time.perf_counter(), _cpu_seconds()
    with ThreadPoolExecutor(workers, "decode") as pool:
        for _ in pool.map(prepare, keys):
            pass
    return Leg("decode", len(keys) / (time.perf_counter() - began), (_cpu_seconds() - before) / len(keys))


def _write(jobs: Sequence[Job]) -> Leg:
    """Publish a shard of each file."""
    count, draw = ExtractOptions().rows_per_shard, np.random.default_rng(0)
    shards = [Rows(keys=[f"{row:08d}.jpg" for row in range(count)], sha256=[b"0" * 64] * count,
                   features=draw.standard_normal((count, job.encoder.dim), np.float32).astype(job.recipe.dtype))
              for job in jobs]
    with tempfile.TemporaryDirectory(prefix="twofold-") as folder:
        def run() -> None:
            for job, shard in zip(jobs, shards, strict=True):
                publish_shard(Store(Path(folder), new=True), job.recipe, job.encoder.dim, shard)

        return _timed("write", run, count)


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
