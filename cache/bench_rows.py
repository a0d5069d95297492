"""The layout that tutorials read from, one row at a time: what `bench fuse` compares with."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np


@contextmanager
def rows_of_hdf5(path: Path, values: np.ndarray) -> Iterator[h5py.Dataset]:
    """Write (N, D) as float16 with plain h5py to `path` and give the dataset, open for reading by row number."""
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=values.astype(np.float16), chunks=(min(256, len(values)), values.shape[1]))
    with h5py.File(path, "r") as file:
        yield file["features"]
