"""What a person names, photographs and videos, a manifest, or a store, as features of a run's recipes in a store."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from twofold.cache.recipe import Recipe
from twofold.data.faces.annotate import Drawing
from twofold.data.faces.in_memory import Treatment, open_face_stream
from twofold.data.faces.settings import Sampling
from twofold.data.faces.sources import Source, find_sources
from twofold.data.manifest import Manifest, read_manifest, write_manifest
from twofold.data.utils.errors import InputError
from twofold.extract.again.in_memory import extract_in_memory
from twofold.extract.again.reproduce import reproduce

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Watch:
    """How photographs and videos are looked at. detector: its weights file, None to look for it.

    Raises InputError for settings that contradict each other.
    """

    cropped: bool = False
    detect: bool = False
    detector: Path | None = None
    fps: float = 0.0
    every: int = 1

    def __post_init__(self) -> None:
        if self.cropped and self.detect:
            raise InputError("--cropped and --detect contradict each other: give one of them, or leave it to the "
                             "pictures")
        _ = self.sampling

    @property
    def sampling(self) -> Sampling:
        return Sampling(fps=self.fps, every=self.every)

    @property
    def treatment(self) -> Treatment:
        return "cropped" if self.cropped else "detect" if self.detect else "auto"


@dataclass(frozen=True)
class ExtractedInputs:
    """Where the features are. sources: photographs and videos; faults: what could not be read of them, a sentence each;
    stopped_by: the signal that ended it, or 0."""

    store: Path
    sources: Sequence[Source] = ()
    faults: Sequence[str] = ()
    stopped_by: int = 0


def extract_inputs(
    inputs: Sequence[Path], recipes: Sequence[Recipe], *, crops: Sequence[str], watch: Watch, drawing: Drawing,
    out: Path, root: Sequence[str], store: Path | None, place: Path, weights: Sequence[str], device: str,
    dims: Sequence[int], submission: bool,
) -> ExtractedInputs:
    """Extract all inputs with these recipes, into `store` where one is named, else into `place`.

    crops: lines of settings that the run's faces were cropped with; dims: the widths that the recipes must have;
    drawing, out, submission: what will be written, checked before anything is computed. Raises InputError for inputs
    and options that do not go together.
    """
    faces = inputs[0] if len(inputs) == 1 else None
    if faces and (faces.suffix.lower() == ".csv" or any(faces.glob("*.h5"))):
        if watch != Watch() or drawing.wanted:
            raise InputError(f"{faces} holds faces: --cropped, --detect, --detector, --fps, --every, --timeline and "
                             "--annotate go with photographs and videos")
        if not faces.is_dir():
            return _manifest(faces, recipes, root, store, place, weights, device, dims)
        if root or store or weights:
            raise InputError(f"{faces} is a store already: leave out --root, --store and --weights")
        return ExtractedInputs(faces)
    if root:
        raise InputError("--root goes with a manifest; images and folders are where they are")
    sources = find_sources(inputs)
    drawing.check(sources, out, submission=submission)
    footage = open_face_stream(sources, crops, detector=watch.detector, sampling=watch.sampling,
                               treatment=watch.treatment)
    stopped_by = extract_in_memory(recipes, footage.chunks(), footage.manifest, store=store or place, weights=weights,
                                   device=device, dims=dims)
    if not stopped_by:
        log.info("%s", footage.summary())
    return ExtractedInputs(store or place, sources, footage.faults, stopped_by)


def _manifest(faces: Path, recipes: Sequence[Recipe], root: Sequence[str], store: Path | None, place: Path,
              weights: Sequence[str], device: str, dims: Sequence[int]) -> ExtractedInputs:
    if not root:
        raise InputError(f"{faces} is a manifest: say with --root which folder its keys are relative to")
    target, listed = store or place, place.with_name("faces.csv")
    write_manifest(_in_store(read_manifest(faces), target / "manifest.csv"), listed)
    extraction = reproduce(recipes, manifest=listed, roots=root, store=target, weights=weights, device=device,
                           reused=store is not None, dims=dims)
    log.info("%s", extraction.text())
    return ExtractedInputs(target, stopped_by=extraction.tally.stopped_by if extraction.tally else 0)


def _in_store(faces: Manifest, path: Path) -> Manifest:
    """What the manifest of a store at `path` becomes when these faces are to be predicted with it.

    The same faces keep the labels they have there. Raises InputError if faces or labels would be lost.
    """
    if not path.is_file():
        return faces
    old = read_manifest(path)
    if set(old.keys) == set(faces.keys):
        return old
    bare = bool((old.table[["split", "basic", "compound", "group"]] == "").to_numpy().all())
    if bare and set(old.keys) <= set(faces.keys):
        return faces
    raise InputError(f"{path.parent}: a store of other faces, which would be lost: choose another --store")
