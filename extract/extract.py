"""Stage one as one function: the samples of a manifest and some streams become feature files in a store."""

import logging
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from twofold.cache.feature_file import FeatureFile
from twofold.cache.recipe import PRECISIONS, Recipe
from twofold.cache.shards import assemble, retired_rows
from twofold.cache.store import Store
from twofold.data.images.decode import remark_lines
from twofold.data.manifest import write_manifest
from twofold.data.utils.atomic import atomic_write, file_lock
from twofold.data.utils.errors import InputError
from twofold.data.utils.keys import NO_FACE
from twofold.data.utils.terminal import Summary
from twofold.extract.cluster.ray import RayWorkers
from twofold.extract.encoders.classifier import CLASS_ORDER_HELP
from twofold.extract.encoders.devices import parse_device, resolve_precision
from twofold.extract.engine.loop import compute_on_devices, compute_task
from twofold.extract.engine.progress import RunStats
from twofold.extract.engine.task import ComputeTask, Encoders
from twofold.extract.plan import ExtractOptions, FilePlan, Wanted, Workspace, plan_all, task_of
from twofold.extract.streams import Stream

log = logging.getLogger(__name__)
AUTO_PRECISION = ".precision"  #: file of a store: what `--precision auto` means in it
DEFAULTS = ExtractOptions()
LISTED = 20  #: failed samples that are named in a report's text; all are in its record
ESTIMATE_TRIES = 2  #: the first one also pays for what a process does only once


def extract(workspace: Workspace, streams: Sequence[Stream], options: ExtractOptions = DEFAULTS, *,
            device: str = "auto", dry: bool = False, cluster: RayWorkers | None = None) -> Summary:
    """Extract every sample of the manifest for every stream that the store lacks; `dry` only says what is missing.

    device: one, or several with commas between, which share the samples, one process each; cluster: computes instead.
    Raises InputError or CacheError, before anything is written, if the request makes no sense.
    """
    store, devices, precision = workspace.store, ["cpu"] if cluster else device.split(","), ""
    encoders, sources = Encoders(devices[0]), [stream.source for stream in streams]
    if any(source.precision == "auto" for source in sources):
        precision = read_auto_precision(store) or (
            cluster.resolve_auto() if cluster else resolve_precision("auto", parse_device(devices[0])))
        sources = [source.with_precision(precision) if source.precision == "auto" else source for source in sources]
    loaded = [encoders.load(source) for source in sources]
    if options.with_logits:
        for encoder in (encoder for encoder in loaded if encoder.unnamed_classes):
            raise InputError(f"--with-logits: the weights of {encoder.name} do not say in which order their "
                             f"{encoder.unnamed_classes} classes are: {CLASS_ORDER_HELP}")
        if not any(encoder.classifier for encoder in loaded):
            names = ", ".join(dict.fromkeys(encoder.name for encoder in loaded))
            raise InputError(f"--with-logits: the weights of {names} bring no classifier of expressions")
    wanted: dict[str, Wanted] = {}
    for stream, source, encoder in zip(streams, sources, loaded, strict=True):
        recipe = stream.recipe(encoder)
        _, same, _ = wanted.setdefault(recipe.fingerprint, (source, encoder, recipe))
        if same and encoder.classifier and not encoder.classifier.equals(same.classifier):
            raise InputError(f"{encoder.name}: {source.weights} has the weights of another file named, but another "
                             "classifier or other training samples: a store cannot hold both; name one of them")
    plans = plan_all(workspace, list(wanted.values()), options)
    if dry:
        task = task_of(plans, options, keys=workspace.manifest.keys, images=workspace.images, store=store)
        return report(store, task, plans, [file.finished for file in plans], None,
                      expected_seconds=_estimate(task, encoders) / len(devices))
    if precision and decide_auto_precision(store, precision) != precision:  # another process was quicker
        return extract(workspace, streams, options, device=device, cluster=cluster)
    return add_missing(workspace, plans, options, cluster.compute if cluster else
                       partial(compute_on_devices, devices=devices, encoders=encoders))


def add_missing(workspace: Workspace, plans: Sequence[FilePlan], options: ExtractOptions,
                compute: Callable[[ComputeTask], RunStats]) -> Summary:
    """Compute what the plans lack and finish the files that are complete then."""
    store, keys = workspace.store, workspace.manifest.keys
    task = task_of(plans, options, keys=keys, images=workspace.images, store=store)
    store.path.mkdir(parents=True, exist_ok=True)
    write_manifest(workspace.manifest, store.manifest_path)
    _check_space(task, plans)
    stats = compute(task) if task.files else RunStats()
    files = [file.finished for file in plans] if stats.stopped_by else finish(store, plans, keys)
    return report(store, task, plans, files, stats)


def finish(store: Store, plans: Sequence[FilePlan], keys: Sequence[str]) -> list[FeatureFile | None]:
    """Merge the shards of each plan that has all its rows now, whoever computed them; None for the others."""
    return [assemble(store, file.recipe, file.dim, keys, classifier=file.classifier) for file in plans]


def _check_space(task: ComputeTask, plans: Sequence[FilePlan]) -> None:
    """Say how much disk the run needs, where rows are long, and whether there is less: each file stands there twice
    while its shards become one."""
    needed = sum(2 * int(plan.missing.sum()) * plan.dim * np.dtype(plan.recipe.dtype).itemsize for plan in plans)
    free = shutil.disk_usage(task.store).free
    for plan in (plan for plan in plans if plan.recipe.pieces and plan.missing.any()):
        log.info("%s: rows of %s numbers", plan.recipe.backbone, _times(plan.recipe, plan.dim))
    if needed > free or any(plan.recipe.pieces for plan in plans):
        log.log(logging.WARNING if needed > free else logging.INFO, "the run needs up to %.2f GB of disk, half of it "
                "in the end; %.1f GB are free", needed / 1e9, free / 1e9)


def _times(recipe: Recipe, dim: int) -> str:
    """The shape of a row in words: 768, or 25 x 768."""
    return " x ".join(map(str, recipe.shape(1, dim)[1:]))


def read_auto_precision(store: Store) -> str:
    """Return the precision that `auto` means in this store, "" if no run has decided that yet."""
    with suppress(OSError, ValueError):
        text = (store.path / AUTO_PRECISION).read_text(encoding="ascii").strip()
        return text if text in PRECISIONS else ""
    return ""


def decide_auto_precision(store: Store, precision: str) -> str:
    """Return what `auto` means in this store, so that runs on other machines fill the same files.

    The first process decides, and writes it down. A store that cannot be written is left as it is.
    """
    with suppress(OSError):
        store.path.mkdir(parents=True, exist_ok=True)
        with file_lock(store.lock_path):
            if not read_auto_precision(store):
                with atomic_write(store.path / AUTO_PRECISION) as temporary:
                    temporary.write_text(f"{precision}\n", encoding="ascii")
    return read_auto_precision(store) or precision


def _estimate(task: ComputeTask, encoders: Encoders) -> float:
    """Return the seconds that all rows will take on this machine, measured on one batch into a temporary store.

    0 if there are no rows, or none of those tried can be encoded.
    """
    rows, stats = sum(len(file.rows) for file in task.files), RunStats()
    count = max((encoders.load(file.source).batch_size for file in task.files), default=0)
    first = [replace(file, rows=file.rows[:count]) for file in task.files]
    with tempfile.TemporaryDirectory(prefix="twofold-") as folder:
        for _ in range(ESTIMATE_TRIES):
            stats = compute_task(replace(task, files=first, store=Path(folder)), encoders, progress=False)
    return stats.seconds["wall"] * rows / stats.rows.total() if stats.rows.total() else 0.0


# ----------------------------------------------------------------------------------------------------------- the report
def file_record(store: Store, plan: FilePlan, file: FeatureFile | None, stats: RunStats, task: ComputeTask
                ) -> dict[str, Any]:
    """Return what a report says of one file: cached + computed + failed + no_face + left are all samples.

    file: the finished one, or None. left: samples that no process has computed yet; to_compute, shards and bytes: what
    the task adds; retired: rows kept of samples no longer in the manifest; failures: key to reason.
    """
    recipe, samples, to_compute = plan.recipe, len(plan.missing), int(plan.missing.sum())
    dim = plan.dim or (file.dim if file else 0)
    computed = stats.rows[recipe.fingerprint]
    failures = file.failures if file else plan.failures | stats.failures.get(recipe.fingerprint, {})
    cached = file.rows - computed if file else int(plan.cached.sum())
    no_face = sum(reason == NO_FACE for reason in failures.values())
    return {
        "backbone": recipe.backbone, "view": recipe.view["name"], "fingerprint": recipe.fingerprint, "dim": dim,
        "shape": _times(recipe, dim),
        "precision": recipe.precision, "untrained": recipe.untrained, "cached": cached, "computed": computed,
        "failed": len(failures) - no_face, "no_face": no_face, "left": samples - cached - computed - len(failures),
        "to_compute": to_compute, "shards": -(-to_compute // task.rows_per_shard),
        "bytes": to_compute * dim * np.dtype(recipe.dtype).itemsize, "retired": retired_rows(store, recipe),
        "file": file.path.name if file else "", "failures": failures}


def report(store: Store, task: ComputeTask, plans: Sequence[FilePlan], files: Sequence[FeatureFile | None],
           stats: RunStats | None, *, expected_seconds: float = 0.0) -> Summary:
    """Return the report of an extraction: a line for each file, then samples, failures, speed, where the time went.

    files: the finished ones; stats: None for a dry run. Exit code: 0, 1 where samples failed (in this run or earlier),
    or 128 plus the signal that ended the run early.
    """
    done, samples = stats or RunStats(), len(task.keys)
    records = [file_record(store, wanted, file, done, task) for wanted, file in zip(plans, files, strict=True)]
    failed = {key: reason for file in records for key, reason in file["failures"].items() if reason != NO_FACE}
    counts = Counter(failed.values())
    data = {"store": str(store.path), "samples": samples, "files": records, "computed_samples": done.samples,
            "computed_rows": done.rows.total(), "failures": dict(counts), "failed_samples": failed,
            "remarks": dict(done.remarks), "seconds": done.seconds if stats else {},
            "expected_seconds": expected_seconds, "stopped_by": done.stopped_by}
    lines = [_line(file, dry=stats is None) for file in records]
    if stats is None:
        rows, shards, size = (sum(file[name] for file in records) for name in ("to_compute", "shards", "bytes"))
        hours = f", about {timedelta(seconds=round(expected_seconds))} on this machine" if expected_seconds else ""
        return Summary([*lines, f"dry run: {rows} rows to compute, {size / 1e6:.1f} MB in {shards} shards (twice that "
                                f"for a moment){hours}; nothing was written"], data)
    failures = [f"  {line}" for line in remark_lines(stats.remarks)]
    failures += [f"  {count:6} failed: {reason}" for reason, count in counts.most_common()]
    failures += [f"  {key}: {reason}" for key, reason in list(failed.items())[:LISTED]]
    if len(failed) > LISTED:
        failures.append(f"  and {len(failed) - LISTED} more: `cache show {store.path} --failures`")
    if stats.stopped_by:
        lines += [*failures, f"stopped by {signal.Signals(stats.stopped_by).name}: what is computed is safe, the same "
                             "command goes on"]
        return Summary(lines, data, 128 + stats.stopped_by)
    if stats.samples:
        wall, decode, forward, write = (stats.seconds[name] for name in ("wall", "decode", "forward", "write"))
        lines += [f"{samples} samples, {stats.samples} computed, {len(stats.failed_samples)} failures, "
                  f"{stats.samples / max(wall, 1e-9):.1f} samples/s over {wall:.1f} s", *failures,
                  f"seconds: decode {decode:.1f} (in threads), forward {forward:.1f}, write {write:.1f}"]
    else:
        lines += [*failures, f"{samples} samples, nothing to compute: all of it is cached in {store.path}"]
    return Summary(lines, data, 1 if failed else 0)


def _line(file: dict[str, Any], *, dry: bool) -> str:
    parts = [(file["cached"], "cached"), (file["to_compute"], "to compute") if dry else (file["computed"], "computed")]
    parts += [(file[name], text) for name, text in (
        ("failed", "failed"), ("no_face", "without a face"), ("left", "left for other shards or a later run"),
        ("retired", "kept of samples no longer in the manifest")) if file[name] and not (dry and name == "left")]
    untrained = ", UNTRAINED" if file["untrained"] else ""
    return (f"{file['backbone']} ({file['view']}, {file['shape']}-d, {file['precision']}{untrained}): "
            + ", ".join(f"{count} {text}" for count, text in parts) + (f" -> {file['file']}" if file["file"] else ""))
