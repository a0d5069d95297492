"""Stage one as one function: a manifest of faces and some backbones become feature files in a store."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from twofold.cache.assemble import assemble
from twofold.cache.format.featurefile import FeatureFile
from twofold.cache.parts import retired_rows
from twofold.cache.store import Store
from twofold.data.errors import InputError
from twofold.data.images.decode import FACE
from twofold.data.images.sources import NO_FACE, image_hashes, open_faces, parse_roots, require_roots
from twofold.data.manifest import read_manifest, write_manifest
from twofold.extract.engine import compute
from twofold.extract.estimate import estimate
from twofold.extract.lanes import Work
from twofold.extract.networks.registry import Encoder, load_encoder
from twofold.extract.plan import Job, Settings, parse_shard, plan
from twofold.extract.processes import compute_in_processes
from twofold.extract.report import FileLine, Report
from twofold.extract.views import view
from twofold.extract.weights.class_orders import HOW_TO_NAME_CLASSES, class_order


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to extract: faces below roots, with backbones and views, into a store.

    roots: one folder, or NAME=DIR for each dataset of a merged manifest; weights: NAME=PATH, NAME=random:SEED or
    NAME=hub; device: one, or several with commas between, each of which gets a process and a slice of the faces.
    """

    manifest: Path
    roots: Sequence[str]
    store: Path
    backbones: Sequence[str]
    views: Sequence[str]
    weights: Sequence[str]
    device: str
    precision: str
    settings: Settings
    compiled: bool = False
    max_pixels: int = FACE.pixels  #: a larger picture fails; not of the recipe, for no value depends on it
    classes_of: Sequence[str] = ()  #: NAME=ORDER of the classifier that its weights bring, as `class_order` takes it


def extract(request: Request, *, dry: bool = False, encoders: Sequence[Encoder] | None = None) -> Report:
    """Extract every face of the manifest with every backbone and view that the store lacks; `dry` only says what.

    encoders: those of the request, where they are loaded already.

    Raises InputError or CacheError, before anything is written, if the request makes no sense.
    """
    table = read_manifest(request.manifest)
    faces = open_faces(parse_roots(request.roots), limits=FACE.scaled_to(request.max_pixels))
    views = [view(name) for name in dict.fromkeys(request.views)]
    devices = request.device.split(",")
    encoders = encoders or load_encoders(request, device=devices[0])
    store, keys, settings = Store(request.store, new=True), list(table.keys), request.settings
    hashes = image_hashes(faces, keys, workers=settings.workers) if settings.recheck else None
    jobs = plan(store, keys, encoders, views, settings=settings, hashes=hashes)
    if any(job.missing.any() for job in jobs):
        require_roots(faces, keys)
    if dry:
        seconds = estimate(jobs, keys, faces, settings) / len(devices)
        return Report(request.store, len(keys), [_line(store, job, job.finished, settings) for job in jobs], None,
                      seconds)
    store.path.mkdir(parents=True, exist_ok=True)
    write_manifest(table, store.manifest_path)
    if len(devices) > 1 and any(job.missing.any() for job in jobs):
        work = compute_in_processes(_work, _slices(request, devices))
    else:
        work = compute(jobs, keys, faces, store, settings=settings)
    files = [job.finished for job in jobs] if work.stopped_by else finish(store, jobs, keys)
    lines = [_line(store, job, file, settings) for job, file in zip(jobs, files, strict=True)]
    return Report(request.store, len(keys), lines, work)


def _work(request: Request) -> Work:
    return extract(request).work


def _slices(request: Request, devices: Sequence[str]) -> list[Request]:
    """The request once for each device, its shard cut into as many slices."""
    index, count = parse_shard(request.settings.shard)
    threads = request.settings.workers or max(1, (os.cpu_count() or 1) // len(devices))
    return [replace(request, device=device, settings=replace(
        request.settings, shard=f"{index + count * place}/{count * len(devices)}", workers=threads))
        for place, device in enumerate(devices)]


def parse_weights(texts: Sequence[str], backbones: Sequence[str]) -> dict[str, list[str]]:
    """NAME=VALUE texts as a mapping; a name may have several, as of encoders that were fine-tuned one a fold.

    Raises InputError for a name that is not among the backbones.
    """
    return _by_backbone(texts, backbones, what="weights", form="NAME=PATH, NAME=random:SEED or NAME=hub")


def _by_backbone(texts: Sequence[str], backbones: Sequence[str], *, what: str, form: str) -> dict[str, list[str]]:
    """NAME=VALUE texts as a mapping, where a name may have options, and equals signs, behind it."""
    values: dict[str, list[str]] = {}
    for text in texts:
        name = max((name for name in backbones if text.startswith(f"{name}=")), key=len, default="")
        value = text[len(name) + 1:]
        if not name and all(text.partition("=")):
            raise InputError(f"{what} are given for {text.partition('=')[0]!r}, which is not among the backbones "
                             f"{', '.join(backbones)}")
        if not name or not value:
            raise InputError(f"{what} {text!r} is not {form}")
        values.setdefault(name, []).append(value)
    return values


def load_encoders(request: Request, *, device: str) -> list[Encoder]:
    """Each backbone once, in order. Raises InputError if there is none, or for a name, device or weights unknown."""
    if not request.backbones:
        raise InputError("no backbone is named: give --backbones NAME[,NAME...]")
    weights = parse_weights(request.weights, request.backbones)
    classes = {name: class_order(texts[-1]) for name, texts in _by_backbone(
        request.classes_of, request.backbones, what="classes", form="NAME=ORDER, as posterv2=rafdb").items()}
    chosen: list[tuple[str, str | None]] = [
        (name, value) for name in dict.fromkeys(request.backbones)
        for value in (dict.fromkeys(weights[name]) if name in weights else [None])]
    encoders = [load_encoder(name, weights=value, device=device, precision=request.precision,
                             batch_size=request.settings.batch_size, compiled=request.compiled,
                             classes=classes.get(name, ()))
                for name, value in chosen]
    if request.settings.with_logits:
        _require_classifiers(encoders)
    return encoders


def _require_classifiers(encoders: Sequence[Encoder]) -> None:
    for encoder in encoders:
        if encoder.unnamed_classes:
            raise InputError(f"--with-logits: the weights of {encoder.name} do not say in which order their "
                             f"{encoder.unnamed_classes} classes are: {HOW_TO_NAME_CLASSES}")
    if not any(encoder.classifier for encoder in encoders):
        raise InputError("--with-logits: the weights of "
                         f"{', '.join(encoder.name for encoder in encoders)} bring no classifier of expressions")


def finish(store: Store, jobs: Sequence[Job], keys: Sequence[str]) -> list[FeatureFile | None]:
    """Assemble the file of each job that has all its rows by now, whoever computed them; None for the others."""
    return [job.finished or assemble(store, job.recipe, job.encoder.dim, keys, classifier=job.encoder.classifier)
            for job in jobs]


def _line(store: Store, job: Job, file: FeatureFile | None, settings: Settings) -> FileLine:
    """file: the finished one, if the job is done."""
    to_compute = int(job.missing.sum())
    return FileLine(
        backbone=job.encoder.name, view=job.view.name, fingerprint=job.recipe.fingerprint, dim=job.encoder.dim,
        precision=job.encoder.precision, untrained=job.recipe.untrained, cached=int(job.cached.sum()),
        to_compute=to_compute, parts=-(-to_compute // settings.rows_a_part),
        bytes=to_compute * job.encoder.dim * np.dtype(settings.dtype).itemsize,
        left=0 if file else int((~job.cached & ~job.missing).sum()), failed=_faults(file) if file else 0,
        retired=retired_rows(store, job.recipe), file=file.path.name if file else "",
    )


def _faults(file: FeatureFile) -> int:
    """Faces that could not be encoded; a frame in which there is none is not at fault."""
    return sum(reason != NO_FACE for reason in file.failures.values())
