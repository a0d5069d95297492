"""Our reading of chunks against HDF5's."""

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.cache.format.checked_chunks import Chunks, NotFinite, _Reader
from twofold.cache.format.layout import CHUNK_ROWS


def stored(path, values):
    """The values as HDF5 stores them, with its checksums; returns the chunks, and the file to close."""
    with h5py.File(path, "w", locking=False) as file:
        file.create_dataset("x", data=values, chunks=(CHUNK_ROWS, values.shape[1]), maxshape=(None, values.shape[1]),
                            fletcher32=True, fillvalue=np.nan)
    file = h5py.File(path, "r", locking=False)
    dataset = file["x"].id
    offsets = [dataset.get_chunk_info_by_coord((row, 0)).byte_offset for row in range(0, len(values), CHUNK_ROWS)]
    return Chunks(file.id.get_vfd_handle(), offsets, *values.shape, values.dtype), file


@given(dim=st.integers(1, 40), dtype=st.sampled_from(["<f2", "<f4"]), seed=st.integers(0, 9),
       kind=st.sampled_from(["random", "ones", "zeros", "sparse"]))
def test_the_checksum_is_hdf5s_for_any_bytes(tmp_path_factory, dim, dtype, seed, kind):
    draw = np.random.default_rng(seed)
    content = {"random": lambda n: draw.bytes(n), "ones": lambda n: b"\xff" * n, "zeros": bytes,
               "sparse": lambda n: (draw.random(n) < 0.01).astype(np.uint8).tobytes()}[kind]
    values = np.frombuffer(content(CHUNK_ROWS * dim * np.dtype(dtype).itemsize), dtype).reshape(CHUNK_ROWS, dim)
    chunks, file = stored(tmp_path_factory.mktemp("chunks") / "x.h5", values)
    read = np.empty_like(values)
    _Reader(chunks, read).read(0, read)  # raises if the checksum is another
    assert read.tobytes() == values.tobytes()
    file.close()


@pytest.mark.parametrize("dtype", ["<f2", "<f4"])
@pytest.mark.parametrize("rows", [1, 255, 256, 257, 5000])  # the last in several threads
def test_every_chunk_arrives_once_where_it_belongs(tmp_path, rows, dtype):
    values = np.random.default_rng(0).standard_normal((rows, 5)).astype(dtype)
    chunks, file = stored(tmp_path / "x.h5", values)
    out, seen = np.zeros_like(values), []

    def use(number, some):
        seen.append(number)
        out[number * CHUNK_ROWS:][:CHUNK_ROWS] = some

    chunks.each(range(len(chunks.offsets)), use)
    np.testing.assert_array_equal(out, values)
    assert sorted(seen) == list(range(len(chunks.offsets)))
    file.close()


def test_what_is_not_finite_is_told_by_row(tmp_path):
    for dtype, wrong in (("<f2", np.inf), ("<f2", -np.inf), ("<f2", np.nan), ("<f4", np.inf), ("<f4", np.nan)):
        values = np.random.default_rng(0).standard_normal((700, 4)).astype(dtype)
        values[600, 2] = wrong
        chunks, file = stored(tmp_path / "x.h5", values)
        with pytest.raises(NotFinite, match="row 600"):
            chunks.each(range(3), lambda number, some: None)
        file.close()


def test_a_chunk_beyond_the_end(tmp_path):
    chunks, file = stored(tmp_path / "x.h5", np.ones((256, 3), "<f2"))
    beyond = Chunks(chunks.descriptor, [chunks.offsets[0] + 100_000], 256, 3, chunks.dtype)
    with pytest.raises(OSError, match="cut off"):
        beyond.each([0], lambda number, some: None)
    file.close()
