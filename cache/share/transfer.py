"""Push and pull a store: only what the other side lacks, on from where an earlier attempt broke off, proven by hash."""

import contextlib
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from twofold.cache.card import CARD, is_card
from twofold.cache.errors import CacheError, TransferError
from twofold.cache.feature_file import FeatureFile
from twofold.cache.share.catalogue import (
    CATALOGUE,
    ENTRIES,
    MAX_CATALOGUE_BYTES,
    Catalogue,
    Entry,
    FeatureEntry,
    SharedListing,
    catalogue_of,
    parse,
)
from twofold.cache.share.places import CHUNK_BYTES, NameTaken, Place, open_place, translate_errors
from twofold.cache.store import MANIFEST, Store
from twofold.data.utils.atomic import file_exists, file_lock, publish, try_lock

PUSHING, PULLING = ".push-", ".pull-"  #: and the SHA-256 of what it is to become
RESUMED_BYTES = 1 << 20  #: a smaller file is sent anew, under a name that no other push has
FORGOTTEN_SECONDS = 7 * 24 * 3600
MOST_CARD_BYTES = 1 << 20
Progress = Callable[[int, int], None]  #: bytes that have just gone one way or the other, and those to go in all


@dataclass(frozen=True)
class Transfer:
    """One push or pull that has succeeded."""

    store: Path
    url: str
    pushed: bool
    moved: tuple[Entry, ...]
    present: tuple[Entry, ...]  #: asked for, but the other side had them
    resumed: int  #: bytes of `moved` that had arrived in an earlier attempt
    unfinished: int = 0  #: shards of unfinished work, which are not shared

    def record(self) -> dict[str, Any]:
        moved, present = ([{"file": entry.name, "bytes": entry.bytes, "sha256": entry.sha256} for entry in entries]
                          for entries in (self.moved, self.present))
        return {"store": str(self.store), "url": self.url, "pushed": self.pushed, "moved": moved,
                "already_there": present, "bytes": _total(self.moved) - self.resumed, "resumed_bytes": self.resumed,
                "unfinished_parts": self.unfinished}

    def text(self) -> str:
        ends = (self.store, self.url) if self.pushed else (self.url, self.store)
        lines = [f"{'pushed ' if self.pushed else 'fetched'}        {entry.name}  {_mb(entry.bytes)}"
                 for entry in self.moved]
        lines += [f"already there  {entry.name}  {_mb(entry.bytes)}" for entry in self.present]
        resumed = f", {_mb(self.resumed)} of them in an earlier attempt" if self.resumed else ""
        lines.append(f"{ends[0]} -> {ends[1]}: " + (
            f"{len(self.moved)} {'files' if len(self.moved) > 1 else 'file'}, {_mb(_total(self.moved))}{resumed}, "
            "SHA-256 verified" if self.moved else "nothing to do, everything is there"))
        if self.unfinished:
            lines.append(f"not shared: unfinished work (parts: {self.unfinished}; the same `extract` command finishes "
                         "it)")
        return "\n".join(lines)


def shared_listing(url: str) -> SharedListing:
    """What the store at a URL holds; only its catalogue is fetched."""
    source = open_place(url)
    return SharedListing(source.address.shown, fetch_catalogue(source))


def fetch_catalogue(source: Place) -> Catalogue:
    """The catalogue of a shared store. Raises CacheError if there is none or it is refused, TransferError."""
    shown = source.address.shown
    with translate_errors(source.address):
        try:
            return parse(_small(source, CATALOGUE, MAX_CATALOGUE_BYTES), Catalogue, shown)
        except FileNotFoundError:
            raise CacheError(f"{shown} has no {CATALOGUE}: it is not a store that `cache push` has written") from None


def push(store: Store, url: str, *, replace: bool = False, progress: Progress = lambda count, total: None) -> Transfer:
    """Send the feature files and the manifest of a store to a folder elsewhere; what else that holds stays.

    Each is written under a hidden name (on from where an earlier attempt broke off, where that place can append), read
    back, compared by SHA-256 and renamed; the catalogue comes last. A file of the same name with other contents is
    refused before anything is sent, unless it may be replaced. `progress` counts each byte twice, out and back.
    Raises CacheError, and TransferError where the same command may succeed later.
    """
    here = catalogue_of(store)
    if not here.files:
        raise CacheError(f"{store.path}: no feature files to share")
    target = open_place(url, writing=True)
    with translate_errors(target.address):
        indexed = _indexed(target)
        there = indexed | _entries(target)
        present, lacking, broken, other = [], [], [], []
        for name, entry in here.entries.items():
            listed, size = there.get(name), target.size(name)
            if size == entry.bytes and (listed.sha256 if listed else _digest(target.read(name).chunks)) == entry.sha256:
                present.append(entry)
                continue
            lacking.append(entry)
            if size is not None:  # of the same contents: it was cut off there
                (broken if listed and listed.sha256 == entry.sha256 else other).append(name)
        if not replace:
            _refuse(other, store=store.path, url=target.address.shown, remedy=(
                "push with --replace what is here, or pull that into another folder and `cache merge` the two"))
        target.make()
        resumed, whole = 0, 2 * _total(lacking)
        for entry in lacking:
            resumed += _send(target, entry, store.path / entry.name, lambda count: progress(count, whole),
                             replace=replace or entry.name in broken)
        _send_card(target, store.path / CARD)
        if there | here.entries != indexed:
            write_catalogue(target, here)
    return Transfer(store.path, target.address.shown, True, tuple(lacking), tuple(present), resumed,
                    len(store.shards()))


def write_catalogue(target: Place, ours: Catalogue) -> None:
    """Write our entries, and from all that are there `store.json`, again and again until no entry has come meanwhile.

    So the last who writes it has seen the entries of everybody who has ended before, and nobody needs a lock.
    """
    folder = target.entries().get(ENTRIES, {})
    if folder.get("islink") or folder.get("type") == "link":
        raise CacheError(f"{target.address.shown}/{ENTRIES} is a link: remove it there, nothing is written "
                         "through links")
    target.make(ENTRIES)
    for entry in ours.entries.values():
        _put(target, f"{ENTRIES}/{entry.name}.json", msgspec.json.encode(entry))
    entries = _entries(target)
    while True:
        _put(target, CATALOGUE, Catalogue.of(_indexed(target) | entries).json())
        seen, entries = entries, _entries(target)
        if entries == seen:
            return


def _indexed(target: Place) -> dict[str, Entry]:
    return {} if target.size(CATALOGUE) is None else fetch_catalogue(target).entries


def _entries(target: Place) -> dict[str, Entry]:
    """What the entry files say, by name."""
    entries = {}
    for name in sorted(target.entries(ENTRIES)):
        kind = Entry if name == f"{MANIFEST}.json" else FeatureEntry
        path = f"{ENTRIES}/{name}"
        if name.endswith(".json"):
            entry = parse(_small(target, path, MAX_CATALOGUE_BYTES), kind, f"{target.address.shown}/{path}")
            entries[entry.name] = entry
    return entries


def _send(target: Place, entry: Entry, path: Path, progress: Callable[[int], None], *, replace: bool) -> int:
    """Send one file; returns how many of its bytes an earlier attempt had left there."""
    resumes = target.resumes and entry.bytes >= RESUMED_BYTES
    partial = f"{PUSHING}{entry.sha256 if resumes else uuid.uuid4().hex}"
    have = target.resumable(partial) if resumes else 0
    if have > entry.bytes:
        target.remove(partial)
        have = 0
    progress(have)
    try:
        with translate_errors(target.address, entry.name):
            if have < entry.bytes or not have:
                target.write(partial, _read(path, have, progress), have)
            arrived = _digest(target.read(partial).chunks, progress)
    except TransferError as error:
        kept = "what has arrived is kept there" if resumes else f"{entry.name} starts anew"
        raise TransferError(f"{error}: run the same command again, {kept}") from None
    if arrived != entry.sha256:
        target.remove(partial)
        raise TransferError(f"{target.address.shown}: {entry.name} arrived with another SHA-256 (damaged on the way, "
                            "or changed here meanwhile); it is removed there, run the same command again")
    try:
        target.publish(partial, entry.name, replace=replace)
    except NameTaken:
        target.remove(partial)
        if _digest(target.read(entry.name).chunks) != entry.sha256:
            raise
    return have


def _send_card(target: Place, card: Path) -> None:
    """The store's page, in place of an older one of ours; a page of somebody's own stays."""
    if card.is_file():
        size = target.size(CARD)
        if size is None or (size <= MOST_CARD_BYTES and is_card(_small(target, CARD, size).decode("utf-8", "replace"))):
            _put(target, CARD, card.read_bytes())


def _put(target: Place, name: str, data: bytes) -> None:
    """Write a small file whole or not at all, over an earlier one."""
    partial = f"{PUSHING}{uuid.uuid4().hex}"
    target.write(partial, [data])
    if _small(target, partial, len(data)) != data:
        raise TransferError(f"{target.address.shown}: {name} did not arrive whole: run the same command again")
    target.publish(partial, name, replace=True)


def pull(
    url: str, store: Store, *, backbones: Sequence[str] | None = None, replace: bool = False,
    progress: Progress = lambda count, total: None,
) -> Transfer:
    """Fetch the files of a shared store (of these `backbones`, see `Catalogue.chosen`) that `store` lacks.

    Each stands under a hidden name until its size, SHA-256 and layout are what the catalogue says. A file of the same
    name with other contents is refused before anything is fetched, unless it may be replaced.
    Raises CacheError, and TransferError where the same command may succeed later: it goes on with what has arrived.
    """
    store.require_own_folder()
    source = open_place(url)
    present, lacking, other = [], [], []
    for name, entry in fetch_catalogue(source).chosen(backbones, source.address.shown).entries.items():
        path = store.path / name
        same = path.exists() and path.stat().st_size == entry.bytes and Entry.of(path).sha256 == entry.sha256
        (present if same else lacking).append(entry)
        other += [name] if path.exists() and not same else []
    if not replace:
        _refuse(other, store=store.path, url=source.address.shown, remedy=(
            "fetch with --replace what is there, or pull into another folder and `cache merge` the two"))
    store.path.mkdir(parents=True, exist_ok=True)
    partials = {entry.name: store.path / f"{PULLING}{entry.sha256}" for entry in lacking}
    needed = _total(lacking) - sum(path.stat().st_size for path in partials.values() if path.exists())
    if (free := shutil.disk_usage(store.path).free) < needed:
        raise TransferError(f"{store.path}: {_mb(needed)} are to be fetched and its disk has {_mb(free)} free: make "
                            "space, or choose some of the --backbones")
    resumed = 0
    for entry in lacking:
        partial = partials[entry.name]
        with _locked(partial):
            resumed += _receive(source, entry, partial, _total(lacking), progress)
            if Entry.of(partial).sha256 != entry.sha256:
                partial.unlink(missing_ok=True)
                raise TransferError(f"{source.address.shown}/{entry.name} does not have the SHA-256 of its catalogue: "
                                    "it was damaged on the way, or there; nothing of it is kept, run the same command "
                                    "again")
            with _refused(source, entry, partial):
                _require_expected(entry, partial)
            final = store.path / entry.name
            with file_lock(store.lock_path):  # `extract` may write to the store meanwhile
                if replace or not file_exists(final):
                    publish(partial, final)
                    continue
            partial.unlink()
            if Entry.of(final).sha256 != entry.sha256:  # else another pull was faster
                raise TransferError(f"{final} has just been written by another process: run the same command again")
    for path in store.path.glob(f"{PULLING}*"):
        if time.time() - path.stat().st_mtime > FORGOTTEN_SECONDS:
            path.unlink(missing_ok=True)
    return Transfer(store.path, source.address.shown, False, tuple(lacking), tuple(present), resumed)


@contextlib.contextmanager
def _locked(partial: Path) -> Iterator[None]:
    """Make the file if it is not there and keep others from writing to it; the system forgets that with the process.

    Raises TransferError if another process is fetching it, or has just done so.
    """
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    with os.fdopen(descriptor, "ab") as file:
        if not try_lock(file.fileno(), unknown=True):  # without locks two processes would write the same bytes
            raise TransferError(f"{partial.parent}: another process is fetching the same file into it: run the same "
                                "command again when that is done")
        if not partial.exists() or not os.path.samestat(os.fstat(file.fileno()), partial.stat()):
            raise TransferError(f"{partial.parent}: another process has just fetched the same file into it: run the "
                                "same command again")
        yield


def _receive(source: Place, entry: Entry, partial: Path, whole: int, progress: Progress) -> int:
    """Write what is missing of the file; returns where the other side began to send."""
    have = partial.stat().st_size
    if have > entry.bytes:
        os.truncate(partial, 0)
        have = 0
    if have == entry.bytes:
        progress(have, whole)
        return have
    try:
        with (translate_errors(source.address, entry.name), _refused(source, entry, partial),
              partial.open("r+b") as file):
            stream = source.read(entry.name, have)
            with contextlib.closing(stream.file):
                if stream.total not in (None, entry.bytes):
                    raise CacheError(f"it has {stream.total} bytes and its catalogue says {entry.bytes}")
                progress(file.seek(stream.start), whole)
                for chunk in stream.chunks:
                    if file.tell() + len(chunk) > entry.bytes:
                        raise CacheError(f"it has more than the {entry.bytes} bytes that its catalogue says")
                    file.write(chunk)
                    progress(len(chunk), whole)
            if file.tell() < entry.bytes:
                raise ConnectionError("it ended too early")
    except TransferError as error:
        have = partial.stat().st_size
        kept = f"it goes on from {_mb(have)} of the {_mb(entry.bytes)} of {entry.name}" if have else "it goes on there"
        raise TransferError(f"{error}: run the same command again, {kept}") from None
    return stream.start


@contextlib.contextmanager
def _refused(source: Place, entry: Entry, partial: Path) -> Iterator[None]:
    """Keep nothing of a file that is not what the catalogue promises; a connection that broke off is another thing."""
    try:
        yield
    except TransferError:
        raise
    except CacheError as error:
        partial.unlink(missing_ok=True)
        reason = str(error).removeprefix(f"{partial}: ")
        raise CacheError(f"{source.address.shown}/{entry.name} is refused: {reason}; nothing of it is kept") from None


def _require_expected(entry: Entry, partial: Path) -> None:
    """Raises CacheError for a file that is whole and not what the catalogue says."""
    if isinstance(entry, FeatureEntry):
        file = FeatureFile(partial)
        received = (file.recipe, file.rows, file.failed, file.dim)
        file.check()
        if received != (entry.recipe, entry.rows, entry.failed, entry.dim):
            raise CacheError("it is of another recipe or size than its catalogue says")


def _refuse(names: Sequence[str], *, store: Path, url: str, remedy: str) -> None:
    """Raises CacheError if there are files of one name and different contents."""
    if names:
        more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        raise CacheError(f"{names[0]}{more} is not the same in {store} as at {url}: {remedy}; nothing was transferred")


def _small(place: Place, name: str, most: int) -> bytes:
    """The bytes of a file, not many more than `most` of them."""
    data = bytearray()
    for chunk in place.read(name).chunks:
        data += chunk
        if len(data) > most:
            break
    return bytes(data)


def _read(path: Path, start: int, progress: Callable[[int], None]) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
            progress(len(chunk))


def _digest(chunks: Iterable[bytes], progress: Callable[[int], None] = lambda count: None) -> str:
    sha256 = hashlib.sha256()
    for chunk in chunks:
        sha256.update(chunk)
        progress(len(chunk))
    return sha256.hexdigest()


def _total(entries: Iterable[Entry]) -> int:
    return sum(entry.bytes for entry in entries)


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
