"""Stores into one: different backbones and views side by side, different faces of one recipe in one file."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from twofold.cache.errors import CacheError
from twofold.cache.format.featurefile import BLOCK_ROWS, FeatureFile
from twofold.cache.parts import RETIRED, Holdings, assemble_from, classifier_of, parts_by_age, stock_of
from twofold.cache.recipe import Recipe
from twofold.cache.store import Store

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

    What `out` holds already takes part, so that a merge that was cut off goes on. Nothing is written before all is
    compared. Raises CacheError naming the key for which two stores hold another image or another value, and for a
    file that cannot be read.
    """
    stores = list({store.path.resolve(): store for store in [out, *stores]}.values())
    recipes = {recipe.fingerprint: recipe for store in stores for recipe in _recipes(store)}
    agreed = [_agreed([_held(store, recipe, kept=store is out) for store in stores]) for recipe in recipes.values()]
    out.path.mkdir(parents=True, exist_ok=True)
    return Merged(out.path, len(keys), [_write(out, recipe, held, keys)
                                        for recipe, held in zip(recipes.values(), agreed, strict=True)])


def _recipes(store: Store) -> list[Recipe]:
    return [file.recipe for file in [*store.files(), *store.parts()]]


def _held(store: Store, recipe: Recipe, *, kept: bool) -> Holdings:
    """What a store holds of a recipe; `kept`: with the rows of faces that have left its manifest."""
    files = [file for file in store.files() if file.fingerprint == recipe.fingerprint]
    parts = [FeatureFile(path) for path in parts_by_age(store, recipe) if kept or not path.name.startswith(RETIRED)]
    for part in parts:
        part.check()
    return stock_of(files + parts)


def _agreed(holdings: Sequence[Holdings]) -> Holdings:
    """One of several: each key from the first that has it, if the others have the same of it."""
    whole = holdings[0]
    for other in holdings[1:]:
        shared = [key for key in other.where if key in whole.where]
        _require_same_images(whole, other, shared)
        _require_same_values(whole, other, shared)
        offset = len(whole.sources)
        where = {key: (source + offset, row) for key, (source, row) in other.where.items()} | whole.where
        failures = {key: reason for key, reason in (other.failures | whole.failures).items() if key not in where}
        whole = Holdings([*whole.sources, *other.sources], where, failures)
    classifier_of(whole.sources)
    return whole


def _require_same_images(a: Holdings, b: Holdings, keys: Sequence[str]) -> None:
    for key in keys:
        if a.sha256(key) != b.sha256(key):
            raise CacheError(f"{_both(a, b, key)} were made from different images of {key!r}: extract one of them "
                             f"again with --recheck, or merge under different keys")


def _require_same_values(a: Holdings, b: Holdings, keys: Sequence[str]) -> None:
    for start, left, right in zip(range(0, len(keys), BLOCK_ROWS), a.blocks(keys), b.blocks(keys), strict=True):
        left, right = left.astype(np.float32), right.astype(np.float32)
        apart = np.linalg.norm(left - right, axis=1)
        bound = TOLERANCE[a.sources[0].recipe.precision] * np.linalg.norm(left, axis=1)
        if not (apart <= bound).all():  # written so that it holds for what is not a number, too
            row = int(np.argmax(apart - bound))
            key = keys[start + row]
            raise CacheError(f"{_both(a, b, key)} have different values for {key!r} under one recipe (they are "
                             f"{apart[row]:.3g} apart): one of them is wrong; compare them with `cache diff`")


def _both(a: Holdings, b: Holdings, key: str) -> str:
    return " and ".join(str(held.sources[held.where[key][0]].path) for held in (a, b))


def _write(out: Store, recipe: Recipe, held: Holdings, keys: Sequence[str]) -> MergedFile:
    present = [key for key in keys if key in held.where]
    file = held.sources[0]
    if not _is_current(file, out.path_of(recipe), held, present):
        file = assemble_from(held, out, recipe, file.dim, keys)
    return MergedFile(file.path.name, file.backbone, file.view, file.rows, file.failed, len(held.sources))


def _is_current(file: FeatureFile, path: Path, held: Holdings, keys: Sequence[str]) -> bool:
    """True if the first source is the finished file itself, and nothing would change in it."""
    return (file.path == path and file.keys.tolist() == keys and file.failures == held.failures
            and all(held.where[key][0] == 0 for key in keys)
            and (file.classifier is not None or classifier_of(held.sources) is None))
