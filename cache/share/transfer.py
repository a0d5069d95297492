"""Push and pull a store: only what the other side lacks, on from where an earlier attempt broke off, proven by hash."""

import contextlib
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from functools import partial as preset
from pathlib import Path
from typing import BinaryIO

import msgspec
from tqdm import tqdm

from twofold.cache.card import CARD, is_card
from twofold.cache.errors import CacheError, TransferError
from twofold.cache.feature_file import FeatureFile
from twofold.cache.report import feature_record, feature_table
from twofold.cache.share.catalogue import (
    CATALOGUE,
    ENTRIES,
    MAX_CATALOGUE_BYTES,
    Catalogue,
    Entry,
    FeatureEntry,
    catalogue_of,
    parse,
)
from twofold.cache.share.places import CHUNK_BYTES, NameTaken, Place, open_place, translate_errors
from twofold.cache.store import MANIFEST, Store
from twofold.data.utils.atomic import file_exists, file_lock, publish, try_lock
from twofold.data.utils.terminal import Summary

PUSHING, PULLING = ".push-", ".pull-"  #: and the SHA-256 of what it is to become
RESUMED_BYTES = 1 << 20  #: a smaller file is sent anew, under a name that no other push has
FORGOTTEN_SECONDS = 7 * 24 * 3600
MOST_CARD_BYTES = 1 << 20
bar_of_bytes = preset(tqdm, unit="B", unit_scale=True, disable=None)


def shared_listing(url: str) -> Summary:
    """What the store at a URL holds; only its catalogue is fetched."""
    source = open_place(url)
    files = [feature_record(file.name, file.recipe, rows=file.rows, failed=file.failed, dim=file.dim, size=file.bytes)
             | {"sha256": file.sha256} for file in fetch_catalogue(source).files]
    shown = source.address.shown
    return Summary(feature_table(files) or [f"{shown}: no feature files"], {"store": shown, "files": files})


def fetch_catalogue(source: Place) -> Catalogue:
    """The catalogue of a shared store. Raises CacheError if there is none or it is refused, TransferError."""
    shown = source.address.shown
    with translate_errors(source.address):
        try:
            return parse(_small(source, CATALOGUE, MAX_CATALOGUE_BYTES), Catalogue, shown)
        except FileNotFoundError:
            raise CacheError(f"{shown} has no {CATALOGUE}: it is not a store that `cache push` has written") from None


# ------------------------------------------------------------------------------------------------------------- push
def push(store: Store, url: str, *, replace: bool = False) -> Summary:
    """Send the feature files and the manifest of a store to a folder elsewhere; what else that holds stays.

    Each is written under a hidden name (on from where an earlier attempt broke off, where that place can append), read
    back, compared by SHA-256 and renamed; the catalogue comes last. A file of the same name with other contents is
    refused before anything is sent, unless it may be replaced.
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
            if size == entry.bytes and (listed.sha256 if listed else _digest(target, name)) == entry.sha256:
                present.append(entry)
                continue
            lacking.append(entry)
            if size is not None:  # of the same contents: it was cut off there
                (broken if listed and listed.sha256 == entry.sha256 else other).append(name)
        if not replace:
            _refuse(other, store=store.path, url=target.address.shown, remedy=(
                "push with --replace what is here, or pull that into another folder and `cache merge` the two"))
        target.make()
        with bar_of_bytes(total=2 * _total(lacking)) as bar:  # each byte counts twice, out and back
            resumed = sum(_send(target, entry, store.path / entry.name, bar, replace=replace or entry.name in broken)
                          for entry in lacking)
        card = store.path / CARD
        if card.is_file():  # in place of an older one of ours; a page of somebody's own stays
            size = target.size(CARD)
            if size is None or (size <= MOST_CARD_BYTES
                                and is_card(_small(target, CARD, size).decode("utf-8", "replace"))):
                _put(target, CARD, card.read_bytes())
        if there | here.entries != indexed:
            write_catalogue(target, here)
    return _report(store.path, target, lacking, present, resumed, pushed=True, unfinished=len(store.shards()))


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
    seen, entries = None, _entries(target)
    while entries != seen:
        _put(target, CATALOGUE, Catalogue.of(_indexed(target) | entries).json())
        seen, entries = entries, _entries(target)


def _indexed(target: Place) -> dict[str, Entry]:
    return {} if target.size(CATALOGUE) is None else fetch_catalogue(target).entries


def _entries(target: Place) -> dict[str, Entry]:
    """What the entry files say, by name."""
    entries = {}
    for path in (f"{ENTRIES}/{name}" for name in sorted(target.entries(ENTRIES)) if name.endswith(".json")):
        kind = Entry if path == f"{ENTRIES}/{MANIFEST}.json" else FeatureEntry
        entry = parse(_small(target, path, MAX_CATALOGUE_BYTES), kind, f"{target.address.shown}/{path}")
        entries[entry.name] = entry
    return entries


def _send(target: Place, entry: Entry, path: Path, bar: tqdm, *, replace: bool) -> int:
    """Send one file; returns how many of its bytes an earlier attempt had left there."""
    resumes = target.resumes and entry.bytes >= RESUMED_BYTES
    partial = f"{PUSHING}{entry.sha256 if resumes else uuid.uuid4().hex}"
    have = target.resumable(partial) if resumes else 0
    if have > entry.bytes:
        target.remove(partial)
        have = 0
    bar.update(have)

    def rest() -> Iterator[bytes]:
        with path.open("rb") as file:
            file.seek(have)
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
                bar.update(len(chunk))

    try:
        with translate_errors(target.address, entry.name):
            if have < entry.bytes or not have:
                target.write(partial, rest(), have)
            arrived = _digest(target, partial, bar)
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
        if _digest(target, entry.name) != entry.sha256:
            raise
    return have


def _put(target: Place, name: str, data: bytes) -> None:
    """Write a small file whole or not at all, over an earlier one."""
    partial = f"{PUSHING}{uuid.uuid4().hex}"
    target.write(partial, [data])
    if _small(target, partial, len(data)) != data:
        raise TransferError(f"{target.address.shown}: {name} did not arrive whole: run the same command again")
    target.publish(partial, name, replace=True)


# ------------------------------------------------------------------------------------------------------------- pull
def pull(url: str, store: Store, *, backbones: Sequence[str] | None = None, replace: bool = False) -> Summary:
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
    partials = [store.path / f"{PULLING}{entry.sha256}" for entry in lacking]
    needed = _total(lacking) - sum(path.stat().st_size for path in partials if path.exists())
    if (free := shutil.disk_usage(store.path).free) < needed:
        raise TransferError(f"{store.path}: {_mb(needed)} are to be fetched and its disk has {_mb(free)} free: make "
                            "space, or choose some of the --backbones")
    with bar_of_bytes(total=_total(lacking)) as bar:
        resumed = sum(_fetch(source, entry, path, store, bar, replace=replace)
                      for entry, path in zip(lacking, partials, strict=True))
    for path in store.path.glob(f"{PULLING}*"):
        if time.time() - path.stat().st_mtime > FORGOTTEN_SECONDS:
            path.unlink(missing_ok=True)
    return _report(store.path, source, lacking, present, resumed, pushed=False)


def _fetch(source: Place, entry: Entry, partial: Path, store: Store, bar: tqdm, *, replace: bool) -> int:
    """Write what is missing of one file, prove it, give it its name; returns where the other side began to send.

    Nothing is kept of a file that is not what the catalogue promises; what has arrived is, where a connection breaks.
    """
    where, final = f"{source.address.shown}/{entry.name}", store.path / entry.name
    with os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b") as file:
        busy = not try_lock(file.fileno(), unknown=True)  # without locks two processes would write the same bytes
        if busy or not partial.exists() or not os.path.samestat(os.fstat(file.fileno()), partial.stat()):
            raise TransferError(f"{store.path}: another process {'is fetching' if busy else 'has just fetched'} the "
                                "same file into it: run the same command again when that is done")
        start = file.seek(0, os.SEEK_END)
        if start > entry.bytes:
            start = file.truncate(0)
        if start < entry.bytes:
            start = _receive(source, entry, partial, file, start, bar)
        if Entry.of(partial).sha256 != entry.sha256:
            partial.unlink(missing_ok=True)
            raise TransferError(f"{where} does not have the SHA-256 of its catalogue: it was damaged on the way, or "
                                "there; nothing of it is kept, run the same command again")
        if isinstance(entry, FeatureEntry):
            with _refused(where, partial):
                received = FeatureFile(partial)
                facts = [(each.recipe, each.rows, each.failed, each.dim) for each in (received, entry)]
                received.check()
                if facts[0] != facts[1]:
                    raise CacheError("it is of another recipe or size than its catalogue says")
        with file_lock(store.lock_path):  # `extract` may write to the store meanwhile
            if replace or not file_exists(final):
                publish(partial, final)
                return start
        partial.unlink()
    if Entry.of(final).sha256 != entry.sha256:  # else another pull was faster
        raise TransferError(f"{final} has just been written by another process: run the same command again")
    return start


def _receive(source: Place, entry: Entry, partial: Path, file: BinaryIO, start: int, bar: tqdm) -> int:
    """Write the rest of a file, from `start` on, or from where the other side begins to send, which is returned."""
    try:
        with translate_errors(source.address, entry.name), _refused(f"{source.address.shown}/{entry.name}", partial):
            stream = source.read(entry.name, start)
            with contextlib.closing(stream.file):
                if stream.total not in (None, entry.bytes):
                    raise CacheError(f"it has {stream.total} bytes and its catalogue says {entry.bytes}")
                bar.update(file.seek(stream.start))
                for chunk in stream.chunks:
                    if file.tell() + len(chunk) > entry.bytes:
                        raise CacheError(f"it has more than the {entry.bytes} bytes that its catalogue says")
                    bar.update(file.write(chunk))
            if file.tell() < entry.bytes:
                raise ConnectionError("it ended too early")
    except TransferError as error:
        have = file.seek(0, os.SEEK_END)
        kept = f"from {_mb(have)} of the {_mb(entry.bytes)} of {entry.name}" if have else "there"
        raise TransferError(f"{error}: run the same command again, it goes on {kept}") from None
    file.flush()
    return stream.start


@contextlib.contextmanager
def _refused(where: str, partial: Path) -> Iterator[None]:
    """Keep nothing of a file that is not what the catalogue promises; a connection that broke off is another thing."""
    try:
        yield
    except TransferError:
        raise
    except CacheError as error:
        partial.unlink(missing_ok=True)
        reason = str(error).removeprefix(f"{partial}: ")
        raise CacheError(f"{where} is refused: {reason}; nothing of it is kept") from None


# ------------------------------------------------------------------------------------------------------------- both
def _report(store: Path, place: Place, moved: Sequence[Entry], present: Sequence[Entry], resumed: int, *, pushed: bool,
            unfinished: int = 0) -> Summary:
    """resumed: bytes of `moved` that had arrived in an earlier attempt; unfinished: shards, which are not shared."""
    url, earlier = place.address.shown, f", {_mb(resumed)} of them in an earlier attempt" if resumed else ""
    data = {"store": str(store), "url": url, "pushed": pushed} | {
        what: [{"file": entry.name, "bytes": entry.bytes, "sha256": entry.sha256} for entry in entries]
        for what, entries in (("moved", moved), ("already_there", present))} | {
        "bytes": _total(moved) - resumed, "resumed_bytes": resumed, "unfinished_parts": unfinished}
    did = (f"{len(moved)} {'files' if len(moved) > 1 else 'file'}, {_mb(_total(moved))}{earlier}, SHA-256 verified"
           if moved else "nothing to do, everything is there")
    lines = [f"{what:13}  {entry.name}  {_mb(entry.bytes)}" for what, entries in (
        ("pushed" if pushed else "fetched", moved), ("already there", present)) for entry in entries]
    lines.append(f"{store} -> {url}: {did}" if pushed else f"{url} -> {store}: {did}")
    if unfinished:
        lines.append(f"not shared: unfinished work (parts: {unfinished}; the same `extract` command finishes it)")
    return Summary(lines, data)


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


def _digest(place: Place, name: str, bar: tqdm | None = None) -> str:
    """The SHA-256 of a file, read back."""
    sha256 = hashlib.sha256()
    for chunk in place.read(name).chunks:
        sha256.update(chunk)
        if bar is not None:
            bar.update(len(chunk))
    return sha256.hexdigest()


def _total(entries: Iterable[Entry]) -> int:
    return sum(entry.bytes for entry in entries)


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
