"""What a run has to compute: for each feature file, the faces that the store does not hold yet."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from twofold.cache.classifier import BackboneClassifier
from twofold.cache.feature_file import FeatureFile
from twofold.cache.recipe import Recipe
from twofold.cache.shards import file_state
from twofold.cache.store import Store
from twofold.data.images.decode import DECODER
from twofold.data.utils.errors import InputError
from twofold.extract.views import View

if TYPE_CHECKING:
    from twofold.extract.encoders.encoder import Encoder


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """How to compute; none has an influence on what is stored.

    workers: decoding threads, 0 for one a core; shard: `i/n`, counted from 0, or empty for all; max_failures: stop
    once more faces than this have failed, -1 for never; part_rows: what a crash repeats at most; with_logits: refuse
    to begin unless the classifiers that weights bring along can be kept; replace_manifest: also by another dataset's,
    in which case every image is compared as by recheck.
    """

    workers: int = 0
    shard: str = ""
    max_failures: int = -1
    part_rows: int = 2048
    retry_failures: bool = False
    recheck: bool = False
    with_logits: bool = False
    replace_manifest: bool = False

    def __post_init__(self) -> None:
        parse_shard(self.shard)

    @property
    def rows_a_part(self) -> int:
        """Half of what may be lost: while a part is open, the one before may still be on its way to the disk."""
        return max(1, self.part_rows // 2)


@dataclass(frozen=True)
class WantedFile:
    """A feature file that is to be: its recipe and, where they are known already, dimension and classifier."""

    recipe: Recipe
    dim: int = 0
    classifier: BackboneClassifier | None = None


@dataclass(frozen=True)
class FilePlan:
    """A wanted file, what the store holds of it, and what is to be added.

    missing: (faces,) bool, the rows to be computed by this run; cached: (faces,) bool, those that are there and stay;
    failures: key to reason, of faces known to fail that are not tried again; finished: the file, if it is whole.
    """

    wanted: WantedFile
    missing: np.ndarray
    cached: np.ndarray
    failures: dict[str, str]
    finished: FeatureFile | None

    @property
    def recipe(self) -> Recipe:
        return self.wanted.recipe


@dataclass(frozen=True)
class Job:
    """One feature file to compute rows of: an encoder, a view, their recipe, and which rows of the manifest."""

    encoder: "Encoder"
    view: View
    recipe: Recipe
    missing: np.ndarray  #: (faces,) bool


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


def plan(store: Store, keys: Sequence[str], wanted: Sequence[WantedFile], *, options: ExtractOptions,
         hashes: Mapping[str, str] | None = None) -> list[FilePlan]:
    """A plan for each wanted file. `hashes`: what the images are now, by key, to find those that have changed."""
    index, count = parse_shard(options.shard)
    mine = np.arange(len(keys)) % count == index
    return [_plan(store, keys, mine, file, options, hashes) for file in wanted]


def _plan(store: Store, keys: Sequence[str], mine: np.ndarray, wanted: WantedFile, options: ExtractOptions,
          hashes: Mapping[str, str] | None) -> FilePlan:
    state = file_state(store, wanted.recipe)
    rows, now = state.rows, hashes or {}
    stays = np.fromiter((key in rows.place and (key not in now or now[key] == rows.sha256(key)) for key in keys),
                        bool, len(keys))
    failures = {} if options.retry_failures else {key: rows.failures[key] for key in keys if key in rows.failures}
    fails = np.fromiter((key in failures for key in keys), bool, len(keys))
    wanted = replace(wanted, dim=wanted.dim or next((file.dim for file in rows.files), 0))
    complete = (stays | fails).all() and state.is_complete(keys, classifier=wanted.classifier)
    return FilePlan(wanted, ~(stays | fails) & mine, stays, failures, state.finished if complete else None)


def recipe_of(encoder: "Encoder", view: View, *, dtype: str) -> Recipe:
    """Everything that a value of this encoder and view depends on."""
    return Recipe(
        backbone=encoder.name, architecture=encoder.architecture, weights=encoder.weights, tap=encoder.tap,
        preprocessing=encoder.preprocessing.record(), view=view.record(), decoder=DECODER,
        precision=encoder.precision, dtype=dtype,
    )
