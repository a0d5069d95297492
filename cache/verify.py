"""Read a store back and report for each file whether its values can be trusted."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twofold.cache.errors import CacheError, FileGone
from twofold.cache.feature_file import FeatureFile
from twofold.cache.store import Store
from twofold.data.utils.atomic import file_exists

ImageHashes = Callable[[Sequence[str]], dict[str, str]]  #: keys to the SHA-256 of their images; missing ones left out


@dataclass(frozen=True)
class FileReport:
    """One file: sound, or its fault; notes on what may be suspicious though it is sound."""

    file: str
    rows: int = 0
    failed: int = 0
    fault: str = ""
    notes: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        return not self.fault

    def text(self) -> str:
        first = (f"sound    {self.file}  {self.rows} samples, {self.failed} failed" if self.sound
                 else f"AT FAULT {self.file}  {self.fault}")
        return "\n".join([first, *(f"         note: {note}" for note in self.notes)])


@dataclass(frozen=True)
class Verification:
    """The reports on all files of a store; exit code 1 if any is at fault."""

    store: Path
    files: list[FileReport]

    @property
    def exit_code(self) -> int:
        return 0 if all(file.sound for file in self.files) else 1

    def record(self) -> dict[str, Any]:
        return {"store": str(self.store), "files": [asdict(file) | {"sound": file.sound} for file in self.files]}

    def text(self) -> str:
        return "\n".join(file.text() for file in self.files) or f"{self.store}: no feature files"


def verify(path: Path, *, deep: bool = False, images: ImageHashes | None = None) -> Verification:
    """Check structure, checksums, recipe against fingerprint, duplicate keys and finiteness of every file and shard.

    path: a store or one feature file. deep: also note suspicious values, as equal rows of different images.
    images: also compare each image with the one that was encoded. Raises CacheError if `path` is neither.
    """
    store = None if path.is_file() else Store(path)
    files = [*store.files(), *store.shards()] if store else [FeatureFile(path)]
    listed, reports, hashes = store.listed_keys() if store else None, [], {}
    for file in files:
        name = str(file.path.relative_to(path if store else path.parent))
        try:
            file = _checked(file)
            if file is None:
                continue
            if images:
                hashes |= images([key for key in file.keys if key not in hashes])
                _require_images(file, hashes)
            notes = [*(_compare_manifest(file, listed) if listed is not None and file.path.parent == path else []),
                     *(_suspicious(file) if deep else [])]
            reports.append(FileReport(name, file.rows, file.failed, notes=tuple(notes)))
        except CacheError as error:
            reports.append(FileReport(name, fault=str(error)))
    return Verification(path, reports)


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


def _compare_manifest(file: FeatureFile, listed: set[str]) -> list[str]:
    missing = len(listed - set(file.keys) - set(file.failures))
    surplus = len(set(file.keys) - listed)
    return [*([f"{missing} samples of the manifest are not in it (`extract` continues)"] if missing else []),
            *([f"{surplus} of its samples are not in the manifest"] if surplus else [])]


def _require_images(file: FeatureFile, hashes: dict[str, str]) -> None:
    """Raise CacheError unless each image exists and is the one that was encoded."""
    now = [hashes.get(key) for key in file.keys]
    missing = [key for key, sha256 in zip(file.keys, now, strict=True) if sha256 is None]
    changed = [key for key, then, sha256 in zip(file.keys, file.sha256, now, strict=True)
               if sha256 not in (None, then.decode())]
    faults = [f"{len(keys)} images {what} (the first is {keys[0]})"
              for what, keys in (("have changed since", changed), ("are not below --root", missing)) if keys]
    if faults:
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
