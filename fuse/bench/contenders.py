"""What `bench fuse` times: one epoch of an MLP's training, done by us, by others, and by its matrix products alone.

Each returns the seconds of an epoch and the megabytes that its peak of memory adds to the imports.
"""

import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CLASSES = 14
SECONDS = 3.0  #: that a contender is timed for at least
SAMPLE = 3_000  #: rows of the slow contenders on a large size; their time is scaled up


@dataclass(frozen=True)
class Size:
    """One piece of work: rows x the streams' dims of features, hidden units, faces a step.

    repeats: the fastest counts, which other work on the machine has disturbed least.
    """

    name: str
    rows: int
    dims: tuple[int, ...]
    hidden: int = 512
    batch: int = 128
    epochs: int = 8
    repeats: int = 3

    @property
    def dim(self) -> int:
        return sum(self.dims)

    @property
    def sampled(self) -> int:
        """Rows for the slow contenders."""
        return self.rows if self.rows <= 10 * SAMPLE else SAMPLE


def floor(size: Size, seeds: int) -> tuple[float, float]:
    """The products of forward and backward pass alone, operands in place: nothing that trains can be faster."""
    import torch

    before = _megabytes("VmRSS")
    x, h, g = (torch.randn(seeds, size.batch, width) for width in (size.dim, size.hidden, CLASSES))
    first, last = torch.randn(seeds, size.dim, size.hidden), torch.randn(seeds, size.hidden, CLASSES)
    gf, gl, gh = torch.empty_like(first), torch.empty_like(last), torch.empty_like(h)

    def epoch() -> None:
        for _ in range(-(-size.rows // size.batch)):
            torch.bmm(x, first, out=h)
            torch.bmm(h, last)
            torch.bmm(h.transpose(1, 2), g, out=gl)
            torch.bmm(g, last.transpose(1, 2), out=gh)
            torch.bmm(x.transpose(1, 2), gh, out=gf)

    return _fastest(epoch, size), _megabytes("VmHWM") - before


def ours(size: Size, seeds: int, *, precision: str) -> tuple[float, float]:
    """`fuse.training.loop.train`, as `fuse` calls it, on resident features; validation on a hundred faces."""
    import torch

    from twofold.fuse.heads.registry import build
    from twofold.fuse.heads.spec import Spec
    from twofold.fuse.heads.stacked_layers import initialise
    from twofold.fuse.settings import PRESETS, settings_from
    from twofold.fuse.training.loop import train
    from twofold.fuse.training.standardised import Examples, Scale

    before = _megabytes("VmRSS")
    x, y = _data(size, size.rows)
    spec = Spec(kind="mlp", dims=size.dims, classes=tuple(map(str, range(CLASSES))), members=seeds, hidden=size.hidden)
    settings = settings_from(PRESETS["paper"] | {"epochs": size.epochs, "batch_size": size.batch, "seeds": seeds})
    scale = Scale(mean=np.zeros(size.dim, np.float32), std=np.ones(size.dim, np.float32))

    def examples(rows: int) -> Examples:
        return Examples(rows=np.arange(rows), label=y[:rows], basic=np.zeros((rows, 8), np.float32),
                        basic_label=np.full(rows, -1), read=lambda faces: x[faces], scale=scale,
                        device=torch.device("cpu"), x=torch.from_numpy(x[:rows]))

    data, val = examples(size.rows), examples(100)

    def run() -> None:
        head = build(spec)
        initialise(head, range(seeds))
        train(head, data, val, spec=spec, settings=settings, seeds=range(seeds), precision=precision)

    return _fastest(run, size) / size.epochs, _megabytes("VmHWM") - before


def reading(size: Size, seeds: int) -> tuple[float, float]:
    """What comes before our first epoch, once: the feature files read, checked, joined and standardised."""
    from twofold.cache.format.featurefile import FeatureFile
    from twofold.fuse.training.standardised import measure

    with _written(size) as paths:
        before = _megabytes("VmRSS")

        def read() -> None:
            x = np.concatenate([FeatureFile(path).read() for path in paths], axis=1)
            measure(lambda rows: x[rows], np.arange(len(x))).apply(x)

        return _fastest(read, size) * size.rows / size.sampled, _megabytes("VmHWM") - before


def dataloader(size: Size, seeds: int) -> tuple[float, float]:
    """What one would write over this cache: a Dataset that takes a row of each feature file, and a DataLoader."""
    from twofold.cache.bench.bench_rows import rows_of_featurefiles

    with _written(size) as paths, rows_of_featurefiles(paths) as streams:
        return _loop(size, lambda row: np.concatenate([stream[row] for stream in streams]).astype(np.float32))


def dataloader_plain(size: Size, seeds: int) -> tuple[float, float]:
    """The same loop at its best: the streams in one contiguous float32 dataset without checksums."""
    from twofold.cache.bench.bench_rows import rows_of_hdf5

    with tempfile.TemporaryDirectory() as folder, rows_of_hdf5(
            Path(folder) / "x.h5", _data(size, size.sampled)[0]) as stored:
        return _loop(size, lambda row: stored[row])


def _loop(size: Size, read: Callable[[int], np.ndarray]) -> tuple[float, float]:
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, Dataset

    class Rows(Dataset):
        def __len__(self) -> int:
            return size.sampled

        def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
            return torch.from_numpy(read(row)), row % CLASSES

    before = _megabytes("VmRSS")
    head = nn.Sequential(nn.Linear(size.dim, size.hidden), nn.ReLU(), nn.Linear(size.hidden, CLASSES))
    optimiser = torch.optim.Adam(head.parameters(), lr=1e-3)
    loader = DataLoader(Rows(), batch_size=size.batch, shuffle=True)

    def epoch() -> None:
        for batch, labels in loader:
            optimiser.zero_grad()
            nn.functional.cross_entropy(head(batch), labels).backward()
            optimiser.step()

    return _fastest(epoch, size) * size.rows / size.sampled, _megabytes("VmHWM") - before


def sklearn_mlp(size: Size, seeds: int) -> tuple[float, float]:
    """scikit-learn's MLPClassifier with the same layer, batch and optimiser, features in memory."""
    from sklearn.neural_network import MLPClassifier

    before = _megabytes("VmRSS")
    x, y = _data(size, size.sampled)
    model = MLPClassifier((size.hidden,), batch_size=size.batch, max_iter=size.epochs,  # type: ignore[arg-type]
                          n_iter_no_change=10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has not converged: only its time is asked for
        seconds = _fastest(lambda: model.fit(x, y), size)
    return seconds / size.epochs * size.rows / size.sampled, _megabytes("VmHWM") - before


def _data(size: Size, rows: int) -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(0).standard_normal((rows, size.dim), np.float32), np.arange(rows) % CLASSES


@contextmanager
def _written(size: Size) -> Iterator[list[Path]]:
    """Feature files as `extract` writes them, one a stream, of the sampled rows."""
    from twofold.cache.format.write import write_featurefile
    from twofold.cache.recipe import Recipe

    generator, keys = np.random.default_rng(0), [f"{row:06d}.png" for row in range(size.sampled)]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.h5" for number in range(len(size.dims))]
        for number, (path, dim) in enumerate(zip(paths, size.dims, strict=True)):
            recipe = Recipe(backbone=f"bench:{number}", architecture="bench", weights="random:0", tap="none",
                            preprocessing={}, view={"name": "original"}, decoder="none", precision="fp32",
                            dtype="float16")
            blocks = (generator.standard_normal((len(keys[start:start + 256]), dim), np.float32).astype(np.float16)
                      for start in range(0, len(keys), 256))
            write_featurefile(path, recipe=recipe, dim=dim, keys=keys, sha256=["0" * 64] * len(keys), features=blocks,
                              failures={})
        yield paths


def _fastest(work: Callable[[], object], size: Size) -> float:
    """Seconds of the fastest of several runs, after one to warm up; of a long one, where it warms up by itself, one."""
    if size.repeats > 1:
        work()
    seconds: list[float] = []
    while len(seconds) < size.repeats or (size.repeats > 1 and sum(seconds) < SECONDS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _megabytes(entry: str) -> float:
    """Memory of this process, VmRSS now or VmHWM at its peak; where the system does not say, the peak by rusage, which
    counts that of the process it was forked from, too."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{entry}:")) / 1e3
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
