"""Small real feature files to look at and to damage."""

from pathlib import Path

import numpy as np
import pytest

from tests.cache.version1 import write_version1
from twofold.cache.format.write import write_featurefile
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


def write_random(path: Path, *, rows: int = 700, dim: int = 6, seed: int = 0, failures=None, version: int = 2,
                 **changes) -> np.ndarray:
    """Write a feature file of random features; returns these."""
    how = make_recipe(**changes)
    failures = {"train/bad.jpg": "not an image"} if failures is None else failures
    features = np.random.default_rng(seed).standard_normal((rows, dim)).astype(how.dtype)
    keys = [f"train/é {row:04d}.jpg" for row in range(rows)]
    writer = write_version1 if version == 1 else write_featurefile
    writer(path, recipe=how, dim=dim, keys=keys, sha256=[f"{row:064x}" for row in range(rows)],
           features=features, failures=failures)
    return features


@pytest.fixture
def write(tmp_path):
    """Write a feature file of random features; returns its path and the features."""

    def make(path: Path | None = None, **how):
        path = path or tmp_path / "features.h5"
        return path, write_random(path, **how)

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
