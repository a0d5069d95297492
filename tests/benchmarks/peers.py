"""What people write instead of Twofold, beside it, as ratios of one run: `python -m tests.benchmarks.peers`.

A DataLoader over the feature files row by row, the same over one plain HDF5 dataset, scikit-learn's MLPClassifier,
and a loop of timm over a DataLoader of image files. It is no test: it runs for minutes and asserts nothing.
"""

import io
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch
from PIL import Image
from sklearn.neural_network import MLPClassifier
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from tests.extract.encoders import load_network
from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import write_manifest
from twofold.data.synthetic.dataset import draw_dataset
from twofold.extract.bench import bench_extract
from twofold.extract.streams import parse_streams
from twofold.fuse.bench import BATCH, CLASSES, EPOCHS, HIDDEN, SIZES, training_seconds

BACKBONE = "timm:mobilenetv2_100"


class Rows(Dataset):
    """N samples by a function from row number to tensor, with made-up labels."""

    def __init__(self, count: int, read: Callable[[int], torch.Tensor]):
        self.count, self.read = count, read

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self.read(row), row % CLASSES


def fuse_peers(folder: Path) -> dict[str, float]:
    """Seconds of an epoch of the size `rafce`."""
    count, streams = SIZES["rafce"]
    dim, rng = sum(streams), np.random.default_rng(0)
    x, y = rng.standard_normal((count, dim), np.float32), np.arange(count) % CLASSES
    seconds = {}
    for name, dims in (("DataLoader over two HDF5 files", streams), ("DataLoader over one HDF5 file", (dim,))):
        files = [h5py.File(folder / f"{len(dims)}-{number}.h5", "w") for number in range(len(dims))]
        for file, values in zip(files, np.split(x, np.cumsum(dims)[:-1], axis=1), strict=True):
            file["features"] = values
        stored = [file["features"] for file in files]
        head = nn.Sequential(nn.Linear(dim, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
        optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
        rows = Rows(count, lambda row, stored=stored: torch.from_numpy(np.concatenate([each[row] for each in stored])))
        began = time.perf_counter()
        for batch, labels in DataLoader(rows, batch_size=BATCH, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(batch), labels).backward()
            optimizer.step()
        seconds[name] = time.perf_counter() - began
    model = MLPClassifier((HIDDEN,), batch_size=BATCH, max_iter=EPOCHS, n_iter_no_change=10_000)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has not converged: only its time counts
        model.fit(x, y)
    return seconds | {"scikit-learn MLPClassifier": (time.perf_counter() - began) / EPOCHS}


def extract_peer(folder: Path, keys: list[str]) -> float:
    """Samples a second of timm's network in eager fp32 over a DataLoader."""
    network = load_network(BACKBONE, weights="random:0").eval()
    prepare = transforms.Compose([transforms.Resize((224, 224)), transforms.ToTensor()])
    rows = Rows(len(keys), lambda row: prepare(Image.open(io.BytesIO((folder / keys[row]).read_bytes()))))
    began = time.perf_counter()
    with torch.no_grad():
        for images, _ in DataLoader(rows, batch_size=32):
            network(images)
    return len(keys) / (time.perf_counter() - began)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        ours = training_seconds("rafce", 1, "fp32")
        for peer, seconds in fuse_peers(Path(name)).items():
            print(f"{peer}: {seconds:.3f} s an epoch, {seconds / ours:.1f} x ours")
        faces = draw_dataset(Path(name, "faces"), taxonomy=builtin_taxonomy("cexpr7"), per_class=40, size=112, seed=0)
        write_manifest(faces, Path(name, "faces.csv"))
        streams = parse_streams([BACKBONE], weights=[f"{BACKBONE}=random:0"], precision="fp32")
        bench = bench_extract(streams, manifest=Path(name, "faces.csv"), roots=[str(Path(name, "faces"))],
                              device="cpu", workers=0, samples=len(faces))
        rate = extract_peer(Path(name, "faces"), list(faces.keys))
        print(f"timm over a DataLoader: {rate:.1f} samples/s; ours {bench.values['whole'] / rate:.1f} x, forward alone "
              f"{bench.values['legs'][1]['rate'] / rate:.1f} x")


if __name__ == "__main__":
    main()
