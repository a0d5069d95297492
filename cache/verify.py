"""Read a store back and say of each file whether its values can be trusted."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from twofold.cache.errors import CacheError, FileGone
from twofold.cache.feature_file import FeatureFile
from twofold.cache.store import Store
from twofold.data.utils.atomic import file_exists

Images = Callable[[Sequence[str]], dict[str, str]]  #: keys to the SHA-256 of their images; those not there left out


@dataclass(frozen=True)
class Verdict:
    """One file: sound, or what is wrong with it; and what a person may want to know though it is sound."""

    file: str
    rows: int = 0
    failed: int = 0
    fault: str = ""
    notes: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        return not self.fault

    def text(self) -> str:
        first = (f"sound    {self.file}  {self.rows} faces, {self.failed} failed" if self.sound
                 else f"AT FAULT {self.file}  {self.fault}")
        return "\n".join([first, *(f"         note: {note}" for note in self.notes)])


@dataclass(frozen=True)
class Verification:
    """The verdicts on a store; exit code 1 if any file is at fault. against: what its values were compared with."""

    store: Path
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        return 0 if all(verdict.sound for verdict in self.verdicts) else 1

    def record(self) -> dict:
        files = [asdict(verdict) | {"sound": verdict.sound} for verdict in self.verdicts]
        return {"store": str(self.store), "files": files}

    def text(self) -> str:
        return "\n".join(verdict.text() for verdict in self.verdicts) or f"{self.store}: no feature files"


def verify(path: Path, *, deep: bool = False, images: Images | None = None) -> Verification:
    """Check structure, checksums, recipe against fingerprint, duplicate keys and finiteness of every file and part.

    path: a store or one feature file. deep: also note what sound values hardly show, as rows that are equal though
    their images differ. images: also compare the hash of each image with the one that it had when it was encoded.
    Raises CacheError if `path` is neither a store nor a file.
    """
    if path.is_file():
        files, base, listed = [FeatureFile(path)], path.parent, None
    else:
        store = Store(path)
        files, base, listed = [*store.files(), *store.shards()], store.path, store.listed_keys()
    finished = {file.path for file in files if file.path.parent == base}
    hashes: dict[str, str] = {}
    verdicts = []
    for file in files:
        name = str(file.path.relative_to(base))
        try:
            file = _checked(file)
            if file is None:
                continue
            if images:
                hashes |= images([key for key in file.keys if key not in hashes])
                _require_images(file, hashes)
            notes = _against(file, listed) if listed is not None and file.path in finished else []
            notes += _doubts(file) if deep else []
            verdicts.append(Verdict(name, file.rows, file.failed, notes=tuple(notes)))
        except CacheError as error:
            verdicts.append(Verdict(name, fault=str(error)))
    return Verification(path, verdicts)


def _checked(file: FeatureFile) -> FeatureFile | None:
    """The file, read back whole; None if another process has removed it (a part that went into a finished file)."""
    while True:
        try:
            file.check()
            return file
        except FileGone:
            if not file_exists(file.path):
                return None
            file = FeatureFile(file.path)  # replaced meanwhile: look at the new one


def _against(file: FeatureFile, listed: set[str]) -> list[str]:
    """Faces that only the manifest has, or only the file."""
    lacking = len(listed - set(file.keys) - set(file.failures))
    surplus = len(set(file.keys) - listed)
    return ([f"{lacking} faces of the manifest are not in it (`extract` goes on)"] if lacking else []) + (
        [f"{surplus} of its faces are not in the manifest"] if surplus else [])


def _require_images(file: FeatureFile, hashes: dict[str, str]) -> None:
    """Raises CacheError unless each image is there and is the one that was encoded."""
    pairs = [(key, sha256.decode(), hashes.get(key)) for key, sha256 in zip(file.keys, file.sha256, strict=True)]
    missing = [key for key, _, now in pairs if now is None]
    changed = [key for key, then, now in pairs if now not in (None, then)]
    faults = [f"{len(keys)} images {what} (the first is {keys[0]})"
              for what, keys in (("have changed since", changed), ("are not below --root", missing)) if keys]
    if faults:
        remedy = "; `extract --recheck` computes changed ones again" if changed else ""
        raise CacheError(" and ".join(faults) + remedy)


def _doubts(file: FeatureFile) -> list[str]:
    """What the values of a sound backbone hardly show, in one pass."""
    seen: dict[bytes, bytes] = {}
    twins, first, varies = [], None, np.zeros(file.dim, bool)
    for start, block in file.blocks():
        first = block[0].copy() if first is None else first
        varies |= (block != first).any(axis=0)
        for row, sha256 in zip(block, file.sha256[start:start + len(block)], strict=True):
            digest = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
            if seen.setdefault(digest, sha256) != sha256:
                twins.append(sha256)
    notes = [f"{len(twins)} rows equal another row though their images differ: look at them"] if twins else []
    if file.rows > 1 and not varies.all():
        notes.append(f"{int((~varies).sum())} of its {file.dim} numbers are the same for every face")
    return notes
