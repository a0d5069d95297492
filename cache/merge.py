"""Merge stores: different backbones and views side by side, different samples of one recipe in one file."""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import numpy as np

from twofold.cache.errors import CacheError, FileGone
from twofold.cache.feature_file import FeatureFile
from twofold.cache.recipe import Recipe
from twofold.cache.shards import (
    CachedRows,
    FileState,
    cached_rows,
    common_classifier,
    replace_finished,
    retry_replace,
    shard_paths,
)
from twofold.cache.store import Store, is_retired
from twofold.data.utils.atomic import make_folder
from twofold.data.utils.terminal import Summary

TOLERANCE = {"fp32": 0.002, "fp16": 0.02, "bf16": 0.05}  #: of a row's length: two machines round differently


def merge(stores: Sequence[Store], out: Store, keys: Sequence[str]) -> Summary:
    """Write each recipe of the stores to `out`, rows in the order of `keys`; unfinished shards are included.

    What `out` holds takes part, so that an interrupted merge continues, and what another process adds to it meanwhile
    stays. Nothing is written before all is compared. Raises CacheError naming the key for which two stores hold another
    image or another value, and for a file that cannot be read.
    """
    others = [store for path, store in {store.path.resolve(): store for store in stores}.items()
              if path != out.path.resolve()]
    recipes = {recipe.fingerprint: recipe for store in (out, *others) for recipe in _recipes(store)}.values()
    sources = [(recipe, [_cached(store, recipe) for store in others]) for recipe in recipes]
    for recipe, rows in sources:
        retry_replace(out, recipe, lambda state, rows=rows: _unite([state.rows, *rows]))
    make_folder(out.path)
    files, lines = [], []
    for recipe, rows in sources:
        file, count = retry_replace(out, recipe, partial(_replaced, out, recipe, rows, keys))
        files.append({"file": file.path.name, "backbone": file.backbone, "view": file.view, "rows": file.rows,
                      "failed": file.failed, "sources": count})
        missing = len(keys) - file.rows - file.failed
        lines.append(f"{file.backbone} ({file.view}): {file.rows} samples, {file.failed} failed, sources: {count}"
                     f"{f', {missing} to be extracted' if missing > 0 else ''} -> {file.path.name}")
    return Summary(values={"store": str(out.path), "samples": len(keys), "files": files},
                   lines=[*lines, f"{len(keys)} samples in {out.path}"])


def _recipes(store: Store) -> list[Recipe]:
    while True:
        with suppress(FileGone):  # another process is at work in the store: look again
            return [file.recipe for file in [*store.files(), *store.shards()]]


def _cached(store: Store, recipe: Recipe) -> CachedRows:
    """What a store holds of a recipe, except the rows of samples that have left its manifest."""
    shards = [FeatureFile(path) for path in shard_paths(store, recipe) if not is_retired(path)]
    for shard in shards:
        shard.check()
    return cached_rows([*(file for file in store.files() if file.fingerprint == recipe.fingerprint), *shards])


def _unite(stores: Sequence[CachedRows]) -> CachedRows:
    """The rows of several stores: each key from the first that has it. Raises CacheError where others disagree."""
    rows = stores[0]
    for other in stores[1:]:
        _require_equal(rows, other, [key for key in other.place if key in rows.place])
        offset = len(rows.files)
        place = {key: (file + offset, row) for key, (file, row) in other.place.items()} | rows.place
        failures = {key: reason for key, reason in (other.failures | rows.failures).items() if key not in place}
        rows = CachedRows([*rows.files, *other.files], place, failures)
    common_classifier(rows.files)
    return rows


def _require_equal(a: CachedRows, b: CachedRows, keys: Sequence[str]) -> None:
    """Raise CacheError unless images are the same, and values within the rounding of two machines."""
    if other := next((key for key in keys if a.sha256(key) != b.sha256(key)), None):
        raise CacheError(f"{_both(a, b, other)} were made from different images of {other!r}: extract one of them "
                         "again with --recheck, or merge under different keys")
    start = 0
    for left, right in zip(a.blocks(keys), b.blocks(keys), strict=True):
        left, right = left.astype(np.float32), right.astype(np.float32)
        distance = np.linalg.norm(left - right, axis=1)
        bound = TOLERANCE[a.files[0].recipe.precision] * np.linalg.norm(left, axis=1)
        if not (distance <= bound).all():
            row = int(np.argmax(distance - bound))
            key = keys[start + row]
            raise CacheError(f"{_both(a, b, key)} have different values for {key!r} under one recipe (they are "
                             f"{distance[row]:.3g} apart): one of them is wrong; compare them with `cache diff`")
        start += len(left)


def _both(a: CachedRows, b: CachedRows, key: str) -> str:
    return " and ".join(str(rows.files[rows.place[key][0]].path) for rows in (a, b))


def _replaced(out: Store, recipe: Recipe, sources: Sequence[CachedRows], keys: Sequence[str], state: FileState
              ) -> tuple[FeatureFile, int]:
    """The finished file of all these rows, new unless it holds exactly them already; of how many files and shards."""
    rows = _unite([state.rows, *sources])
    file, present = state.finished, [key for key in keys if key in rows.place]
    if not (file is not None and all(is_retired(shard.path) for shard in state.shards)
            and file.keys.tolist() == present and file.failures == rows.failures
            and all(rows.place[key][0] == 0 for key in present)
            and (file.classifier is not None or common_classifier(rows.files) is None)):
        file = replace_finished(out, recipe, rows.files[0].dim, keys, state, rows)
    return file, len(rows.files)
