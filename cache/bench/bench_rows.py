"""What tutorials read row by row with plain h5py: what `bench fuse` compares with."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

import h5py
import numpy as np


@contextmanager
def rows_of_featurefiles(paths: Sequence[Path]) -> Iterator[list[h5py.Dataset]]:
    """`/features` of each feature file, open for reading by row number."""
    with ExitStack() as stack:
        yield [cast(h5py.Dataset, stack.enter_context(h5py.File(path, "r"))["features"]) for path in paths]


@contextmanager
def rows_of_hdf5(path: Path, values: np.ndarray) -> Iterator[h5py.Dataset]:
    """Write (N, D) as contiguous float32 without checksums to `path` and give the dataset, open for reading."""
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=values)
    with h5py.File(path, "r") as file:
        yield cast(h5py.Dataset, file["features"])
