"""Small real feature files to look at and to damage."""

from pathlib import Path

import numpy as np
import pytest

from twofold.cache.feature_writer import write_feature_file
from twofold.cache.recipe import Recipe
from twofold.cache.share.catalogue import CATALOGUE, ENTRIES, Entry
from twofold.cache.store import Store


def make_recipe(**changes) -> Recipe:
    base = {
        "backbone": "timm:tiny", "architecture": "timm.tiny", "weights": "random:0", "tap": "pool",
        "preprocessing": {"size": 32, "mean": [0.5, 0.5, 0.5]}, "view": {"name": "original"}, "decoder": "pillow-rgb-1",
        "precision": "fp32", "dtype": "float16",
    }
    return Recipe(**(base | changes))


@pytest.fixture
def recipe():
    """Make a recipe; keyword arguments replace fields."""
    return make_recipe


@pytest.fixture
def write(tmp_path):
    """Write a feature file of random features; returns its path and the features."""

    def make(path: Path | None = None, *, rows: int = 700, dim: int = 6, seed: int = 0, failures=None, **changes):
        path, recipe = path or tmp_path / "features.h5", make_recipe(**changes)
        features = np.random.default_rng(seed).standard_normal((rows, dim)).astype(recipe.dtype)
        write_feature_file(path, recipe=recipe, dim=dim, keys=[f"train/é {row:04d}.jpg" for row in range(rows)],
                           sha256=[f"{row:064x}" for row in range(rows)], features=features,
                           failures={"train/bad.jpg": "not an image"} if failures is None else failures)
        return path, features

    return make


@pytest.fixture
def store(tmp_path, write) -> Store:
    """A store to share: `a.h5` of 3 MB, which can break off, a small `b.h5` of another backbone, and a manifest."""
    (tmp_path / "store").mkdir()
    write(tmp_path / "store" / "a.h5", rows=3000, dim=512)
    write(tmp_path / "store" / "b.h5", rows=100, backbone="timm:other")
    (tmp_path / "store" / "manifest.csv").write_text("key\ntrain/é 0000.jpg\n", encoding="utf-8")
    return Store(tmp_path / "store")


@pytest.fixture
def back(tmp_path) -> Store:
    """Where it is pulled to."""
    return Store(tmp_path / "back", new=True)


def shared_files(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file that is shared; what only says or helps that is left out."""
    return {path.name: Entry.of(path).sha256 for path in folder.iterdir()
            if path.name not in (CATALOGUE, ENTRIES, ".lock")}
