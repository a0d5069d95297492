"""Small real stores whose labels are known, with signal planted where a test wants it."""

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from twofold.cache.feature_writer import write_feature_file
from twofold.cache.recipe import Recipe
from twofold.data.labels import basic_pair, builtin_taxonomy
from twofold.fuse.core.settings import resolve

CLASSES = builtin_taxonomy("cexpr7").classes
SPLITS = ("train", "train", "train", "val", "test")


def recipe(name: str, **changes) -> Recipe:
    base = {"backbone": f"timm:{name}", "architecture": name, "weights": "sha256:" + "0" * 64, "tap": "pool",
            "preprocessing": {"size": 32}, "view": {"name": "original"}, "decoder": "pillow-rgb-1",
            "precision": "fp32", "dtype": "float16"}
    return Recipe(**(base | changes))


def write_manifest(folder: Path, rows: list[tuple]) -> None:
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("key", "split", "basic", "compound", "group"), *rows])


def write_store(place: Path, streams=None, *, name="store", rows=420, seed=0, noise=0.3, basic_only=0,
                groups=None, splits=SPLITS, views=("original",), changes=None, drop=()) -> Path:
    """Write a store of `rows` faces into `place`; returns its path.

    streams: name to (which of the label's two halves it shows, dimension): 'a' tells classes 0-1, 2-3, 4-5, 6 apart,
    'b' the odd from the even, 'ab' all, '' nothing. A face's basic label is one of its pair for every other face;
    every `basic_only`-th face has no compound label.
    """
    folder = place / name
    folder.mkdir()
    generator = np.random.default_rng(seed)
    label = generator.permutation(np.arange(rows) % 7)
    keys = [f"{name}/{row:05d}.png" for row in range(rows)]
    lines = []
    for row in range(rows):
        hidden = basic_only and row % basic_only == 0
        basic = basic_pair(CLASSES[label[row]])[row // 2 % 2]
        lines.append((keys[row], splits[row % len(splits)], basic if row % 2 or hidden else "",
                      "" if hidden else CLASSES[label[row]], groups[row] if groups is not None else ""))
    write_manifest(folder, lines)
    for number, (stream, (half, dim)) in enumerate((streams or {"a": ("a", 12), "b": ("b", 8)}).items()):
        code = {"a": label // 2, "b": label % 2, "ab": label, "": label * 0}[half]
        centres = np.random.default_rng(number).standard_normal((7, dim)) * 1.5
        kept = [row for row in range(rows) if (stream, row) not in drop]
        for view in views:
            features = centres[code] + noise * generator.standard_normal((rows, dim))
            how = recipe(stream, view={"name": view}, **(changes or {}))
            write_feature_file(folder / f"{stream}.{view}.h5", recipe=how, dim=dim,
                              keys=[keys[row] for row in kept],
                              sha256=[f"{seed * 10**6 + row:064x}" for row in kept],
                              features=features[kept].astype(how.dtype), failures={})
    return folder


@pytest.fixture
def make_store(tmp_path):
    """Write a store beside what else the test has: `write_store`."""
    return partial(write_store, tmp_path)


def quick(**given):
    """Settings of a head that is trained in a moment, with these changes."""
    return resolve(changes={"epochs": 12, "lr": 3e-3, "warmup": 1, "hidden": 32, "seeds": 2, "batch_size": 64} | given)


def edit_manifest(store: Path, change: Callable[[int, dict], dict]) -> None:
    """Replace each row of the manifest, a dict, by what `change` makes of its number and itself."""
    path = store / "manifest.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = [change(number, row) for number, row in enumerate(csv.DictReader(file))]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def edit_record(run: Path, change: Callable[[dict], object]) -> dict:
    """Change run.json, fingerprints of changed recipes included; returns it."""
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    change(record)
    for stream in record["streams"]:
        stream["fingerprint"] = Recipe.from_json(json.dumps(stream["recipe"])).fingerprint
    (run / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return record
