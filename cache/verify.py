"""Read a store back and report for each file whether its values can be trusted."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from twofold.cache.errors import CacheError, FileGone
from twofold.cache.feature_file import FeatureFile
from twofold.cache.store import Store
from twofold.data.utils.atomic import file_exists
from twofold.data.utils.terminal import Summary

ImageHashes = Callable[[Sequence[str]], dict[str, str]]  #: keys to the SHA-256 of their images; missing ones left out


def verify(path: Path, *, deep: bool = False, images: ImageHashes | None = None) -> Summary:
    """Check structure, checksums, recipe against fingerprint, duplicate keys and finiteness of every file and shard.

    path: a store or one feature file. deep: also note suspicious values, as equal rows of different images.
    images: also compare each image with the one that was encoded. Raises CacheError if `path` is neither.
    """
    store = None if path.is_file() else Store(path)
    listed, hashes, files, lines = store.listed_keys() if store else None, {}, [], []
    for file in [*store.files(), *store.shards()] if store else [FeatureFile(path)]:
        record = {"file": str(file.path.relative_to(path if store else path.parent)), "rows": 0, "failed": 0,
                  "fault": "", "notes": [], "sound": True}
        try:
            file = _checked(file)
            if file is None:
                continue
            if images:
                hashes |= images([key for key in file.keys if key not in hashes])
                _require_images(file, hashes)
            notes = []
            if listed is not None and file.path.parent == path:
                if missing := len(listed - {*file.keys} - {*file.failures}):
                    notes.append(f"{missing} samples of the manifest are not in it (`extract` continues)")
                if surplus := len({*file.keys} - listed):
                    notes.append(f"{surplus} of its samples are not in the manifest")
            notes += _suspicious(file) if deep else []
            record |= {"rows": file.rows, "failed": file.failed, "notes": notes}
            lines += [f"sound    {record['file']}  {file.rows} samples, {file.failed} failed",
                      *(f"         note: {note}" for note in notes)]
        except CacheError as error:
            record |= {"fault": str(error), "sound": False}
            lines.append(f"AT FAULT {record['file']}  {error}")
        files.append(record)
    return Summary(values={"store": str(path), "files": files}, lines=lines or [f"{path}: no feature files"],
                   exit_code=0 if all(record["sound"] for record in files) else 1)


def _checked(file: FeatureFile) -> FeatureFile | None:
    """The file, read back whole; None if another process has removed it (a shard that went into a finished file)."""
    while True:
        try:
            file.check()
            return file
        except FileGone:
            if not file_exists(file.path):
                return None
            file = FeatureFile(file.path)  # replaced meanwhile: look at the new one


def _require_images(file: FeatureFile, hashes: dict[str, str]) -> None:
    """Raise CacheError unless each image exists and is the one that was encoded."""
    now = [hashes.get(key) for key in file.keys]
    missing = [key for key, sha256 in zip(file.keys, now, strict=True) if sha256 is None]
    changed = [key for key, then, sha256 in zip(file.keys, file.sha256, now, strict=True)
               if sha256 not in (None, then.decode())]
    if faults := [f"{len(keys)} images {what} (the first is {keys[0]})" for what, keys in (
            ("have changed since", changed), ("are not below --root", missing)) if keys]:
        remedy = "; `extract --recheck` computes changed ones again" if changed else ""
        raise CacheError(" and ".join(faults) + remedy)


def _suspicious(file: FeatureFile) -> list[str]:
    """Equal rows of different images, and features that are constant, in one pass."""
    seen: dict[bytes, bytes] = {}
    twins, first, varies = 0, None, np.zeros(file.dim, bool)
    for start, block in file.blocks():
        first = block[0].copy() if first is None else first
        varies |= (block != first).any(axis=0)
        for row, sha256 in zip(block, file.sha256[start:start + len(block)], strict=True):
            digest = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
            twins += seen.setdefault(digest, sha256) != sha256
    notes = [f"{twins} rows equal another row though their images differ: look at them"] if twins else []
    if file.rows > 1 and not varies.all():
        notes.append(f"{int((~varies).sum())} of its {file.dim} numbers are the same for every sample")
    return notes
