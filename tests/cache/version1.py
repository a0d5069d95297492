"""Writes feature files as the code of format version 1 did: what later versions must read, and what is damaged here."""

import json
from datetime import UTC, datetime

import h5py
import numpy as np

from twofold.cache.format.header import VERSION1_ATTRIBUTES
from twofold.cache.format.index import TABLES, encoded_keys, encoded_reasons
from twofold.cache.format.version1 import digest_of

CHUNK_ROWS = 256


def write_version1(path, *, recipe, dim, keys, sha256, features, failures):
    tables = (encoded_keys(keys), np.asarray(sha256, "S64"), encoded_keys(list(failures)),
              encoded_reasons(list(failures.values())))
    header = {"format": "twofold-features", "format_version": 1, "backbone": recipe.backbone,
              "view": recipe.view["name"], "dim": dim, "rows": len(keys), "recipe": recipe.canonical(),
              "fingerprint": recipe.fingerprint, "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
              "software": json.dumps({"h5py": h5py.__version__})}
    header["index_sha256"] = digest_of(header, tables)
    with h5py.File(path, "w", locking=False) as file:
        for name, value in header.items():
            file.attrs[name] = value
        for name, values in zip(TABLES, tables, strict=True):
            kind = h5py.string_dtype("utf-8", values.itemsize)
            file.create_dataset(name, data=values.astype(kind), dtype=kind, chunks=(CHUNK_ROWS,), maxshape=(None,),
                                fletcher32=True)
        file.create_dataset("features", data=np.asarray(features, np.dtype(recipe.dtype).newbyteorder("<")),
                            chunks=(CHUNK_ROWS, dim), maxshape=(None, dim), fletcher32=True, fillvalue=np.nan)


def seal(file: h5py.File) -> None:
    """Renew the hash of the index, as a stranger who knows the format would."""
    header = {name: value if isinstance(value := file.attrs[name], str) else int(value)
              for name in VERSION1_ATTRIBUTES}
    file.attrs["index_sha256"] = digest_of(header, tuple(read_texts(file[name]) for name in TABLES))


def read_texts(dataset: h5py.Dataset) -> np.ndarray:
    return dataset[...].astype(f"S{dataset.dtype.itemsize}")
