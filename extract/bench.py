"""The verb `bench extract`: each stage of extraction alone, extraction as a whole, and which of them is the limit."""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from twofold.cache.shards import Rows, publish_shard
from twofold.cache.store import Store
from twofold.data.images.decode import ImageError
from twofold.data.images.sources import open_images, parse_roots
from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import read_manifest, write_manifest
from twofold.data.synthetic.dataset import draw_dataset
from twofold.data.utils.errors import InputError
from twofold.data.utils.machine import openmp_settings, usable_cores
from twofold.data.utils.terminal import Summary
from twofold.extract.engine.batches import BatchPool, LoadedSample, decode_into
from twofold.extract.engine.loop import compute_task
from twofold.extract.engine.task import ComputeTask, Encoders, FileRows
from twofold.extract.streams import Stream


def bench_extract(streams: Sequence[Stream], *, manifest: Path | None, roots: Sequence[str], device: str, workers: int,
                  samples: int, follow_links: bool = False) -> Summary:
    """Measure extraction of the first `samples` samples of a manifest, or of drawn faces. Raises as `extract`.

    In the record, a leg is a stage alone: rate, samples a second for all encoders together; cpu_seconds, of a sample,
    over all threads. whole: samples a second, all stages at once; ceiling: what `whole` cannot exceed, on a GPU the
    rate of the slowest stage, on a CPU what the summed CPU time of all stages allows.
    """
    if manifest and not roots:
        raise InputError(f"{manifest} is a manifest: say with --root which folder its keys are relative to")
    with tempfile.TemporaryDirectory(prefix="twofold-") as folder:
        if manifest is None:
            manifest, classes, roots = Path(folder, "faces.csv"), builtin_taxonomy("cexpr7"), [f"{folder}/faces"]
            write_manifest(draw_dataset(Path(folder, "faces"), taxonomy=classes, size=112, seed=0,
                                        per_class=-(-samples // len(classes.classes))), manifest)
        keys, images = read_manifest(manifest).keys[:samples], open_images(
            parse_roots(roots), follow_links=follow_links)
        if not keys:
            raise InputError(f"{manifest}: no samples in it, and bench extract needs at least one")
        try:
            images.read(keys[0])
        except ImageError as error:  # nothing would be decoded, and fast
            raise InputError(f"{manifest}: its first image cannot be read: {keys[0]}: {error}") from None
        encoders, workers = Encoders(device), workers or usable_cores()
        files = [FileRows(source=stream.source, rows=np.arange(len(keys)), recipe=stream.recipe(
            encoders.load(stream.source))) for stream in streams]
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

        kinds = {(file.recipe.view["name"], encoder.preprocessing, file.recipe.decoder)
                 for file, encoder in zip(files, loaded, strict=True)}
        pools = [BatchPool(view, how, np.ones(1, bool), batch_size=1, count=1, pinned=False, decoder=decoder)
                 for view, how, decoder in kinds]
        slots = [(pool.free[0], 0) for pool in pools]  # all samples go into the same ones

        def decode() -> None:
            with ThreadPoolExecutor(workers, "decode") as threads:
                for _ in threads.map(lambda key: decode_into(images, [(LoadedSample(0, key), slots)]), keys):
                    pass

        legs = [_timed("decode", decode, len(keys), seconds=0.0), _timed("forward", forward, size),
                _timed("write", write, task.rows_per_shard)]
        stats = compute_task(task, encoders, progress=False)
    kind, cores, slowest = loaded[0].device.type, len(os.sched_getaffinity(0)), min(legs, key=lambda leg: leg["rate"])
    whole, total = stats.samples / stats.seconds["wall"], sum(leg["cpu_seconds"] for leg in legs)
    ceiling, what = (slowest["rate"], "slowest stage") if kind == "cuda" else (cores / total, "cores")
    costly = max(legs, key=lambda leg: leg["cpu_seconds"])
    limit = (f"{slowest['name']} is the limit: {slowest['rate']:.0f} samples/s alone" if kind == "cuda" else
             f"the {cores} cores are the limit: {costly['cpu_seconds'] / total:.0%} of their time is {costly['name']}")
    names = [encoder.name for encoder in loaded]
    return Summary([
        f"{', '.join(names)} on {kind}: {len(keys)} samples, {workers} decoding threads, {openmp_settings()}",
        *(f"  {leg['name']:9} {leg['rate']:10.1f} samples/s alone, {leg['rate'] / slowest['rate']:7.1f} x the slowest, "
          f"{1e3 * leg['cpu_seconds']:8.3f} ms of CPU a sample" for leg in legs),
        f"  {'whole':9} {whole:10.1f} samples/s, {whole / ceiling:.2f} of the {ceiling:.1f} that the {what} would "
        "allow", f"{limit}."], {
        "backbones": names, "samples": len(keys), "device": kind, "workers": workers, "cores": cores, "legs": legs,
        "whole": whole, "ceiling": ceiling, "waiting": openmp_settings(), "limit": limit})


def _timed(name: str, run: Callable[[], None], samples: int, *, seconds: float = 1.0) -> dict[str, Any]:
    """Run a stage for at least so long, after one run that is not counted."""
    if seconds:
        run()
    began, before, rounds = time.perf_counter(), time.process_time(), 0
    while not rounds or time.perf_counter() - began < seconds:
        run()
        rounds += 1
    samples *= rounds
    return {"name": name, "rate": samples / (time.perf_counter() - began),
            "cpu_seconds": (time.process_time() - before) / samples}
