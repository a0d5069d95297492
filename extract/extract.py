"""Stage one as one function: the samples of a manifest and some streams become feature files in a store."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from twofold.cache.feature_file import FeatureFile
from twofold.cache.recipe import PRECISIONS
from twofold.cache.shards import assemble, remove_leftovers
from twofold.cache.store import Store
from twofold.data.manifest import write_manifest
from twofold.data.utils.atomic import atomic_write, file_lock
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.classifier import CLASS_ORDER_HELP
from twofold.extract.encoders.devices import parse_device, resolve_precision
from twofold.extract.engine.loop import compute_on_devices, compute_task
from twofold.extract.engine.progress import RunStats
from twofold.extract.engine.task import ComputeTask, Encoders, recipe_of
from twofold.extract.plan import ExtractOptions, FilePlan, Wanted, Workspace, plan_all, task_of
from twofold.extract.report import Extraction, file_report
from twofold.extract.streams import Stream

AUTO_PRECISION = ".precision"  #: file of a store: what `--precision auto` means in it
DEFAULTS = ExtractOptions()
ESTIMATE_TRIES = 2  #: the first one also pays for what a process does only once


def extract(workspace: Workspace, streams: Sequence[Stream], options: ExtractOptions = DEFAULTS, *,
            device: str = "auto", dry: bool = False, compute: Callable[[ComputeTask], RunStats] | None = None,
            resolve_auto: Callable[[], str] | None = None) -> Extraction:
    """Extract every sample of the manifest for every stream that the store lacks; `dry` only says what is missing.

    device: one, or several with commas between, which share the samples, one process each; compute: computes missing
    rows and leaves them in shards of the store, by default on these devices; resolve_auto: returns the precision `auto`
    of what computes. Raises InputError or CacheError, before anything is written, if the request makes no sense.
    """
    store, devices, precision = workspace.store, device.split(","), ""
    encoders, sources = Encoders(devices[0]), [stream.source for stream in streams]
    if any(source.precision == "auto" for source in sources):
        precision = read_auto_precision(store) or (
            resolve_auto() if resolve_auto else resolve_precision("auto", parse_device(devices[0])))
        sources = [source.with_precision(precision) if source.precision == "auto" else source for source in sources]
    loaded = [encoders.load(source) for source in sources]
    if options.with_logits:
        for encoder in (encoder for encoder in loaded if encoder.unnamed_classes):
            raise InputError(f"--with-logits: the weights of {encoder.name} do not say in which order their "
                             f"{encoder.unnamed_classes} classes are: {CLASS_ORDER_HELP}")
        if not any(encoder.classifier for encoder in loaded):
            names = ", ".join(dict.fromkeys(encoder.name for encoder in loaded))
            raise InputError(f"--with-logits: the weights of {names} bring no classifier of expressions")
    wanted: list[Wanted] = [(source, encoder, recipe_of(encoder, stream.view, dtype=stream.dtype))
                            for stream, source, encoder in zip(streams, sources, loaded, strict=True)]
    plans = plan_all(workspace, wanted, options)
    if dry:
        task = task_of(plans, options, keys=workspace.manifest.keys, images=workspace.images, store=store)
        return Extraction(store.path, len(task.keys), [
            file_report(store, file, file.finished, RunStats(), task) for file in plans], None,
            _estimate(task, encoders) / len(devices))
    if precision and not write_auto_precision(store, precision):  # another process has decided meanwhile
        return extract(workspace, streams, options, device=device, compute=compute, resolve_auto=resolve_auto)
    return add_missing(workspace, plans, options,
                       compute or partial(compute_on_devices, devices=devices, encoders=encoders))


def extract_on_ray(workspace: Workspace, streams: Sequence[Stream], options: ExtractOptions, *, address: str,
                   device: str = "auto", workers: int = 0) -> Extraction:
    """Extract as `extract` does, computed by the workers of a cluster: at most so many, 0 for as many as there is room.

    address: `local` for this machine, `auto` or HOST:PORT of a cluster. Raises InputError for no such cluster.
    """
    from twofold.extract.cluster.ray import connected

    with connected(address, device=device, cpus=options.workers, most=workers) as cluster:
        return extract(workspace, streams, replace(options, workers=cluster.cpus), device="cpu",
                       compute=cluster.compute, resolve_auto=cluster.resolve_auto)


def add_missing(workspace: Workspace, plans: Sequence[FilePlan], options: ExtractOptions,
                compute: Callable[[ComputeTask], RunStats]) -> Extraction:
    """Compute what the plans lack and finish the files that are complete then."""
    store, keys = workspace.store, workspace.manifest.keys
    task = task_of(plans, options, keys=keys, images=workspace.images, store=store)
    store.path.mkdir(parents=True, exist_ok=True)
    write_manifest(workspace.manifest, store.manifest_path)
    stats = compute(task) if task.files else RunStats()
    files = [file.finished for file in plans] if stats.stopped_by else finish(store, plans, keys)
    return Extraction(store.path, len(keys), [
        file_report(store, wanted, file, stats, task) for wanted, file in zip(plans, files, strict=True)], stats)


def finish(store: Store, plans: Sequence[FilePlan], keys: Sequence[str]) -> list[FeatureFile | None]:
    """Merge the shards of each plan that has all its rows now, whoever computed them; None for the others."""
    for file in plans:
        if file.finished:
            remove_leftovers(store, file.recipe)
    return [file.finished or assemble(store, file.recipe, file.dim, keys, classifier=file.classifier)
            for file in plans]


def read_auto_precision(store: Store) -> str:
    """Return the precision that `auto` means in this store, "" if no run has decided that yet."""
    with suppress(OSError, ValueError):
        text = (store.path / AUTO_PRECISION).read_text(encoding="ascii").strip()
        return text if text in PRECISIONS else ""
    return ""


def write_auto_precision(store: Store, precision: str) -> bool:
    """Write down what `auto` means in this store, so that runs on other machines fill the same files.

    Returns whether it is `precision`: the first process decides. A store that cannot be written is left as it is.
    """
    with suppress(OSError):
        if not read_auto_precision(store):
            store.path.mkdir(parents=True, exist_ok=True)
            with file_lock(store.lock_path):
                if not read_auto_precision(store):
                    with atomic_write(store.path / AUTO_PRECISION) as temporary:
                        temporary.write_text(f"{precision}\n", encoding="ascii")
    return read_auto_precision(store) in ("", precision)


def _estimate(task: ComputeTask, encoders: Encoders) -> float:
    """Return the seconds that all rows will take on this machine, measured on one batch into a temporary store.

    0 if there are no rows, or none of those tried can be encoded.
    """
    rows = sum(len(file.rows) for file in task.files)
    count = max((encoders.load(file.source).batch_size for file in task.files), default=0)
    first = [replace(file, rows=file.rows[:count]) for file in task.files]
    seconds = 0.0
    with tempfile.TemporaryDirectory(prefix="twofold-") as folder:
        for _ in range(ESTIMATE_TRIES):
            stats = compute_task(replace(task, files=first, store=Path(folder)), encoders, progress=False)
            computed = sum(stats.rows.values())
            seconds = stats.seconds["wall"] * rows / computed if computed else 0.0
    return seconds
