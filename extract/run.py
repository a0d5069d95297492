"""Stage one as one function: a manifest of faces and some streams become feature files in a store."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from twofold.cache.feature_file import FeatureFile
from twofold.cache.shards import assemble
from twofold.cache.store import Store
from twofold.data.images.decode import FACE_LIMITS
from twofold.data.images.sources import ImageRoots, check_roots, open_images, parse_roots
from twofold.data.manifest import Manifest, read_manifest, write_manifest
from twofold.data.utils.errors import InputError
from twofold.extract.assignment import Assignment, MissingRows
from twofold.extract.dataset import compared_with_store
from twofold.extract.encoders.classifier import CLASS_ORDER_HELP
from twofold.extract.engine.tally import Tally
from twofold.extract.plan import ExtractOptions, FilePlan, WantedFile, plan, recipe_of
from twofold.extract.report import Extraction, file_report
from twofold.extract.streams import Encoders, EncoderSource, Stream
from twofold.extract.views import view

if TYPE_CHECKING:
    from twofold.extract.encoders.encoder import Encoder

Engine = Callable[[Assignment], Tally]  #: who computes rows and leaves them in parts of the store


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to extract: the faces of a manifest below roots, as some streams, into a store.

    roots: one folder, or NAME=DIR for each dataset of a merged manifest; device: one, or several with commas between,
    each of which gets a process and a share of the faces; max_pixels: a larger picture fails, no value depends on it.
    """

    manifest: Path
    roots: Sequence[str]
    store: Path
    streams: Sequence[Stream]
    device: str = "auto"
    options: ExtractOptions = field(default_factory=ExtractOptions)
    max_pixels: int = FACE_LIMITS.pixels


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where faces come from and features go to."""

    manifest: Manifest
    keys: list[str]
    faces: ImageRoots
    store: Store


def extract(request: Request, *, dry: bool = False, engine: Engine | None = None) -> Extraction:
    """Extract every face of the manifest for every stream that the store lacks; `dry` only says what.

    engine: what computes, if not the devices of this machine that the request names. Raises InputError or CacheError,
    before anything is written, if the request makes no sense.
    """
    place, devices, options = open_place(request), request.device.split(","), request.options
    encoders = Encoders(devices[0])
    loaded = [encoders.load(stream.source) for stream in request.streams]
    if options.with_logits:
        _require_classifiers(loaded)
    wanted = [WantedFile(recipe_of(encoder, view(stream.view), dtype=stream.dtype), encoder.dim, encoder.classifier)
              for stream, encoder in zip(request.streams, loaded, strict=True)]
    plans = plan_all(place, wanted, options)
    sources = [stream.source for stream in request.streams]
    if dry:
        from twofold.extract.estimate import estimate

        assignment = assignment_of(place, plans, sources, options)
        seconds = estimate(assignment, encoders) / len(devices)
        return Extraction(place.store.path, len(place.keys), [
            file_report(place.store, file, file.finished, Tally(), options) for file in plans], None, seconds)
    return add_missing(place, plans, sources, engine or devices_engine(devices, encoders), options)


def open_place(request: Request) -> Place:
    """Read the manifest and look at the roots; nothing is written yet."""
    manifest = read_manifest(request.manifest)
    faces = open_images(parse_roots(request.roots), limits=FACE_LIMITS.scaled_to(request.max_pixels))
    return Place(manifest=manifest, keys=list(manifest.keys), faces=faces, store=own_store(request.store))


def own_store(path: Path) -> Store:
    """A store that may be new. Raises CacheError for a folder of other things."""
    store = Store(path, new=True)
    store.require_own_folder()
    return store


def plan_all(place: Place, wanted: Sequence[WantedFile], options: ExtractOptions) -> list[FilePlan]:
    """What each wanted file lacks.

    Raises InputError if there is something to compute, and roots cannot be meant; CacheError if the store is another
    dataset's.
    """
    hashes = compared_with_store(place.store, place.keys, place.faces, wanted, options)
    plans = plan(place.store, place.keys, wanted, options=options, hashes=hashes)
    if any(file.missing.any() for file in plans):
        check_roots(place.faces, place.keys)
    return plans


def _keep_manifest(place: Place) -> None:
    """Put the manifest into the store, unless it is there: a store that is complete may well be read-only."""
    path, text = place.store.manifest_path, place.manifest.table.to_csv(index=False, lineterminator="\n")
    if not path.is_file() or path.read_bytes() != text.encode():
        place.store.path.mkdir(parents=True, exist_ok=True)
        write_manifest(place.manifest, path)


def devices_engine(devices: Sequence[str], encoders: Encoders) -> Engine:
    """This process, and one more for each device but the first, whose encoders these are."""
    def compute(assignment: Assignment) -> Tally:
        from twofold.extract.engine.processes import compute_on_devices, shared_out

        shares = shared_out(assignment, devices) if len(devices) > 1 else [replace(assignment, device=devices[0])]
        return compute_on_devices(shares, encoders)

    return compute


def add_missing(place: Place, plans: Sequence[FilePlan], sources: Sequence[EncoderSource], engine: Engine,
                options: ExtractOptions) -> Extraction:
    """Compute what the plans miss and finish the files that are whole by then. sources: of each plan's encoder."""
    _keep_manifest(place)
    assignment = assignment_of(place, plans, sources, options)
    tally = engine(assignment) if assignment.files else Tally()
    files = [file.finished for file in plans] if tally.stopped_by else finish(place.store, plans, place.keys)
    reports = [file_report(place.store, wanted, file, tally, options)
               for wanted, file in zip(plans, files, strict=True)]
    return Extraction(place.store.path, len(place.keys), reports, tally)


def assignment_of(place: Place, plans: Sequence[FilePlan], sources: Sequence[EncoderSource],
                  options: ExtractOptions) -> Assignment:
    """All rows that are to be computed; the precision is that of the recipes on any device."""
    files = [MissingRows(source=source.exactly(file.recipe.precision), recipe=file.recipe,
                         rows=np.flatnonzero(file.missing))
             for file, source in zip(plans, sources, strict=True) if file.missing.any()]
    return Assignment(files=files, keys=place.keys, faces=place.faces, store=place.store.path, device="",
                      options=options)


def finish(store: Store, plans: Sequence[FilePlan], keys: Sequence[str]) -> list[FeatureFile | None]:
    """Assemble the file of each plan that has all its rows by now, whoever computed them; None for the others."""
    return [file.finished or assemble(store, file.recipe, file.wanted.dim, keys, classifier=file.wanted.classifier)
            for file in plans]


def _require_classifiers(loaded: "Sequence[Encoder]") -> None:
    for encoder in loaded:
        if encoder.unnamed_classes:
            raise InputError(f"--with-logits: the weights of {encoder.name} do not say in which order their "
                             f"{encoder.unnamed_classes} classes are: {CLASS_ORDER_HELP}")
    if not any(encoder.classifier for encoder in loaded):
        names = ", ".join(dict.fromkeys(encoder.name for encoder in loaded))
        raise InputError(f"--with-logits: the weights of {names} bring no classifier of expressions")
