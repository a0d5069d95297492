"""The verb `bench fuse`: our training loop against its floor and against what people write otherwise, in one run."""

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from data.errors import InputError
from fuse.report import columns

CLASSES = 14
SAMPLE = 3_000  #: rows of the slow contenders on the large size; their time is scaled up


@dataclass(frozen=True)
class Size:
    """One piece of work: rows x dim features, hidden units, faces a step."""

    name: str
    rows: int
    dim: int
    hidden: int = 512
    batch: int = 128
    epochs: int = 4


SIZES = (Size("rafce", 3_162, 2_816), Size("large", 100_000, 4_096, epochs=1))


@dataclass(frozen=True)
class Timing:
    """Seconds of an epoch of one seed's work (of all seeds together for `seeds` > 1), and the peak of memory added."""

    size: str
    what: str
    seeds: int
    seconds: float
    megabytes: float
    floors: float  #: seconds over those of the bare matrix products of the same seeds


@dataclass(frozen=True)
class FuseBench:
    """Timings of one run on one machine; the ratios travel, the seconds do not."""

    timings: list[Timing]
    threads: int

    def record(self) -> dict:
        return {"threads": self.threads, "timings": [asdict(one) for one in self.timings]}

    def text(self) -> str:
        rows = [("size", "what", "seeds", "s an epoch", "x floor", "ours is faster by", "peak MB")]
        ours = {(one.size, one.seeds): one.seconds for one in self.timings if one.what == "ours, fp32"}
        rows += [(one.size, one.what, str(one.seeds), f"{one.seconds:.3f}", f"{one.floors:.2f}",
                  f"{one.seconds / ours[one.size, one.seeds]:.2f}", f"{one.megabytes:.0f}") for one in self.timings]
        lines = [f"{one.name}: {one.rows} x {one.dim}, hidden {one.hidden}, batch {one.batch}" for one in SIZES
                 if any(timing.size == one.name for timing in self.timings)]
        eight = [f"{size}: eight seeds together take {ours[size, 8] / ours[size, 1]:.2f} times one"
                 for size in dict.fromkeys(one.size for one in self.timings) if (size, 8) in ours]
        return "\n".join([*lines, f"{self.threads} threads, each contender in a process of its own", "",
                          *columns(rows), "", *eight])


def bench_fuse(*, sizes: tuple[str, ...] = ("rafce",), say: Callable[[str], None] = lambda text: None) -> FuseBench:
    """Time an epoch of an MLP head for each named size, one seed and eight. Raises InputError for an unknown size."""
    import torch

    known = {size.name: size for size in SIZES}
    for name in sizes:
        if name not in known:
            raise InputError(f"unknown size {name!r}: choose from {', '.join(known)}")
    timings: list[Timing] = []
    for size in (known[name] for name in sizes):
        for seeds in (1, 8):
            contenders = {"bare matrix products": floor, "ours, fp32": ours, "ours, bf16": ours_bf16}
            if seeds == 1:
                contenders |= {"DataLoader over HDF5": dataloader, "scikit-learn MLPClassifier": sklearn_mlp}
            for what, contender in contenders.items():
                say(f"{size.name}: {what}, {seeds} seeds")
                seconds, megabytes = _apart(contender, size, seeds)
                timings.append(Timing(size.name, what, seeds, seconds, megabytes, floors=1.0))
    floors = {(one.size, one.seeds): one.seconds for one in timings if one.what == "bare matrix products"}
    compared = [Timing(**{**asdict(one), "floors": one.seconds / floors[one.size, one.seeds]}) for one in timings]
    return FuseBench(compared, torch.get_num_threads())


def floor(size: Size, seeds: int) -> tuple[float, float]:
    """The products of forward and backward pass alone, operands in place: nothing that trains can be faster."""
    import torch

    x, h, g = (torch.randn(seeds, size.batch, width) for width in (size.dim, size.hidden, CLASSES))
    first, last = torch.randn(seeds, size.dim, size.hidden), torch.randn(seeds, size.hidden, CLASSES)
    gf, gl, gh = torch.empty_like(first), torch.empty_like(last), torch.empty_like(h)
    before = _peak()

    def epoch() -> None:
        for _ in range(size.epochs * -(-size.rows // size.batch)):
            torch.bmm(x, first, out=h)
            torch.bmm(h, last)
            torch.bmm(h.transpose(1, 2), g, out=gl)
            torch.bmm(g, last.transpose(1, 2), out=gh)
            torch.bmm(x.transpose(1, 2), gh, out=gf)

    return _timed(epoch) / size.epochs, _peak() - before


def ours(size: Size, seeds: int) -> tuple[float, float]:
    """`fuse.train.train` on resident features, validation on a hundred faces."""
    return _ours(size, seeds, "fp32")


def ours_bf16(size: Size, seeds: int) -> tuple[float, float]:
    """The same with bfloat16 products."""
    return _ours(size, seeds, "bf16")


def _ours(size: Size, seeds: int, precision: str) -> tuple[float, float]:
    import torch

    from fuse.examples import Examples, Scale
    from fuse.heads import Spec, build
    from fuse.layers import initialise
    from fuse.settings import PRESETS, Settings, settings_from
    from fuse.train import train

    x, y = _data(size.rows, size.dim)
    before = _peak()
    spec = Spec(kind="mlp", dims=(size.dim,), classes=tuple(map(str, range(CLASSES))), members=seeds,
                hidden=size.hidden)
    settings = settings_from(PRESETS["paper"] | {"epochs": size.epochs, "batch_size": size.batch, "seeds": seeds})
    scale = Scale(mean=np.zeros(size.dim, np.float32), std=np.ones(size.dim, np.float32))

    def examples(rows: int) -> Examples:
        return Examples(rows=np.arange(rows), label=y[:rows], basic=np.zeros((rows, 8), np.float32),
                        basic_label=np.full(rows, -1), read=lambda some: x[some], scale=scale,
                        device=torch.device("cpu"), x=torch.from_numpy(x[:rows]))

    data, val = examples(size.rows), examples(100)
    warm = replace(settings, epochs=1)

    def run(how: Settings, some: Examples) -> None:
        head = build(spec)
        initialise(head, range(seeds))
        train(head, some, val, spec=spec, settings=how, seeds=range(seeds), precision=precision)

    run(warm, val)
    started = time.perf_counter()
    run(settings, data)
    return (time.perf_counter() - started) / size.epochs, _peak() - before


def dataloader(size: Size, seeds: int) -> tuple[float, float]:
    """What tutorials do: a Dataset that reads one row of an HDF5 file at a time, a DataLoader, an nn.Sequential."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, Dataset

    from cache.bench_rows import rows_of_hdf5

    rows = min(size.rows, SAMPLE) if size.rows > 10 * SAMPLE else size.rows
    x, y = _data(rows, size.dim)
    with tempfile.TemporaryDirectory() as folder, rows_of_hdf5(Path(folder) / "x.h5", x) as stored:
        before = _peak()

        class Rows(Dataset):
            def __len__(self) -> int:
                return rows

            def __getitem__(self, row: int):
                return torch.from_numpy(stored[row].astype(np.float32)), int(y[row])

        head = nn.Sequential(nn.Linear(size.dim, size.hidden), nn.ReLU(), nn.Linear(size.hidden, CLASSES))
        optimiser = torch.optim.Adam(head.parameters(), lr=1e-3)
        loader = DataLoader(Rows(), batch_size=size.batch, shuffle=True)

        def epoch() -> None:
            for batch, labels in loader:
                optimiser.zero_grad()
                nn.functional.cross_entropy(head(batch), labels).backward()
                optimiser.step()

        return _timed(epoch) * size.rows / rows, _peak() - before


def sklearn_mlp(size: Size, seeds: int) -> tuple[float, float]:
    """scikit-learn's MLPClassifier with the same layer, batch and optimiser, features in memory."""
    import warnings

    from sklearn.neural_network import MLPClassifier

    rows = min(size.rows, SAMPLE) if size.rows > 10 * SAMPLE else size.rows
    x, y = _data(rows, size.dim)
    before = _peak()
    model = MLPClassifier((size.hidden,), batch_size=size.batch, max_iter=size.epochs, n_iter_no_change=10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has not converged: only its time is asked for
        started = time.perf_counter()
        model.fit(x, y)
    return (time.perf_counter() - started) / size.epochs * size.rows / rows, _peak() - before


def _data(rows: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.standard_normal((rows, dim), np.float32), np.arange(rows) % CLASSES


def _timed(epoch: Callable[[], None]) -> float:
    """Seconds of the second of two runs."""
    epoch()
    started = time.perf_counter()
    epoch()
    return time.perf_counter() - started


def _peak() -> float:
    """Peak resident memory of this process in MB (Linux counts kilobytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _apart(contender: Callable[[Size, int], tuple[float, float]], size: Size, seeds: int) -> tuple[float, float]:
    """Run a contender in a fresh process: its peak of memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(contender, (size, seeds))
