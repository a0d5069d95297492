"""The verb `bench cache`: the speed of feature files beside plain NumPy files, as ratios of one run."""

import gc
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from twofold.cache.feature_file import FeatureFile
from twofold.cache.feature_writer import write_feature_file
from twofold.cache.recipe import Recipe
from twofold.cache.report import table
from twofold.data.utils.terminal import Summary

SCATTERED_ROWS = 20_000
REPEATS = 5
FULL_READ = "full read as float16, checksums verified"
READ_LIMIT = 0.75  #: of np.load's speed, that a verified full read should reach


def bench_cache(*, rows: int, dim: int, folder: Path | None = None) -> Summary:
    """Write and read (rows, dim) float16 as a feature file and as a NumPy file; compare the ratios, not the seconds.

    folder: where the files are written and removed again, by default the temporary folder. Raises OSError.
    """
    recipe = Recipe(backbone="bench", architecture="none", weights="random:0", tap="none", preprocessing={},
                    view={"name": "original"}, decoder="none", precision="fp32", dtype="float16")
    features = np.random.default_rng(0).standard_normal((rows, dim), np.float32).astype(np.float16)
    scattered = np.random.default_rng(1).choice(rows, min(SCATTERED_ROWS, rows), replace=False)
    keys, hashes = [f"{row:08d}.jpg" for row in range(rows)], [b"0" * 64] * rows
    with tempfile.TemporaryDirectory(dir=folder) as name:
        ours, plain = Path(name, "ours.h5"), Path(name, "plain.npy")

        def save() -> None:
            with plain.open("wb") as file:
                np.save(file, features)
                file.flush()
                os.fsync(file.fileno())

        contests: list[tuple[str, Callable[[], object], str, Callable[[], object]]] = [
            ("write, checksums and fsync included", lambda: write_feature_file(
                ours, recipe=recipe, dim=dim, keys=keys, sha256=hashes, features=features, failures={}),
             "np.save and fsync", save),
            (FULL_READ, lambda: FeatureFile(ours).read(dtype=np.float16), "np.load", lambda: np.load(plain)),
            ("full read as float32", lambda: FeatureFile(ours).read(),
             "np.load and astype", lambda: np.load(plain).astype(np.float32)),
            (f"{len(scattered)} scattered rows", lambda: FeatureFile(ours).read_rows(scattered, dtype=np.float16),
             "np.load mapped", lambda: np.load(plain, mmap_mode="r")[np.sort(scattered)]),
            ("open and check the header", lambda: FeatureFile(ours).header,
             "np.load mapped", lambda: np.load(plain, mmap_mode="r"))]
        timings = []
        for what, work, baseline, other in contests:
            seconds, against = _fastest(work, other)
            timings.append({"what": what, "seconds": seconds, "baseline": baseline, "ratio": against / seconds})
    ratio = next(timing["ratio"] for timing in timings if timing["what"] == FULL_READ)
    limit = (f"a verified full read has {ratio:.2f} of np.load's speed, {'within' if ratio >= READ_LIMIT else 'below'} "
             f"the limit of {READ_LIMIT}")
    return Summary(values={"rows": rows, "dim": dim, "timings": timings, "limit": limit}, lines=[
        f"{rows} x {dim} float16, the fastest of {REPEATS}, file cache warm",
        *table([("", "time", "speed", "of"), *(
            (timing["what"], f"{timing['seconds'] * 1e3:.1f} ms", f"{timing['ratio']:.2f} x", timing["baseline"])
            for timing in timings)]), f"{limit}."])


def _fastest(*works: Callable[[], object]) -> list[float]:
    """Seconds of the fastest run of each, taken in turn so that a slow moment of the machine affects all alike."""
    best = [float("inf")] * len(works)
    for _ in range(REPEATS):
        for number, work in enumerate(works):
            gc.collect()
            began = time.perf_counter()
            result = work()
            best[number] = min(best[number], time.perf_counter() - began)
            del result
    return best
