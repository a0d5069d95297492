"""Comparing stores, for tests."""

from pathlib import Path

import numpy as np

from twofold.cache.store import Store


def values(store: Path) -> dict[tuple[str, str], tuple[list[str], np.ndarray, dict[str, str]]]:
    """Keys, features and failures of each (backbone, view)."""
    return {(file.backbone, file.view): (file.keys.tolist(), file.read(dtype=np.float16), file.failures)
            for file in Store(store).files()}


def assert_equal_stores(a: Path, b: Path) -> None:
    """Bit-equal features, equal keys in equal order, equal failures, and nothing left behind."""
    left, right = values(a), values(b)
    assert left.keys() == right.keys() and left
    for name in left:
        assert left[name][0] == right[name][0] and left[name][2] == right[name][2]
        np.testing.assert_array_equal(left[name][1], right[name][1])
    assert not (a / ".shards").exists() and not list(a.glob(".tmp-*"))
