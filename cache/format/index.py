"""The index of a feature file: keys, image hashes and failures, and the SHA-256 that guards them."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from twofold.cache.errors import CacheError, DamagedFile
from twofold.cache.format.layout import ATTRIBUTES, MAX_TEXT_BYTES

TABLES = ("keys", "sha256", "failures/keys", "failures/reasons")
_BAD_KEYS = re.compile(rb"(?:^|\0)(?:/|\0|$)|(?:^|[\0/])\.\.?(?=[/\0]|$)|//|\\")


def check_keys(keys: np.ndarray, failed: np.ndarray, path: Path) -> None:
    """Raise CacheError unless all keys (encoded) are different plain paths that cannot leave their root."""
    everything = np.concatenate([keys.astype(object), failed.astype(object)])
    if len(set(everything.tolist())) != len(everything):
        raise CacheError(f"{path}: a key stands in it twice")
    if len(everything) and _BAD_KEYS.search(b"\0".join(everything.tolist())):
        bad = next(key for key in everything if not key or _BAD_KEYS.search(key))
        raise CacheError(f"{path}: the key {bad.decode(errors='replace')!r} is not a plain relative path")


def digest_of(header: dict[str, str | int], tables: tuple[np.ndarray, ...]) -> str:
    """SHA-256 over all that fletcher32 does not guard well: attributes, keys, hashes, failures."""
    digest = hashlib.sha256(json.dumps([header[name] for name in ATTRIBUTES[:-1]]).encode())
    for table in tables:
        digest.update(f"{len(table)},{table.itemsize};".encode())
        digest.update(np.ascontiguousarray(table).data.cast("B") if table.size else b"")
    return digest.hexdigest()


def read_texts(dataset: h5py.Dataset) -> np.ndarray:
    """(N,) encoded texts. Raises DamagedFile where a checksum does not hold."""
    try:
        return dataset[...].astype(f"S{dataset.dtype.itemsize}")
    except OSError as error:
        raise passing(error, dataset.file.filename) or DamagedFile(
            f"{dataset.file.filename}: {dataset.name} does not read back ({brief(error)})") from None


def encoded(texts: Sequence[str]) -> np.ndarray:
    """(N,) UTF-8 bytes of fixed length."""
    values = [text.encode("utf-8")[:MAX_TEXT_BYTES] for text in texts]
    return np.array(values, f"S{max((len(value) for value in values), default=1) or 1}")


def decoded(values: np.ndarray) -> np.ndarray:
    """(N,) object array of str. Raises DamagedFile if they are not UTF-8."""
    try:
        out = np.empty(len(values), object)
        out[:] = [value.decode("utf-8") for value in values.tolist()]
        return out
    except UnicodeDecodeError:
        raise DamagedFile("a key or reason is not UTF-8") from None


def passing(error: Exception, path: Path | str) -> OSError | None:
    """What the system said of a file that may well be sound (too many open files, a stale handle), if it said so."""
    number = error.errno if isinstance(error, OSError) else None
    return OSError(number, os.strerror(number), str(path)) if number else None


def brief(error: Exception) -> str:
    """The first line of what HDF5 says."""
    return str(error).split("\n")[0][:200]
