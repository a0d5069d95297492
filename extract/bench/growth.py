"""A store of drawn features, and what `extract` does with it besides encoding: for `bench growth`."""

import csv
import time
from pathlib import Path

import numpy as np

from twofold.cache.parts.parts import publish_part
from twofold.cache.parts.rows import Rows
from twofold.cache.recipe import Recipe
from twofold.cache.store import Store
from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import read_manifest
from twofold.extract.plan import ExtractOptions, FilePlan, WantedFile, plan
from twofold.extract.run import finish

DIMS = {"drawn_a": 256, "drawn_b": 256}  #: numbers a face of each stream
FACES_A_GROUP = 20


def recipes() -> list[Recipe]:
    return [Recipe(backbone=name, architecture="none", weights="random:0", tap="none", preprocessing={},
                   view={"name": "original"}, decoder="none", precision="fp32", dtype="float16") for name in DIMS]


def draw_store(path: Path, faces: int) -> None:
    """A manifest of seven compound classes, and parts of noise around a mean for each class, as a run leaves them."""
    classes, draw = builtin_taxonomy("cexpr7").classes, np.random.default_rng(0)
    label, keys = draw.integers(0, len(classes), faces), [f"images/{row:08d}.jpg" for row in range(faces)]
    group = np.arange(faces) // FACES_A_GROUP
    split = np.where(group % 10 < 7, "train", np.where(group % 10 < 8, "val", "test"))
    path.mkdir(parents=True)
    with Store(path).manifest_path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(
            [("key", "split", "basic", "compound", "group"),
             *zip(keys, split, [""] * faces, np.array(classes)[label], group, strict=True)])
    hashes = [f"{row:064x}" for row in range(faces)]
    for recipe in recipes():
        dim = DIMS[recipe.backbone]
        means = draw.standard_normal((len(classes), dim), np.float32)
        for start in range(0, faces, ExtractOptions().rows_a_part):
            rows = slice(start, start + ExtractOptions().rows_a_part)
            features = means[label[rows]] + 4 * draw.standard_normal((len(label[rows]), dim), np.float32)
            publish_part(Store(path), recipe, dim, Rows(keys=keys[rows], sha256=hashes[rows],
                                                        features=features.astype(np.float16)))


def plan_store(path: Path) -> float:
    """What `extract` does before it computes: the manifest, and what is there of each file, read back whole."""
    began = time.perf_counter()
    plans = _plans(path)
    assert not any(file.missing.any() for file in plans)
    return time.perf_counter() - began


def assemble_store(path: Path) -> float:
    """What it does after that: finished files from parts."""
    plans = _plans(path)
    keys, began = list(read_manifest(Store(path).manifest_path).keys), time.perf_counter()
    assert all(finish(Store(path), plans, keys))
    return time.perf_counter() - began


def _plans(path: Path) -> list[FilePlan]:
    keys = list(read_manifest(Store(path).manifest_path).keys)
    wanted = [WantedFile(recipe, DIMS[recipe.backbone]) for recipe in recipes()]
    return plan(Store(path), keys, wanted, options=ExtractOptions())
