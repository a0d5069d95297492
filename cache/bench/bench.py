"""How near the feature file comes to plain files, and what other layouts of HDF5 would cost: ratios of one run."""

import gc
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from twofold.cache.child import child
from twofold.cache.format.featurefile import FeatureFile
from twofold.cache.format.header import BLOCK_OF_CHECKSUM as CHUNK_ROWS
from twofold.cache.format.write import write_featurefile
from twofold.cache.recipe import Recipe
from twofold.cache.report import table

SCATTERED = 20_000  #: rows of the scattered read
GROUPED = 5_000  #: rows of the group-an-image layout: more would take minutes
REPEATS = 5


@dataclass(frozen=True)
class Timing:
    """The fastest of a few runs, and what it is compared with."""

    what: str
    seconds: float
    against: str
    ratio: float  #: how many times as fast as the other; 1 is as fast


@dataclass(frozen=True)
class CacheBench:
    """Timings of one run on one machine; the ratios travel, the seconds do not."""

    rows: int
    dim: int
    timings: list[Timing]
    read_peak: float  #: peak memory of a full read over the size of the array returned

    def record(self) -> dict:
        return {"rows": self.rows, "dim": self.dim, "read_peak": self.read_peak,
                "timings": [vars(timing) for timing in self.timings]}

    def text(self) -> str:
        rows = [(timing.what, f"{timing.seconds * 1e3:.1f} ms", f"{timing.ratio:.2f} x", timing.against)
                for timing in self.timings]
        return "\n".join([f"{self.rows} x {self.dim} float16, the fastest of {REPEATS}, file cache warm",
                          *table([("", "time", "speed", "of"), *rows]),
                          f"peak memory of a full read: {self.read_peak:.2f} x the array"])


def bench_cache(*, rows: int, dim: int, folder: Path | None = None) -> CacheBench:
    """Write and read `rows` x `dim` float16 as a feature file and otherwise; needs some four times their size on disk.

    folder: where the files are written (and removed again), by default the system's temporary folder.
    """
    with tempfile.TemporaryDirectory(dir=folder) as name:
        base = Path(name)
        features = np.random.default_rng(0).standard_normal((rows, dim), np.float32).astype(np.float16)
        timings = [*_whole(base, features), *_layouts(base, features)]
        del features
        return CacheBench(rows, dim, timings, _read_peak(base / "ours.h5", rows * dim * 2))


def _whole(base: Path, features: np.ndarray) -> list[Timing]:
    ours, plain, raw = base / "ours.h5", base / "plain.npy", base / "raw"
    write, save, dump = _best({
        "ours": lambda: _write(ours, features), "npy": lambda: _synced(plain, lambda file: np.save(file, features)),
        "raw": lambda: _synced(raw, lambda file: file.write(features.data)),
    })
    scattered = np.random.default_rng(1).choice(len(features), min(SCATTERED, len(features)), replace=False)
    read, read32, load, load32, slurp, gather, everything, pick, opened, opened_npy = _best({
        "read": lambda: FeatureFile(ours).read(dtype=np.float16), "read32": lambda: FeatureFile(ours).read(),
        "load": lambda: np.load(plain), "load32": lambda: np.load(plain).astype(np.float32),
        "slurp": raw.read_bytes, "gather": lambda: FeatureFile(ours).read_rows(scattered, dtype=np.float16),
        "everything": lambda: FeatureFile(ours).read(dtype=np.float16),
        "pick": lambda: np.load(plain, mmap_mode="r")[np.sort(scattered)],
        "open": lambda: FeatureFile(ours).header, "open npy": lambda: np.load(plain, mmap_mode="r"),
    })
    return [
        _timing("write, checksums and fsync included", write, "np.save and fsync", save),
        _timing("write, checksums and fsync included", write, "raw write and fsync", dump),
        _timing("full read as float16, checksums verified", read, "np.load", load),
        _timing("full read as float16, checksums verified", read, "raw read", slurp),
        _timing("full read as float32", read32, "np.load and astype", load32),
        _timing(f"{len(scattered)} scattered rows", gather, "a full read", everything),
        _timing(f"{len(scattered)} scattered rows", gather, "np.load mapped", pick),
        _timing("open and check the header", opened, "np.load mapped", opened_npy),
        _timing("first open in a new process", _cold(ours), "the same of np.load", _cold(plain)),
    ]


def _layouts(base: Path, features: np.ndarray) -> list[Timing]:
    """Reading what others write, against reading ours: every row is read once."""
    few = features[:GROUPED]
    _write(base / "few.h5", few)
    with h5py.File(base / "groups.h5", "w") as file:
        for row, values in enumerate(few):
            file.create_group(f"{row:08d}").create_dataset("feature", data=values)
    for name, options in {"rows": {"chunks": (1, features.shape[1])},
                          "gzip": {"chunks": (CHUNK_ROWS, features.shape[1]), "compression": "gzip"}}.items():
        with h5py.File(base / f"{name}.h5", "w") as file:
            file.create_dataset("features", data=features, **options)
    ours, ours_few, groups, one_row, gzip = _best({
        "ours": lambda: FeatureFile(base / "ours.h5").read(dtype=np.float16),
        "few": lambda: FeatureFile(base / "few.h5").read(dtype=np.float16),
        "groups": lambda: _read_groups(base / "groups.h5"), "rows": lambda: _read_plain(base / "rows.h5"),
        "gzip": lambda: _read_plain(base / "gzip.h5"),
    })
    return [_timing(f"full read of {len(few)} rows", ours_few, "a group an image", groups),
            _timing("full read", ours, "chunks of one row", one_row), _timing("full read", ours, "gzip", gzip)]


def _write(path: Path, features: np.ndarray) -> None:
    recipe = Recipe(backbone="bench", architecture="none", weights="random:0", tap="none", preprocessing={},
                    view={"name": "original"}, decoder="none", precision="fp32", dtype="float16")
    keys = [f"{row:08d}.jpg" for row in range(len(features))]
    write_featurefile(path, recipe=recipe, dim=features.shape[1], keys=keys,
                      sha256=[b"0" * 64] * len(features), features=features, failures={})


def _synced(path: Path, write: Callable) -> None:
    with path.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def _read_groups(path: Path) -> np.ndarray:
    with h5py.File(path) as file:
        return np.stack([np.asarray(file[f"{name}/feature"]) for name in file])


def _read_plain(path: Path) -> np.ndarray:
    with h5py.File(path) as file:
        return np.asarray(file["features"])


def _best(works: dict[str, Callable]) -> list[float]:
    """Seconds of the fastest run of each, taken in turn so that a slow spell of the machine hits all alike."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(REPEATS):
        for name, work in works.items():
            gc.collect()
            began = time.perf_counter()
            result = work()
            best[name] = min(best[name], time.perf_counter() - began)
            del result
    return list(best.values())


def _timing(what: str, seconds: float, against: str, other: float) -> Timing:
    return Timing(what, seconds, against, other / seconds)


def _cold(path: Path) -> float:
    """Seconds to open and read one row, imports included, in a process of its own."""
    code = ("import numpy as np; np.load({0!r}, mmap_mode='r')[0]" if path.suffix == ".npy" else
            "from twofold.cache.format.featurefile import FeatureFile; import numpy as np; "
            "FeatureFile({0!r}).read_rows(np.array([0]))").format(str(path))
    began = time.perf_counter()
    subprocess.run(child(code), check=True)
    return time.perf_counter() - began


def _read_peak(path: Path, size: int) -> float:
    """Growth of a fresh process's peak memory through a full read, over the bytes it returns."""
    code = ("from twofold.cache.format.featurefile import FeatureFile; import numpy as np, re, resource, pathlib, sys\n"
            f"file = FeatureFile({str(path)!r}); file.read_rows(np.arange(1))\n"
            "def peak():\n"  # Linux: of this program alone; getrusage would tell the larger parent's
            "    status = pathlib.Path('/proc/self/status')\n"
            "    if status.exists(): return int(re.search(r'VmHWM:\\s+(\\d+)', status.read_text())[1]) * 1024\n"
            "    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "before = peak(); values = file.read(dtype=np.float16); print(peak() - before)")
    done = subprocess.run(child(code), check=True, text=True, capture_output=True)
    return int(done.stdout) / size
