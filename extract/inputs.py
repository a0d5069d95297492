"""Extract what `predict` is given (photographs and videos, a manifest, or a store) with the recipes of a run."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from twofold.cache.store import Store
from twofold.data.faces.annotate import Drawing
from twofold.data.faces.identity import MEASURED_WITH, THRESHOLD, IdentityModel
from twofold.data.faces.in_memory import FacesInMemory, FaceStream, open_face_stream
from twofold.data.faces.settings import Sampling
from twofold.data.faces.sources import Source, find_sources
from twofold.data.images.decode import remark_lines
from twofold.data.images.sources import hash_images
from twofold.data.manifest import Manifest, read_manifest, write_manifest
from twofold.data.utils.errors import InputError
from twofold.data.utils.terminal import Summary
from twofold.extract.encoders.registry import load_encoder
from twofold.extract.engine.loop import compute_on_devices, compute_task
from twofold.extract.engine.progress import Stop
from twofold.extract.engine.task import EncoderSource
from twofold.extract.extract import add_missing, finish
from twofold.extract.plan import ExtractOptions, Wanted, open_workspace, plan, plan_all, task_of
from twofold.extract.streams import MatchingEncoders, parse_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FootageOptions:
    """How to find faces in photographs and videos. detector: its weights file, None to search for it; detect_every: of
    `CropSettings`, 0 as the run's faces; identity: a backbone that tells people apart."""

    cropped: bool = False
    detect: bool = False
    detector: Path | None = None
    fps: float = 0.0
    every: int = 1
    follow_links: bool = False
    detect_every: int = 0
    identity: str = ""

    def __post_init__(self) -> None:
        Sampling(fps=self.fps, every=self.every)  # raises InputError for what makes no sense
        if self.cropped and self.detect:
            raise InputError("--cropped and --detect contradict each other: give one of them, or leave it to the "
                             "pictures")


@dataclass(frozen=True)
class ExtractedInputs:
    """The store with the features; the photographs and videos, and the sentences on what could not be read of them; the
    signal that ended the extraction early, or 0."""

    store: Path
    sources: Sequence[Source] = ()
    faults: Sequence[str] = ()
    stopped_by: int = 0


def open_identity(name: str, weights: Sequence[str] = (), *, threshold: float | None = None, session: bool = False,
                  device: str = "auto") -> IdentityModel:
    """A backbone as the network that tells people apart. weights: NAME=PATH; threshold: None takes the one that was
    measured, with a warning for other networks. Raises InputError as `load_encoder`, and for a threshold that is no
    similarity."""
    least = THRESHOLD if threshold is None else threshold
    model = IdentityModel(name, "", np.asarray, least, session)  # raises before anything is loaded
    files = parse_weights(weights, [name]).get(name, [None])
    encoder = load_encoder(name, weights=files[-1], device=device)
    if threshold is None and encoder.weights != MEASURED_WITH:
        log.warning("warning: the least similarity of one person, %g, was measured with MobileFaceNet; %s may "
                    "need another --same-person, and networks that were not trained to recognise faces hardly tell "
                    "people apart", THRESHOLD, encoder.name)

    def embed(portraits: np.ndarray) -> np.ndarray:
        return encoder.encode(np.stack([encoder.preprocessing.prepare(Image.fromarray(each)) for each in portraits]))

    return replace(model, name=encoder.name, weights=encoder.weights, embed=embed)


def extract_inputs(
    inputs: Sequence[Path], encoders: MatchingEncoders, *, crops: Sequence[str] | None, footage: FootageOptions,
    drawing: Drawing, out: Path | None, root: Sequence[str], store: Path | None, temporary: Path, submission: bool,
) -> ExtractedInputs:
    """Extract all inputs with the recipes of a run, into `store` if there is one, else into `temporary`.

    crops: lines of the settings that the run's faces were cropped with, None if nobody knows; drawing, out, submission:
    what will be written, checked before anything is computed. Raises InputError for inputs and options that do not go
    together.
    """
    first, target = inputs[0] if len(inputs) == 1 else None, store or temporary
    if first and (first.suffix.lower() == ".csv" or any(first.glob("*.h5"))):
        if footage != FootageOptions(follow_links=footage.follow_links) or drawing.wanted:
            raise InputError(f"{first} holds faces: --cropped, --detect, --detector, --fps, --every, "
                             "--detect-every, --identity, --timeline and --annotate go with photographs and videos")
        if first.is_dir():
            if root or store or encoders.weights:
                raise InputError(f"{first} is a store already: leave out --root, --store and --weights")
            return ExtractedInputs(first)
        if not root:
            raise InputError(f"{first} is a manifest: say with --root which folder its keys are relative to")
        extraction = extract_manifest(read_manifest(first), encoders, roots=root, store=target,
                                      reused=store is not None, follow_links=footage.follow_links)
        log.info("%s", extraction.text())
        return ExtractedInputs(target, stopped_by=extraction.values["stopped_by"])
    if root:
        raise InputError("--root goes with a manifest; images and folders are where they are")
    sources = find_sources(inputs, follow_links=footage.follow_links)
    drawing.check(sources, out, submission=submission)
    faces = open_face_stream(
        sources, crops, detector=footage.detector, sampling=Sampling(fps=footage.fps, every=footage.every),
        detect_every=footage.detect_every, identity=open_identity(footage.identity) if footage.identity else None,
        treatment="cropped" if footage.cropped else "detect" if footage.detect else "auto")
    stopped_by = extract_footage(faces, encoders, store=target)
    if not stopped_by:
        log.info("%s", faces.summary())
    return ExtractedInputs(target, sources, faces.faults, stopped_by)


def extract_manifest(faces: Manifest, encoders: MatchingEncoders, *, roots: Sequence[str], store: Path,
                     reused: bool = False, follow_links: bool = False) -> Summary:
    """Extract the samples of a manifest with exactly these recipes into the store.

    reused: the store may be of images that have changed since. Faces that are there keep the labels they have there.
    An encoder is needed only if the store lacks rows of it. Raises InputError, before anything is computed, where an
    encoder makes another recipe, or where faces or labels of the store would be lost.
    """
    if (path := store / "manifest.csv").is_file():
        old = read_manifest(path)
        unlabelled = bool((old.table[["split", "basic", "compound", "group"]] == "").to_numpy().all())
        if set(old.keys) == set(faces.keys):
            faces = old
        elif not (unlabelled and set(old.keys) <= set(faces.keys)):
            raise InputError(f"{store}: a store of other faces, which would be lost: choose another --store")
    options = ExtractOptions(recheck=reused, retry_failures=reused)
    workspace = open_workspace(faces, roots, store, follow_links=follow_links)
    plans = plan_all(workspace, [(EncoderSource(backbone=recipe.backbone), None, recipe)
                                 for recipe in encoders.recipes], options)
    for number, file in enumerate(plans):
        if file.missing.any():
            source, encoder = encoders.find(number)
            plans[number] = replace(file, source=source, dim=encoder.dim, classifier=encoder.classifier)
    return add_missing(workspace, plans, options,
                       partial(compute_on_devices, devices=encoders.devices, encoders=encoders.encoders))


def extract_footage(faces: FaceStream, encoders: MatchingEncoders, *, store: Path) -> int:
    """Extract faces as they come into the store; return the signal that stopped it, or 0.

    The values are those that `extract` computes from the same bytes in files; cached rows of the same bytes are used.
    Raises InputError, before a face is read, where an encoder is not available or the store is of other faces.
    """
    target, before = Store(store, new=True), []
    target.require_own_folder()
    if target.manifest_path.is_file():
        table = read_manifest(target.manifest_path).table
        labelled = (table[["split", "basic", "compound"]] != "").any(axis=None)
        if labelled or not {"source", "frame", "track"} <= set(table):
            raise InputError(f"{store}: a store of other faces, which would be lost: choose another --store")
        before = table["key"].tolist()
    wanted: list[Wanted] = [(*encoders.find(number), recipe) for number, recipe in enumerate(encoders.recipes)]
    options, seen, remarks = ExtractOptions(retry_failures=True), set(), Counter[str]()
    target.path.mkdir(parents=True, exist_ok=True)

    def compute(keys: list[str], images: FacesInMemory, stop: Stop) -> None:
        plans = plan(target, keys, wanted, options, hashes=hash_images(images, keys))
        task = task_of(plans, options, keys=keys, images=images, store=target)
        remarks.update(compute_task(task, encoders.encoders, progress=False, stop=stop).remarks)

    with Stop() as stop:
        for chunk in faces.chunks(lambda: bool(stop.signal)):
            compute(chunk.keys, chunk, stop)
            seen.update(chunk.keys)
        if stop.signal:
            return stop.signal
        table = faces.manifest()
        if lost := sorted(set(before) - set(table.keys)):
            raise InputError(f"{target.path} holds {len(lost)} faces of other footage, which would be lost (the first "
                             f"is {lost[0]}): name those inputs too, or choose another --store")
        compute([key for key in table.keys if key not in seen], FacesInMemory([], {}), stop)
    for line in [] if faces.looks_at_photographs else remark_lines(remarks):  # else detection has said it
        log.warning("warning: %s", line)
    write_manifest(table, target.manifest_path)
    finish(target, plan(target, table.keys, wanted, ExtractOptions()), table.keys)
    return 0
