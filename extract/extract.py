"""Stage one as one function: the samples of a manifest and some streams become feature files in a store."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from twofold.cache.feature_file import FeatureFile
from twofold.cache.shards import assemble, remove_leftovers
from twofold.cache.store import Store
from twofold.data.images.decode import FACE_LIMITS
from twofold.data.images.sources import ImageRoots, check_roots, open_images, parse_roots
from twofold.data.manifest import Manifest, read_manifest, write_manifest
from twofold.data.utils.atomic import atomic_write, file_lock
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.classifier import CLASS_ORDER_HELP
from twofold.extract.encoders.devices import PRECISIONS, parse_device, resolve_precision
from twofold.extract.encoders.encoder import Encoder
from twofold.extract.engine.devices import ComputeTask, MissingRows, compute_on_devices, compute_task
from twofold.extract.engine.stats import RunStats
from twofold.extract.plan import ExtractOptions, FilePlan, WantedFile, compare_with_store, plan, recipe_of
from twofold.extract.report import Extraction, file_report
from twofold.extract.streams import Encoders, EncoderSource, Stream
from twofold.extract.views import view

Compute = Callable[[ComputeTask], RunStats]  #: computes rows and leaves them in shards of the store
AUTO_PRECISION = ".precision"  #: file of a store: what `--precision auto` means in it
ESTIMATE_TRIES = 2  #: the first one also pays for what a process does only once


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to extract: the samples of a manifest below roots, as some streams, into a store.

    roots: one folder, or NAME=DIR for each dataset of a merged manifest; device: one, or several with commas between,
    which share the samples, one process each; max_pixels: a larger image fails, no value depends on it; follow_links:
    read images that are links out of their root.
    """

    manifest: Path | Manifest
    roots: Sequence[str]
    store: Path
    streams: Sequence[Stream]
    device: str = "auto"
    options: ExtractOptions = field(default_factory=ExtractOptions)
    max_pixels: int = FACE_LIMITS.pixels
    follow_links: bool = False


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Where images come from and features go to."""

    manifest: Manifest
    keys: list[str]
    images: ImageRoots
    store: Store


def extract(request: Request, *, dry: bool = False, compute: Compute | None = None,
            resolve_auto: Callable[[], str] | None = None) -> Extraction:
    """Extract every sample of the manifest for every stream that the store lacks; `dry` only says what is missing.

    compute: computes missing rows, by default on the devices of this machine that the request names; resolve_auto:
    returns the precision `auto` of what computes. Raises InputError or CacheError, before anything is written, if the
    request makes no sense.
    """
    workspace, devices, options = open_workspace(request), request.device.split(","), request.options
    encoders, sources, precision = Encoders(devices[0]), [stream.source for stream in request.streams], ""
    if any(source.precision == "auto" for source in sources):
        precision = read_auto_precision(workspace.store) or (
            resolve_auto() if resolve_auto else resolve_precision("auto", parse_device(devices[0])))
        sources = [source.with_precision(precision) if source.precision == "auto" else source for source in sources]
    loaded = [encoders.load(source) for source in sources]
    if options.with_logits:
        _require_classifiers(loaded)
    wanted = [WantedFile(recipe_of(encoder, view(stream.view), dtype=stream.dtype), encoder.dim, encoder.classifier)
              for stream, encoder in zip(request.streams, loaded, strict=True)]
    plans = plan_all(workspace, wanted, options)
    if dry:
        seconds = _estimate(task_of(workspace, plans, sources, options), encoders) / len(devices)
        return Extraction(workspace.store.path, len(workspace.keys), [
            file_report(workspace.store, file, file.finished, RunStats(), options) for file in plans], None, seconds)
    if precision and not write_auto_precision(workspace.store, precision):  # another process has decided meanwhile
        return extract(request, compute=compute, resolve_auto=resolve_auto)
    compute = compute or partial(compute_on_devices, devices=devices, encoders=encoders)
    return add_missing(workspace, plans, sources, compute, options)


def open_workspace(request: Request) -> Workspace:
    """Read the manifest and check the roots; write nothing yet."""
    manifest = request.manifest if isinstance(request.manifest, Manifest) else read_manifest(request.manifest)
    images = open_images(parse_roots(request.roots), limits=FACE_LIMITS.scaled_to(request.max_pixels),
                         follow_links=request.follow_links)
    return Workspace(manifest=manifest, keys=list(manifest.keys), images=images, store=own_store(request.store))


def own_store(path: Path) -> Store:
    """Open a store that may be new. Raises CacheError for a folder of other things."""
    store = Store(path, new=True)
    store.require_own_folder()
    return store


def plan_all(workspace: Workspace, wanted: Sequence[WantedFile], options: ExtractOptions) -> list[FilePlan]:
    """Return what each wanted file lacks.

    Raises InputError if something is missing and no image is below the roots; CacheError if the store is that of
    another dataset.
    """
    hashes = compare_with_store(workspace.store, workspace.keys, workspace.images, wanted, options)
    plans = plan(workspace.store, workspace.keys, wanted, options=options, hashes=hashes)
    if any(file.missing.any() for file in plans):
        check_roots(workspace.images, workspace.keys)
    return plans


def add_missing(workspace: Workspace, plans: Sequence[FilePlan], sources: Sequence[EncoderSource], compute: Compute,
                options: ExtractOptions) -> Extraction:
    """Compute what the plans lack and finish the files that are complete then. sources: of each plan's encoder."""
    store = workspace.store
    store.path.mkdir(parents=True, exist_ok=True)
    write_manifest(workspace.manifest, store.manifest_path)
    task = task_of(workspace, plans, sources, options)
    stats = compute(task) if task.files else RunStats()
    files = [file.finished for file in plans] if stats.stopped_by else finish(store, plans, workspace.keys)
    reports = [file_report(store, wanted, file, stats, options) for wanted, file in zip(plans, files, strict=True)]
    return Extraction(store.path, len(workspace.keys), reports, stats)


def task_of(workspace: Workspace, plans: Sequence[FilePlan], sources: Sequence[EncoderSource],
            options: ExtractOptions) -> ComputeTask:
    """Return all rows to compute, in the precision of the recipes on any device."""
    files = [MissingRows(source=source.with_precision(file.recipe.precision), recipe=file.recipe,
                         rows=np.flatnonzero(file.missing))
             for file, source in zip(plans, sources, strict=True) if file.missing.any()]
    return ComputeTask(files=files, keys=workspace.keys, images=workspace.images, store=workspace.store.path,
                       options=options)


def read_auto_precision(store: Store) -> str:
    """Return the precision that `auto` means in this store, "" if no run has decided that yet."""
    try:
        text = (store.path / AUTO_PRECISION).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
    return text if text in PRECISIONS else ""


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


def finish(store: Store, plans: Sequence[FilePlan], keys: Sequence[str]) -> list[FeatureFile | None]:
    """Merge the shards of each plan that has all its rows now, whoever computed them; None for the others."""
    for file in plans:
        if file.finished:
            remove_leftovers(store, file.recipe)
    return [file.finished or assemble(store, file.recipe, file.dim, keys, classifier=file.classifier)
            for file in plans]


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
            seconds = stats.seconds.wall * rows / computed if computed else 0.0
    return seconds


def _require_classifiers(encoders: Sequence[Encoder]) -> None:
    for encoder in (encoder for encoder in encoders if encoder.unnamed_classes):
        raise InputError(f"--with-logits: the weights of {encoder.name} do not say in which order their "
                         f"{encoder.unnamed_classes} classes are: {CLASS_ORDER_HELP}")
    if not any(encoder.classifier for encoder in encoders):
        names = ", ".join(dict.fromkeys(encoder.name for encoder in encoders))
        raise InputError(f"--with-logits: the weights of {names} bring no classifier of expressions")
