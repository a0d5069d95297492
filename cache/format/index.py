"""The index of a feature file: keys and reasons as they are stored."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from twofold.cache.errors import CacheError, DamagedFile
from twofold.cache.format.header import MAX_TEXT_BYTES

TABLES = ("keys", "sha256", "failures/keys", "failures/reasons")
_BAD_KEYS = re.compile(rb"(?:^|\0)(?:/|\0|$)|(?:^|[\0/])\.\.?(?=[/\0]|$)|//|\\")


def check_keys(keys: np.ndarray, failed: np.ndarray, path: Path) -> None:
    """Raise DamagedFile unless all keys (encoded) are different plain paths that cannot leave their root."""
    everything = np.concatenate([keys.astype(object), failed.astype(object)])
    if len(set(everything.tolist())) != len(everything):
        raise DamagedFile(f"{path}: a key stands in it twice")
    if len(everything) and _BAD_KEYS.search(b"\0".join(everything.tolist())):
        bad = next(key for key in everything if not key or _BAD_KEYS.search(key))
        raise DamagedFile(f"{path}: the key {bad.decode(errors='replace')[:200]!r} is not a plain relative path")


def encoded_keys(keys: Sequence[str]) -> np.ndarray:
    """(N,) UTF-8 bytes of fixed length. Raises CacheError for a key that is too long: cut, it would be another."""
    values = [key.encode("utf-8") for key in keys]
    if long := next((key for key, value in zip(keys, values, strict=True) if len(value) > MAX_TEXT_BYTES), None):
        raise CacheError(f"the key {long[:60] + '...'!r} has {len(long.encode())} bytes; {MAX_TEXT_BYTES} is the most: "
                         "give the file a shorter path")
    return _fixed(values)


def encoded_reasons(reasons: Sequence[str]) -> np.ndarray:
    """(N,) UTF-8 bytes of fixed length; a longer text is cut between letters."""
    return _fixed([reason.encode("utf-8")[:MAX_TEXT_BYTES].decode("utf-8", "ignore").encode() for reason in reasons])


def _fixed(values: list[bytes]) -> np.ndarray:
    return np.array(values, f"S{max((len(value) for value in values), default=1) or 1}")


def decoded(values: np.ndarray, path: Path) -> np.ndarray:
    """(N,) object array of str. Raises DamagedFile if they are not UTF-8."""
    try:
        texts = np.empty(len(values), object)
        texts[:] = [value.decode("utf-8") for value in values.tolist()]
        return texts
    except UnicodeDecodeError:
        raise DamagedFile(f"{path}: a key or reason is not UTF-8") from None
