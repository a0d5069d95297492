"""What a run has to compute: for each feature file, the samples that the store lacks; is it the same dataset at all?"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from twofold.cache.classifier import BackboneClassifier
from twofold.cache.errors import CacheError
from twofold.cache.feature_file import FeatureFile
from twofold.cache.recipe import Recipe
from twofold.cache.shards import CachedRows, cached_rows, file_state, shard_paths
from twofold.cache.store import Store
from twofold.data.images.decode import DECODER
from twofold.data.images.sources import ImageSource, hash_images
from twofold.data.utils.errors import InputError
from twofold.extract.views import View

if TYPE_CHECKING:
    from twofold.extract.encoders.encoder import Encoder

COMPARED_IMAGES = 32  #: that every run compares with the store, spread over the cached samples


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """How to compute; no stored value depends on these options.

    workers: decoding threads, 0 for one per core; shard: `i/n`, counted from 0, or empty for all; max_failures: stop
    after more failed samples than this, -1 for never; shard_rows: what a crash repeats at most; with_logits: refuse to
    begin unless the classifiers in the weights can be stored; replace_manifest: accept the manifest of another dataset
    and compare every image as by recheck.
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

    @property
    def rows_per_shard(self) -> int:
        """Half of what may be lost: while a shard is open, the one before may still be on its way to the disk."""
        return max(1, self.shard_rows // 2)


@dataclass(frozen=True)
class WantedFile:
    """A feature file to be made: its recipe and, where known already, dimension and classifier."""

    recipe: Recipe
    dim: int = 0
    classifier: BackboneClassifier | None = None


@dataclass(frozen=True, kw_only=True)
class FilePlan(WantedFile):
    """A wanted file, what the store holds of it, and what this run adds.

    missing: (samples,) bool, the rows to compute; cached: (samples,) bool, the rows that are there and stay; failures:
    key to reason, of failed samples that are not tried again; finished: the file, if it is complete.
    """

    missing: np.ndarray
    cached: np.ndarray
    failures: dict[str, str]
    finished: FeatureFile | None


@dataclass(frozen=True)
class Job:
    """Rows of one feature file to compute: an encoder, a view, their recipe, and which rows of the manifest.

    missing: (samples,) bool; max_batch: samples per forward pass, 0 for the encoder's batch size.
    """

    encoder: "Encoder"
    view: View
    recipe: Recipe
    missing: np.ndarray
    max_batch: int = 0

    @property
    def batch_size(self) -> int:
        return self.max_batch or self.encoder.batch_size


def parse_shard(text: str) -> tuple[int, int]:
    """Return `i/n` as (i, n), counted from 0; "" is (0, 1), `auto` what the launcher says. Raises InputError."""
    if not text:
        return 0, 1
    if text == "auto":
        return _shard_of_launcher()
    index, slash, count = text.partition("/")
    if slash and index.isdecimal() and count.isdecimal() and int(index) < int(count):
        return int(index), int(count)
    raise InputError(f"shard {text!r} is not i/n with i from 0 to n-1, as 0/4")


def _shard_of_launcher() -> tuple[int, int]:
    """Return which of how many processes this is, from the variables of torchrun or SLURM."""
    for index, count in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"),
                         ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")):
        if index in os.environ and count in os.environ:
            first = int(os.environ.get("SLURM_ARRAY_TASK_MIN", "0")) if "ARRAY" in index else 0
            return parse_shard(f"{int(os.environ[index]) - first}/{os.environ[count]}")
    raise InputError("--shard auto finds neither RANK and WORLD_SIZE nor SLURM_* in the environment: give it as i/n")


def plan(store: Store, keys: Sequence[str], wanted: Sequence[WantedFile], *, options: ExtractOptions,
         hashes: Mapping[str, str] | None = None) -> list[FilePlan]:
    """Return a plan for each wanted file. hashes: SHA-256 of the images now, by key, to find changed ones."""
    index, count = parse_shard(options.shard)
    mine, plans, now = np.arange(len(keys)) % count == index, [], hashes or {}
    for file in wanted:
        state = file_state(store, file.recipe)
        rows = state.rows
        stays = np.fromiter((key in rows.place and (key not in now or now[key] == rows.sha256(key)) for key in keys),
                            bool, len(keys))
        failures = {} if options.retry_failures else {key: rows.failures[key] for key in keys if key in rows.failures}
        done = stays | np.fromiter((key in failures for key in keys), bool, len(keys))
        complete = done.all() and state.is_complete(keys, classifier=file.classifier)
        plans.append(FilePlan(
            recipe=file.recipe, dim=file.dim or next((cached.dim for cached in rows.files), 0),
            classifier=file.classifier, missing=~done & mine, cached=stays, failures=failures,
            finished=state.finished if complete else None))
    return plans


def recipe_of(encoder: "Encoder", view: View, *, dtype: str) -> Recipe:
    """Return the recipe: everything that a value of this encoder and view depends on."""
    return Recipe(
        backbone=encoder.name, architecture=encoder.architecture, weights=encoder.weights, tap=encoder.tap,
        preprocessing=encoder.preprocessing.record(), view=view.record(), decoder=DECODER,
        precision=encoder.precision, dtype=dtype,
    )


# ------------------------------------------------------------------------------------ is the store of the same dataset?
def compare_with_store(store: Store, keys: Sequence[str], images: ImageSource, wanted: Sequence[WantedFile],
                       options: ExtractOptions) -> Mapping[str, str] | None:
    """Check that the store holds this dataset; return the SHA-256 of each image now where all are compared, else None.

    Raises CacheError for a store of another dataset: none of its keys is in the manifest, or none of the compared
    images is the same; also for any changed image, unless the options say to compute changed images again.
    """
    if options.replace_manifest:
        return hash_images(images, keys, workers=options.workers)
    store.require_same_dataset(keys)
    hashes = hash_images(images, keys, workers=options.workers) if options.recheck else None
    stored = _stored_rows(store, wanted)
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


def _stored_rows(store: Store, wanted: Sequence[WantedFile]) -> list[CachedRows]:
    """Return the rows of each wanted file; where there are none at all, those of the store's other files."""
    rows = [_rows_of(store, file.recipe) for file in wanted]
    if any(cached.place for cached in rows):
        return rows
    recipes: dict[str, Recipe] = {}
    for file in [*store.files(), *store.shards()]:
        with suppress(CacheError):
            recipes[file.fingerprint] = file.recipe
    return [_rows_of(store, recipe) for recipe in recipes.values()]


def _rows_of(store: Store, recipe: Recipe) -> CachedRows:
    """Return the rows by keys and hashes alone; skip files that are damaged or have just been merged."""
    files = []
    for path in (store.path_of(recipe), *shard_paths(store, recipe)):
        with suppress(CacheError):
            file = FeatureFile(path)
            _ = file.keys
            files.append(file)
    return cached_rows(files)
