"""The verb `bench cache`: the speed of feature files beside plain NumPy files, as ratios of one run."""

import gc
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twofold.cache.feature_file import FeatureFile
from twofold.cache.feature_writer import write_feature_file
from twofold.cache.recipe import Recipe
from twofold.cache.report import table

SCATTERED_ROWS = 20_000
REPEATS = 5
READ_LIMIT = 0.75  #: of np.load's speed, that a verified full read should reach


@dataclass(frozen=True)
class Timing:
    """The fastest of a few runs. ratio: how many times as fast as `baseline`."""

    what: str
    seconds: float
    baseline: str
    ratio: float


@dataclass(frozen=True)
class CacheBench:
    """Timings of one run on one machine; compare the ratios, not the seconds."""

    rows: int
    dim: int
    timings: list[Timing]

    def record(self) -> dict[str, Any]:
        return asdict(self) | {"limit": self.limit()}

    def limit(self) -> str:
        """Whether a verified full read is as fast as it should be, in a sentence."""
        ratio = next(timing.ratio for timing in self.timings if timing.what.startswith("full read"))
        verdict = "within" if ratio >= READ_LIMIT else "below"
        return f"a verified full read has {ratio:.2f} of np.load's speed, {verdict} the limit of {READ_LIMIT}"

    def text(self) -> str:
        rows = [(timing.what, f"{timing.seconds * 1e3:.1f} ms", f"{timing.ratio:.2f} x", timing.baseline)
                for timing in self.timings]
        return "\n".join([f"{self.rows} x {self.dim} float16, the fastest of {REPEATS}, file cache warm",
                          *table([("", "time", "speed", "of"), *rows]), f"{self.limit()}."])


def bench_cache(*, rows: int, dim: int, folder: Path | None = None) -> CacheBench:
    """Write and read (rows, dim) float16 as a feature file and as a NumPy file.

    folder: where the files are written and removed again, by default the temporary folder. Raises OSError.
    """
    with tempfile.TemporaryDirectory(dir=folder) as name:
        features = np.random.default_rng(0).standard_normal((rows, dim), np.float32).astype(np.float16)
        return CacheBench(rows, dim, _timings(Path(name), features))


def _timings(folder: Path, features: np.ndarray) -> list[Timing]:
    ours, plain = folder / "ours.h5", folder / "plain.npy"
    scattered = np.random.default_rng(1).choice(len(features), min(SCATTERED_ROWS, len(features)), replace=False)

    def timing(what: str, work: Callable[[], object], baseline: str, other: Callable[[], object]) -> Timing:
        seconds, against = _fastest(work, other)
        return Timing(what, seconds, baseline, against / seconds)

    return [
        timing("write, checksums and fsync included", lambda: _write(ours, features),
               "np.save and fsync", lambda: _save(plain, features)),
        timing("full read as float16, checksums verified", lambda: FeatureFile(ours).read(dtype=np.float16),
               "np.load", lambda: np.load(plain)),
        timing("full read as float32", lambda: FeatureFile(ours).read(),
               "np.load and astype", lambda: np.load(plain).astype(np.float32)),
        timing(f"{len(scattered)} scattered rows", lambda: FeatureFile(ours).read_rows(scattered, dtype=np.float16),
               "np.load mapped", lambda: np.load(plain, mmap_mode="r")[np.sort(scattered)]),
        timing("open and check the header", lambda: FeatureFile(ours).header,
               "np.load mapped", lambda: np.load(plain, mmap_mode="r")),
    ]


def _write(path: Path, features: np.ndarray) -> None:
    recipe = Recipe(backbone="bench", architecture="none", weights="random:0", tap="none", preprocessing={},
                    view={"name": "original"}, decoder="none", precision="fp32", dtype="float16")
    write_feature_file(path, recipe=recipe, dim=features.shape[1], features=features, failures={},
                      keys=[f"{row:08d}.jpg" for row in range(len(features))], sha256=[b"0" * 64] * len(features))


def _save(path: Path, features: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, features)
        file.flush()
        os.fsync(file.fileno())


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
