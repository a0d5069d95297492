"""For NumPy: one `.npz` archive, written a block at a time, without pickles."""

import json
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from twofold.cache.export.faces import ExportedFaces


def write_npz(path: Path, faces: ExportedFaces) -> None:
    """`keys`, a text array for each label column, `streams`, `recipes` (JSON), and (N, D) features under each stream's
    name in the stored type: what `np.load(path)` opens, a member at a time."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, texts in {"keys": faces.keys, **faces.labels, "streams": faces.streams,
                            "recipes": [file.recipe.canonical() for file in faces.files]}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                write_texts(member, texts)
        for name, file in zip(faces.streams, faces.files, strict=True):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                dtype = file.recipe.dtype
                write_array(member, (len(faces.keys), file.dim), np.dtype(dtype), faces.blocks(file, dtype))


def is_npz_of_ours(path: Path) -> bool:
    """True for an archive that `write_npz` wrote."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return {"keys.npy", "streams.npy", "recipes.npy"} <= set(archive.namelist())


def write_texts(file: IO[bytes], texts: Sequence[str]) -> None:
    """A (N,) array of Unicode, as wide as the longest of them."""
    dtype = np.dtype(f"<U{max((len(text) for text in texts), default=1) or 1}")
    steps = range(0, len(texts), 65536)
    write_array(file, (len(texts),), dtype, (np.array(texts[start:start + 65536], dtype) for start in steps))


def write_array(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype, blocks: Iterable[np.ndarray]) -> None:
    """An array in NumPy's own format (version 1), of blocks along its first axis."""
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(file, header)
    for block in blocks:
        file.write(np.ascontiguousarray(block, dtype).data.cast("B") if block.size else b"")


def recipes_json(faces: ExportedFaces) -> str:
    """Stream to recipe, as JSON."""
    return json.dumps({name: json.loads(file.recipe.canonical())
                       for name, file in zip(faces.streams, faces.files, strict=True)}, indent=2, sort_keys=True)
