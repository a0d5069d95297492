"""Stores into one: different backbones and views side by side, different faces of one recipe in one file."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from twofold.cache.errors import CacheError, FileGone
from twofold.cache.feature_file import BLOCK_ROWS, FeatureFile
from twofold.cache.recipe import Recipe
from twofold.cache.shards import (
    CachedRows,
    FileState,
    cached_rows,
    common_classifier,
    is_retired,
    replace_finished,
    retry_replace,
    shard_paths,
)
from twofold.cache.store import Store
from twofold.data.utils.atomic import make_folder

TOLERANCE = {"fp32": 0.002, "fp16": 0.02, "bf16": 0.05}  #: of a row's length: two machines round differently


@dataclass(frozen=True)
class MergedFile:
    """One file of the merged store, and how many files and parts it was made of."""

    file: str
    backbone: str
    view: str
    rows: int
    failed: int
    sources: int


@dataclass(frozen=True)
class Merged:
    """The store that a merge has made; faces: rows of its manifest."""

    store: Path
    faces: int
    files: list[MergedFile]

    def record(self) -> dict:
        return {"store": str(self.store), "faces": self.faces, "files": [asdict(file) for file in self.files]}

    def text(self) -> str:
        lines = [f"{file.backbone} ({file.view}): {file.rows} faces, {file.failed} failed, sources: {file.sources}"
                 f"{self._missing(file)} -> {file.file}" for file in self.files]
        return "\n".join([*lines, f"{self.faces} faces in {self.store}"])

    def _missing(self, file: MergedFile) -> str:
        missing = self.faces - file.rows - file.failed
        return f", {missing} to be extracted" if missing > 0 else ""


def merge(stores: Sequence[Store], out: Store, keys: Sequence[str]) -> Merged:
    """Write each recipe of the stores to `out`, rows in the order of `keys`; unfinished parts are taken in, too.

    What `out` holds already takes part, so that a merge that was cut off goes on, and what another process adds to it
    meanwhile stays. Nothing is written before all is compared. Raises CacheError naming the key for which two stores
    hold another image or another value, and for a file that cannot be read.
    """
    others = [store for path, store in {store.path.resolve(): store for store in stores}.items()
              if path != out.path.resolve()]
    recipes = {recipe.fingerprint: recipe for store in (out, *others) for recipe in _recipes(store)}.values()
    sources = [[_cached(store, recipe) for store in others] for recipe in recipes]
    for recipe, cached in zip(recipes, sources, strict=True):
        retry_replace(out, recipe, partial(_agreed_with, cached))
    make_folder(out.path)
    return Merged(out.path, len(keys), [_merge_recipe(out, recipe, cached, keys)
                                        for recipe, cached in zip(recipes, sources, strict=True)])


def _recipes(store: Store) -> list[Recipe]:
    while True:
        with suppress(FileGone):  # another process is at work in the store: look again
            return [file.recipe for file in [*store.files(), *store.shards()]]


def _agreed_with(others: Sequence[CachedRows], state: FileState) -> CachedRows:
    return _agreed([state.rows, *others])


def _cached(store: Store, recipe: Recipe) -> CachedRows:
    """What a store holds of a recipe, but for the rows of faces that have left its manifest."""
    files = [file for file in store.files() if file.fingerprint == recipe.fingerprint]
    parts = [FeatureFile(path) for path in shard_paths(store, recipe) if not is_retired(path)]
    for part in parts:
        part.check()
    return cached_rows(files + parts)


def _agreed(stores: Sequence[CachedRows]) -> CachedRows:
    """The rows of several stores: each key from the first that has it, if the others have the same of it."""
    rows = stores[0]
    for other in stores[1:]:
        shared = [key for key in other.place if key in rows.place]
        _require_same_images(rows, other, shared)
        _require_same_values(rows, other, shared)
        offset = len(rows.files)
        place = {key: (file + offset, row) for key, (file, row) in other.place.items()} | rows.place
        failures = {key: reason for key, reason in (other.failures | rows.failures).items() if key not in place}
        rows = CachedRows([*rows.files, *other.files], place, failures)
    common_classifier(rows.files)
    return rows


def _require_same_images(a: CachedRows, b: CachedRows, keys: Sequence[str]) -> None:
    for key in keys:
        if a.sha256(key) != b.sha256(key):
            raise CacheError(f"{_both(a, b, key)} were made from different images of {key!r}: extract one of them "
                             f"again with --recheck, or merge under different keys")


def _require_same_values(a: CachedRows, b: CachedRows, keys: Sequence[str]) -> None:
    for start, left, right in zip(range(0, len(keys), BLOCK_ROWS), a.blocks(keys), b.blocks(keys), strict=True):
        left, right = left.astype(np.float32), right.astype(np.float32)
        distance = np.linalg.norm(left - right, axis=1)
        bound = TOLERANCE[a.files[0].recipe.precision] * np.linalg.norm(left, axis=1)
        if not (distance <= bound).all():  # written so that it holds for what is not a number, too
            row = int(np.argmax(distance - bound))
            key = keys[start + row]
            raise CacheError(f"{_both(a, b, key)} have different values for {key!r} under one recipe (they are "
                             f"{distance[row]:.3g} apart): one of them is wrong; compare them with `cache diff`")


def _both(a: CachedRows, b: CachedRows, key: str) -> str:
    return " and ".join(str(rows.files[rows.place[key][0]].path) for rows in (a, b))


def _merge_recipe(out: Store, recipe: Recipe, sources: Sequence[CachedRows], keys: Sequence[str]) -> MergedFile:
    def make(state: FileState) -> tuple[FeatureFile, int] | None:
        rows = _agreed([state.rows, *sources])
        if _is_unchanged(state, rows, keys):
            file = state.finished
        else:
            file = replace_finished(out, recipe, rows.files[0].dim, keys, state, rows)
        return (file, len(rows.files)) if file else None

    file, count = retry_replace(out, recipe, make)
    return MergedFile(file.path.name, file.backbone, file.view, file.rows, file.failed, count)


def _is_unchanged(state: FileState, rows: CachedRows, keys: Sequence[str]) -> bool:
    """True if the finished file holds just these rows already."""
    file, present = state.finished, [key for key in keys if key in rows.place]
    return (file is not None and not state.shards and file.keys.tolist() == present and file.failures == rows.failures
            and all(rows.place[key][0] == 0 for key in present)
            and (file.classifier is not None or common_classifier(rows.files) is None))
