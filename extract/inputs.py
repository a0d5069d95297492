"""Extract what `predict` is given (photographs and videos, a manifest, or a store) with the recipes of a run."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from twofold.cache.recipe import Recipe
from twofold.cache.shards import publish_shard
from twofold.cache.store import Store
from twofold.data.faces.annotate import Drawing
from twofold.data.faces.in_memory import FacesInMemory, open_face_stream
from twofold.data.faces.settings import Sampling
from twofold.data.faces.sources import Source, find_sources
from twofold.data.images.sources import ImageSource, hash_images
from twofold.data.manifest import Manifest, read_manifest, write_manifest
from twofold.data.utils.errors import InputError
from twofold.extract.engine.devices import compute_on_devices
from twofold.extract.engine.loop import run_jobs
from twofold.extract.engine.progress import Stop
from twofold.extract.extract import Request, add_missing, finish, open_workspace, own_store, plan_all
from twofold.extract.match import check_widths, find_encoder, load_matching
from twofold.extract.plan import ExtractOptions, Job, WantedFile, plan
from twofold.extract.report import Extraction
from twofold.extract.streams import Encoders, EncoderSource, parse_weights
from twofold.extract.views import view

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FootageOptions:
    """How to find faces in photographs and videos. detector: its weights file, None to search for it."""

    cropped: bool = False
    detect: bool = False
    detector: Path | None = None
    fps: float = 0.0
    every: int = 1
    follow_links: bool = False

    def __post_init__(self) -> None:
        Sampling(fps=self.fps, every=self.every)  # raises InputError for what makes no sense
        if self.cropped and self.detect:
            raise InputError("--cropped and --detect contradict each other: give one of them, or leave it to the "
                             "pictures")


@dataclass(frozen=True, kw_only=True)
class RunEncoders:
    """The recipes that a run was trained on, and where their encoders come from.

    weights: NAME=PATH for what is not in the weights folder; dims: features of each recipe, where known.
    """

    recipes: Sequence[Recipe]
    weights: Sequence[str] = ()
    device: str = "auto"
    dims: Sequence[int] = ()



@dataclass(frozen=True)
class ExtractedInputs:
    """The store with the features. sources: photographs and videos; faults: what could not be read of them, a sentence
    each; stopped_by: the signal that ended the extraction early, or 0."""

    store: Path
    sources: Sequence[Source] = ()
    faults: Sequence[str] = ()
    stopped_by: int = 0


def extract_inputs(
    inputs: Sequence[Path], encoders: RunEncoders, *, crops: Sequence[str], footage: FootageOptions, drawing: Drawing,
    out: Path, root: Sequence[str], store: Path | None, temporary: Path, submission: bool,
) -> ExtractedInputs:
    """Extract all inputs with the recipes of a run, into `store` if there is one, else into `temporary`.

    crops: lines of the settings that the run's faces were cropped with; drawing, out, submission: what will be written,
    checked before anything is computed. Raises InputError for inputs and options that do not go together.
    """
    first, target = inputs[0] if len(inputs) == 1 else None, store or temporary
    if first and (first.suffix.lower() == ".csv" or any(first.glob("*.h5"))):
        if footage != FootageOptions(follow_links=footage.follow_links) or drawing.wanted:
            raise InputError(f"{first} holds faces: --cropped, --detect, --detector, --fps, --every, --timeline and "
                             "--annotate go with photographs and videos")
        if first.is_dir():
            if root or store or encoders.weights:
                raise InputError(f"{first} is a store already: leave out --root, --store and --weights")
            return ExtractedInputs(first)
        if not root:
            raise InputError(f"{first} is a manifest: say with --root which folder its keys are relative to")
        listed = temporary.with_name("faces.csv")
        write_manifest(_merge_with_store(read_manifest(first), target / "manifest.csv"), listed)
        extraction = extract_manifest(listed, encoders, roots=root, store=target, reused=store is not None,
                                      follow_links=footage.follow_links)
        log.info("%s", extraction.text())
        return ExtractedInputs(target, stopped_by=extraction.stats.stopped_by if extraction.stats else 0)
    if root:
        raise InputError("--root goes with a manifest; images and folders are where they are")
    sources = find_sources(inputs, follow_links=footage.follow_links)
    drawing.check(sources, out, submission=submission)
    faces = open_face_stream(
        sources, crops, detector=footage.detector, sampling=Sampling(fps=footage.fps, every=footage.every),
        treatment="cropped" if footage.cropped else "detect" if footage.detect else "auto")
    stopped_by = extract_footage(faces.chunks(), faces.manifest, encoders, store=target)
    if not stopped_by:
        log.info("%s", faces.summary())
    return ExtractedInputs(target, sources, faces.faults, stopped_by)


def extract_manifest(manifest: Path, encoders: RunEncoders, *, roots: Sequence[str], store: Path, reused: bool = False,
                     follow_links: bool = False) -> Extraction:
    """Extract the samples of a manifest with exactly these recipes into the store.

    reused: the store may be of images that have changed since. An encoder is needed only if the store lacks rows of it.
    Raises InputError, before anything is computed, where an encoder makes another recipe.
    """
    recipes, devices = encoders.recipes, encoders.device.split(",")
    files = parse_weights(encoders.weights, [recipe.backbone for recipe in recipes])
    options = ExtractOptions(recheck=reused, retry_failures=reused)
    loaded = Encoders(devices[0])
    workspace = open_workspace(Request(manifest=manifest, roots=roots, store=store, streams=[],
                                       follow_links=follow_links))
    plans, sources = [], []
    for number, file in enumerate(plan_all(workspace, [WantedFile(recipe) for recipe in recipes], options)):
        source = EncoderSource(backbone=file.recipe.backbone)
        if file.missing.any():
            check_widths([file.recipe], encoders.dims[number:number + 1])
            source, encoder = find_encoder(file.recipe, files.get(file.recipe.backbone, []), loaded)
            file = replace(file, dim=encoder.dim, classifier=encoder.classifier)
        plans.append(file)
        sources.append(source)
    return add_missing(workspace, plans, sources, partial(compute_on_devices, devices=devices, encoders=loaded),
                       options)


def _merge_with_store(faces: Manifest, path: Path) -> Manifest:
    """Return what the manifest of a store, at `path`, becomes when these faces are predicted with it.

    The same faces keep the labels they have there. Raises InputError if faces or labels would be lost.
    """
    if not path.is_file():
        return faces
    old = read_manifest(path)
    if set(old.keys) == set(faces.keys):
        return old
    unlabelled = bool((old.table[["split", "basic", "compound", "group"]] == "").to_numpy().all())
    if unlabelled and set(old.keys) <= set(faces.keys):
        return faces
    raise InputError(f"{path.parent}: a store of other faces, which would be lost: choose another --store")


# ----------------------------------------------------------------------------------------------- photographs and videos
def extract_footage(chunks: Iterable[FacesInMemory], manifest: Callable[[], Manifest], encoders: RunEncoders, *,
                    store: Path) -> int:
    """Extract faces as they come into the store; return the signal that stopped it, or 0.

    The values are those that `extract` computes from the same bytes in files; cached rows of the same bytes are used.
    manifest: called after the last chunk, for all keys, including those without a face. Raises InputError, before a
    face is read, where an encoder is not available or the store is of other faces.
    """
    target = own_store(store)
    before = _footage_keys(target)
    loaded = load_matching(encoders.recipes, weights=encoders.weights, device=encoders.device.split(",")[0],
                           dims=encoders.dims)
    files = [WantedFile(recipe, encoder.dim, encoder.classifier)
             for recipe, encoder in zip(loaded.recipes, loaded.encoders, strict=True)]
    options, seen = ExtractOptions(retry_failures=True), set()
    target.path.mkdir(parents=True, exist_ok=True)

    def compute(keys: list[str], images: ImageSource, stop: Stop) -> None:
        plans = plan(target, keys, files, options=options, hashes=hash_images(images, keys))
        jobs = [Job(encoder, view(file.recipe.view["name"]), file.recipe, file.missing)
                for file, encoder in zip(plans, loaded.encoders, strict=True)]
        run_jobs(jobs, keys, images, partial(publish_shard, target), options=options, progress=False, stop=stop)

    with Stop() as stop:
        for chunk in chunks:
            compute(chunk.keys, chunk, stop)
            seen.update(chunk.keys)
            if stop.signal:
                return stop.signal
        table = manifest()
        if lost := sorted(set(before) - set(table.keys)):
            raise InputError(f"{target.path} holds {len(lost)} faces of other footage, which would be lost (the first "
                             f"is {lost[0]}): name those inputs too, or choose another --store")
        compute([key for key in table.keys if key not in seen], FacesInMemory([], {}), stop)
    write_manifest(table, target.manifest_path)
    finish(target, plan(target, table.keys, files, options=ExtractOptions()), table.keys)
    return 0


def _footage_keys(store: Store) -> list[str]:
    """Return the keys of an existing store. Raises InputError if its faces did not come from footage."""
    if not store.manifest_path.is_file():
        return []
    table = read_manifest(store.manifest_path).table
    labelled = (table[["split", "basic", "compound"]] != "").any(axis=None)
    if labelled or not {"source", "frame", "track"} <= set(table):
        raise InputError(f"{store.path}: a store of other faces, which would be lost: choose another --store")
    return table["key"].tolist()
