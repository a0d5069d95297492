"""What a run has to compute: for each backbone and view, the faces that the store does not hold yet."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twofold.cache.format.featurefile import FeatureFile
from twofold.cache.parts import FileState, file_state
from twofold.cache.recipe import DTYPES, Recipe
from twofold.cache.store import Store
from twofold.data.errors import InputError
from twofold.data.images.decode import DECODER
from twofold.extract.networks.registry import Encoder
from twofold.extract.views import View


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to compute; only `dtype` has an influence on what is stored.

    batch_size and workers: 0 lets the machine decide; shard: `i/n`, counted from 0, or empty for all;
    max_failures: stop once more faces than this have failed, -1 for never; part_rows: what a crash repeats at most;
    with_logits: refuse to begin unless the classifiers that weights bring along can be kept.
    """

    dtype: str = "float16"
    batch_size: int = 0
    workers: int = 0
    shard: str = ""
    max_failures: int = -1
    part_rows: int = 2048
    retry_failures: bool = False
    recheck: bool = False
    with_logits: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InputError(f"unknown dtype {self.dtype!r}: choose from {', '.join(DTYPES)}")
        parse_shard(self.shard)

    @property
    def rows_a_part(self) -> int:
        """Half of what may be lost: while a part is open, the one before may still be on its way to the disk."""
        return max(1, self.part_rows // 2)


@dataclass(frozen=True)
class Job:
    """One feature file to be: an encoder, a view, their recipe, and which rows of the manifest it lacks."""

    encoder: Encoder
    view: View
    recipe: Recipe
    missing: np.ndarray  #: (faces,) bool: to be computed by this process
    cached: np.ndarray  #: (faces,) bool: cached before, or known to fail
    finished: FeatureFile | None = None  #: the file, if it was whole before this run


def parse_shard(text: str) -> tuple[int, int]:
    """`i/n` as (i, n), counted from 0; empty text is all of it; `auto` asks the launcher. Raises InputError."""
    if not text:
        return 0, 1
    if text == "auto":
        return _launched_as()
    index, slash, count = text.partition("/")
    if slash and index.isdecimal() and count.isdecimal() and int(index) < int(count):
        return int(index), int(count)
    raise InputError(f"shard {text!r} is not i/n with i from 0 to n-1, as 0/4")


def _launched_as() -> tuple[int, int]:
    """Which of how many processes this is, as torchrun or SLURM says in the environment."""
    for index, count in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"),
                         ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")):
        if index in os.environ and count in os.environ:
            first = int(os.environ.get("SLURM_ARRAY_TASK_MIN", "0")) if "ARRAY" in index else 0
            return parse_shard(f"{int(os.environ[index]) - first}/{os.environ[count]}")
    raise InputError("--shard auto finds neither RANK and WORLD_SIZE nor SLURM_* in the environment: give it as i/n")


def plan(store: Store, keys: Sequence[str], encoders: Sequence[Encoder], views: Sequence[View], *,
         settings: Settings, hashes: dict[str, str] | None = None) -> list[Job]:
    """One job for each encoder and view. `hashes`: what the images are now, to find those that have changed."""
    index, count = parse_shard(settings.shard)
    mine = np.arange(len(keys)) % count == index
    return [_job(store, keys, mine, recipe_of(encoder, view, dtype=settings.dtype), encoder, view, settings, hashes)
            for encoder in encoders for view in views]


def _job(store: Store, keys: Sequence[str], mine: np.ndarray, recipe: Recipe, encoder: Encoder, view: View,
         settings: Settings, hashes: dict[str, str] | None) -> Job:
    state = file_state(store, recipe)
    if not settings.retry_failures and hashes is None and state.is_complete(keys, classifier=encoder.classifier):
        return Job(encoder, view, recipe, np.zeros(len(keys), bool), np.ones(len(keys), bool), state.finished)
    missing = np.fromiter((_is_missing(key, state, settings, hashes or {}) for key in keys), bool, len(keys))
    return Job(encoder, view, recipe, missing & mine, ~missing)


def _is_missing(key: str, state: FileState, settings: Settings, hashes: dict[str, str]) -> bool:
    if key in state.rows.place:
        return key in hashes and hashes[key] != state.rows.sha256(key)
    return settings.retry_failures or key not in state.rows.failures


def recipe_of(encoder: Encoder, view: View, *, dtype: str) -> Recipe:
    """Everything that a value of this encoder and view depends on."""
    return Recipe(
        backbone=encoder.name, architecture=encoder.architecture, weights=encoder.weights, tap=encoder.tap,
        preprocessing=encoder.preprocessing.record(), view=view.record(), decoder=DECODER,
        precision=encoder.precision, dtype=dtype,
    )
