"""What a push or a pull has moved, and what is the same for both."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from twofold.cache.errors import CacheError
from twofold.cache.share.catalogue import Entry


@dataclass(frozen=True)
class Transfer:
    """One push or pull that has succeeded."""

    store: Path
    url: str
    pushed: bool
    moved: tuple[Entry, ...]
    present: tuple[Entry, ...]  #: asked for, but the other side had them
    resumed: int = 0  #: bytes of `moved` that had arrived in an earlier attempt
    unfinished: int = 0  #: parts of unfinished work, which are not shared

    def record(self) -> dict:
        return {"store": str(self.store), "url": self.url, "pushed": self.pushed,
                "moved": [vars_of(entry) for entry in self.moved],
                "already_there": [vars_of(entry) for entry in self.present],
                "bytes": total(self.moved) - self.resumed, "resumed_bytes": self.resumed,
                "unfinished_parts": self.unfinished}

    def text(self) -> str:
        ends = (self.store, self.url) if self.pushed else (self.url, self.store)
        lines = [f"{'pushed ' if self.pushed else 'fetched'}        {entry.name}  {mega(entry.bytes)}"
                 for entry in self.moved]
        lines += [f"already there  {entry.name}  {mega(entry.bytes)}" for entry in self.present]
        resumed = f", {mega(self.resumed)} of them in an earlier attempt" if self.resumed else ""
        lines.append(f"{ends[0]} -> {ends[1]}: " + (
            f"{len(self.moved)} {'files' if len(self.moved) > 1 else 'file'}, {mega(total(self.moved))}{resumed}, "
            "SHA-256 verified" if self.moved else "nothing to do, everything is there"))
        if self.unfinished:
            lines.append(f"not shared: unfinished work (parts: {self.unfinished}; the same `extract` command finishes "
                         "it)")
        return "\n".join(lines)


def refuse_conflicts(names: Sequence[str], *, store: Path, url: str, remedy: str) -> None:
    """Raises CacheError if there are files of one name and different contents."""
    if names:
        more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        raise CacheError(f"{names[0]}{more} is not the same in {store} as at {url}: {remedy}; nothing was transferred")


def digest(chunks: Iterable[bytes]) -> str:
    sha256 = hashlib.sha256()
    for chunk in chunks:
        sha256.update(chunk)
    return sha256.hexdigest()


def total(entries: Iterable[Entry]) -> int:
    return sum(entry.bytes for entry in entries)


def mega(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def vars_of(entry: Entry) -> dict:
    return {"file": entry.name, "bytes": entry.bytes, "sha256": entry.sha256}
