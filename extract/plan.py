"""What a run has to compute: for each feature file, the samples that the store lacks; is it the same dataset at all?"""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twofold.cache.classifier import BackboneClassifier
from twofold.cache.errors import CacheError
from twofold.cache.feature_file import FeatureFile
from twofold.cache.recipe import Recipe
from twofold.cache.shards import CachedRows, cached_rows, file_state, shard_paths
from twofold.cache.store import Store
from twofold.data.images.decode import FACE_LIMITS
from twofold.data.images.sources import ImageRoots, ImageSource, check_roots, hash_images, open_images, parse_roots
from twofold.data.manifest import Manifest, read_manifest
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.encoder import Encoder
from twofold.extract.engine.task import ComputeTask, EncoderSource, FileRows

COMPARED_IMAGES = 32  #: that every run compares with the store, spread over the cached samples
LAUNCHERS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"),
             ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"))  #: variables of torchrun and SLURM: which of how many


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """How to compute; no stored value depends on it. workers, max_failures, shard_rows: as of `ComputeTask`.

    shard: `i/n`, counted from 0, or empty for all; with_logits: refuse to begin unless the classifiers in the weights
    can be stored; replace_manifest: accept the manifest of another dataset and compare every image as by recheck.
    """

    workers: int = 0
    shard: str = ""
    max_failures: int = -1
    shard_rows: int = 2048
    retry_failures: bool = False
    recheck: bool = False
    with_logits: bool = False
    replace_manifest: bool = False

    def __post_init__(self) -> None:
        parse_shard(self.shard)


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The samples, where their images come from, and where their features go to."""

    manifest: Manifest
    images: ImageRoots
    store: Store


def open_workspace(manifest: Path | Manifest, roots: Sequence[str], store: Path, *,
                   max_pixels: int = FACE_LIMITS.pixels, follow_links: bool = False) -> Workspace:
    """Read the manifest and check the roots; write nothing yet.

    roots: one folder, or NAME=DIR for each dataset of a merged manifest; max_pixels: a larger image fails, no value
    depends on it; follow_links: read images that are links out of their root. Raises InputError or CacheError.
    """
    table = manifest if isinstance(manifest, Manifest) else read_manifest(manifest)
    images = open_images(parse_roots(roots), limits=FACE_LIMITS.scaled_to(max_pixels), follow_links=follow_links)
    Store(store, new=True).require_own_folder()
    return Workspace(manifest=table, images=images, store=Store(store, new=True))


@dataclass(frozen=True, kw_only=True)
class FilePlan:
    """A feature file to be made, what the store holds of it, and what this run adds.

    missing: (samples,) bool, the rows to compute; cached: (samples,) bool, the rows that are there and stay; failures:
    key to reason, of failed samples that are not tried again; finished: the file, if it is complete; source, dim,
    classifier: of the encoder, where they are known.
    """

    recipe: Recipe
    missing: np.ndarray
    cached: np.ndarray
    failures: dict[str, str]
    finished: FeatureFile | None
    source: EncoderSource
    dim: int
    classifier: BackboneClassifier | None


#: A feature file to be made: the source of its encoder, the encoder where it is loaded, and its recipe.
Wanted = tuple[EncoderSource, Encoder | None, Recipe]


def plan_all(workspace: Workspace, wanted: Sequence[Wanted], options: ExtractOptions) -> list[FilePlan]:
    """Return what each wanted file lacks. Raises as `compare_with_store`; InputError if no image is below the roots."""
    keys, store = workspace.manifest.keys, workspace.store
    hashes = compare_with_store(store, keys, workspace.images, [recipe for _, _, recipe in wanted], options)
    plans = plan(store, keys, wanted, options, hashes=hashes)
    if any(file.missing.any() for file in plans):
        check_roots(workspace.images, keys)
    return plans


def plan(store: Store, keys: Sequence[str], wanted: Sequence[Wanted], options: ExtractOptions, *,
         hashes: Mapping[str, str] | None = None) -> list[FilePlan]:
    """Return a plan for each wanted file. hashes: SHA-256 of the images now, by key, to find changed ones."""
    index, count = parse_shard(options.shard)
    mine, plans, now = np.arange(len(keys)) % count == index, [], hashes or {}
    for source, encoder, recipe in wanted:
        state = file_state(store, recipe)
        rows, classifier = state.rows, encoder.classifier if encoder else None
        stays = np.array([key in rows.place and (key not in now or now[key] == rows.sha256(key)) for key in keys], bool)
        failures = {} if options.retry_failures else {key: rows.failures[key] for key in keys if key in rows.failures}
        done = stays | np.array([key in failures for key in keys], bool)
        complete = done.all() and state.is_complete(keys, classifier=classifier)
        plans.append(FilePlan(
            recipe=recipe, missing=~done & mine, cached=stays, failures=failures,
            finished=state.finished if complete else None, source=source, classifier=classifier,
            dim=encoder.dim if encoder else next((cached.dim for cached in rows.files), 0)))
    return plans


def task_of(plans: Sequence[FilePlan], options: ExtractOptions, *, keys: Sequence[str], images: ImageSource,
            store: Store) -> ComputeTask:
    """Return all rows to compute, in the precision of the recipes on any device."""
    return ComputeTask(
        files=[FileRows(source=file.source.with_precision(file.recipe.precision), recipe=file.recipe,
                        rows=np.flatnonzero(file.missing)) for file in plans if file.missing.any()],
        keys=keys, images=images, store=store.path, workers=options.workers, max_failures=options.max_failures,
        shard_rows=options.shard_rows)


def parse_shard(text: str) -> tuple[int, int]:
    """Return `i/n` as (i, n), counted from 0; "" is (0, 1), `auto` what the launcher says. Raises InputError."""
    if not text:
        return 0, 1
    if text == "auto":
        for index, count in LAUNCHERS:
            if index in os.environ and count in os.environ:
                first = int(os.environ.get("SLURM_ARRAY_TASK_MIN", "0")) if "ARRAY" in index else 0
                return parse_shard(f"{int(os.environ[index]) - first}/{os.environ[count]}")
        raise InputError("--shard auto finds neither RANK and WORLD_SIZE nor SLURM_* in the environment: give i/n")
    index, slash, count = text.partition("/")
    if slash and index.isdecimal() and count.isdecimal() and int(index) < int(count):
        return int(index), int(count)
    raise InputError(f"shard {text!r} is not i/n with i from 0 to n-1, as 0/4")


# ------------------------------------------------------------------------------------ is the store of the same dataset?
def compare_with_store(store: Store, keys: Sequence[str], images: ImageRoots, recipes: Sequence[Recipe],
                       options: ExtractOptions) -> Mapping[str, str] | None:
    """Check that the store holds this dataset; return the SHA-256 of each image now where all are compared, else None.

    Raises CacheError for a store of another dataset: none of its keys is in the manifest, or none of the compared
    images is the same; also for any changed image, unless the options say to compute changed images again.
    """
    if options.replace_manifest:
        return hash_images(images, keys, workers=options.workers)
    store.require_same_dataset(keys)
    hashes = hash_images(images, keys, workers=options.workers) if options.recheck else None
    stored = _stored_rows(store, recipes)
    cached = [key for key in keys if any(key in rows.place for rows in stored)]
    sample = hashes or hash_images(images, cached[::-(-len(cached) // COMPARED_IMAGES) or 1], workers=options.workers)
    compared = [key for key in cached if key in sample]
    differing = [key for key in compared
                 if any(key in rows.place and rows.sha256(key) != sample[key] for rows in stored)]
    if not differing or (options.recheck and len(differing) < len(compared)):
        return hashes
    other = (f"the features of other images under {len(differing)} of the {len(compared)} keys that were compared (the "
             f"first is {differing[0]!r})")
    if len(differing) == len(compared):
        raise CacheError(f"{store.path} is the store of another dataset: it has {other}; give another --store, or say "
                         "--replace-manifest, which computes them again")
    raise CacheError(f"{store.path} has {other}: say --recheck to compute changed images again; another dataset "
                     "belongs into another --store")


def _stored_rows(store: Store, recipes: Sequence[Recipe]) -> list[CachedRows]:
    """Return the rows of each recipe by keys and hashes alone; where there are none at all, of the store's other files.

    Files that are damaged, or have just been merged, are left out.
    """
    def readable(files: Iterable[FeatureFile]) -> list[FeatureFile]:
        sound = []
        for file in files:
            with suppress(CacheError):
                _ = file.keys
                sound.append(file)
        return sound

    def rows_of(recipe: Recipe) -> CachedRows:
        return cached_rows(readable(map(FeatureFile, [store.path_of(recipe), *shard_paths(store, recipe)])))

    rows = [rows_of(recipe) for recipe in recipes]
    if any(cached.place for cached in rows):
        return rows
    others = {file.fingerprint: file.recipe for file in readable([*store.files(), *store.shards()])}
    return [rows_of(recipe) for recipe in others.values()]
