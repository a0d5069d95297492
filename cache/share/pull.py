"""Fetch a shared store: only what is lacking, going on where an earlier attempt broke off, nothing seen unverified."""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from twofold.cache.atomic import alone, is_there, put_in_place, try_lock
from twofold.cache.errors import CacheError, TransferError
from twofold.cache.format.featurefile import FeatureFile
from twofold.cache.share.catalogue import Catalogue, Entry, Features, entry_of
from twofold.cache.share.failures import Progress
from twofold.cache.share.folder import Source, fetch_catalogue, open_source
from twofold.cache.share.transfer import Transfer, mega, refuse_conflicts, total
from twofold.cache.store import Store

PARTIAL = ".pull-"  #: and the SHA-256 of what it is to become
FORGOTTEN_SECONDS = 7 * 24 * 3600


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
    with contextlib.closing(open_source(url)) as source:
        shown = source.address.shown
        wanted = fetch_catalogue(source).chosen(backbones, shown)
        lacking, present = _compare(wanted, store, shown, replace)
        store.path.mkdir(parents=True, exist_ok=True)
        _require_room(lacking, store.path)
        resumed = sum([_fetch(source, entry, store.path, total(lacking), progress, replace=replace)
                       for entry in lacking])
    _remove_forgotten(store.path)
    return Transfer(store.path, shown, False, tuple(lacking), tuple(present), resumed)


def _compare(wanted: Catalogue, store: Store, shown: str, replace: bool) -> tuple[list[Entry], list[Entry]]:
    """What is lacking here, and what is here already."""
    lacking, present, other = [], [], []
    for name, entry in wanted.entries.items():
        path = store.path / name
        if path.exists() and path.stat().st_size == entry.bytes and entry_of(path).sha256 == entry.sha256:
            present.append(entry)
        else:
            lacking.append(entry)
            other += [name] if path.exists() else []
    if not replace:
        refuse_conflicts(other, store=store.path, url=shown, remedy=(
            "fetch with --replace what is there, or pull into another folder and `cache merge` the two"))
    return lacking, present


def _require_room(lacking: list[Entry], folder: Path) -> None:
    arrived = [path.stat().st_size for entry in lacking if (path := _partial(folder, entry)).exists()]
    needed = total(lacking) - sum(arrived)
    if (free := shutil.disk_usage(folder).free) < needed:
        raise TransferError(f"{folder}: {mega(needed)} are to be fetched and its disk has {mega(free)} free: make "
                            "space, or choose some of the --backbones")


def _partial(folder: Path, entry: Entry) -> Path:
    return folder / f"{PARTIAL}{entry.sha256}"


def _fetch(
    source: Source, entry: Entry, folder: Path, whole: int, progress: Progress, *, replace: bool,
) -> int:
    """Fetch one file; returns how many of its bytes an earlier attempt had left."""
    partial = _partial(folder, entry)
    with _alone(partial):
        resumed = _receive(source, entry, partial, whole, progress)
        try:
            _require_expected(source, entry, partial)
        except CacheError:
            partial.unlink(missing_ok=True)
            raise
        with alone(Store(folder).lock_path):  # `extract` may write to the store meanwhile
            if not replace and is_there(folder / entry.name):
                raise TransferError(f"{folder / entry.name} has just been written by another process: run the same "
                                    "command again")
            put_in_place(partial, folder / entry.name)
    return resumed


@contextlib.contextmanager
def _alone(partial: Path) -> Iterator[None]:
    """Make the file if it is not there and keep others from writing to it; the system forgets that with the process.

    Raises TransferError if another process is fetching it, or has just done so.
    """
    with partial.open("ab") as file:
        if not try_lock(file.fileno(), unknown=True):  # without locks two processes would write the same bytes
            raise TransferError(f"{partial.parent}: another process is fetching the same file into it: run the same "
                                "command again when that is done")
        if not partial.exists() or not os.path.samestat(os.fstat(file.fileno()), partial.stat()):
            raise TransferError(f"{partial.parent}: another process has just fetched the same file into it: run the "
                                "same command again")
        yield


def _receive(source: Source, entry: Entry, partial: Path, whole: int, progress: Progress) -> int:
    """Write what is missing of the file; returns where the other side began to send."""
    have = partial.stat().st_size
    if have > entry.bytes:
        os.truncate(partial, 0)
        have = 0
    if have == entry.bytes:
        progress(have, whole)
        return have
    place = have
    try:
        stream = source.read(entry.name, have)
        if stream.total not in (None, entry.bytes):
            raise _unlike(source, entry, partial, f"{stream.total} bytes, not {entry.bytes}")
        place = stream.start
        progress(place, whole)
        with partial.open("r+b") as file:
            file.seek(place)
            for chunk in stream.chunks:
                place += len(chunk)
                if place > entry.bytes:
                    raise _unlike(source, entry, partial, f"more than {entry.bytes} bytes")
                file.write(chunk)
                progress(len(chunk), whole)
    except TransferError as error:
        raise _broken_off(source, entry, partial, str(error)) from None
    if place < entry.bytes:
        raise _broken_off(source, entry, partial, f"{source.address.shown}/{entry.name}: the connection broke off")
    return stream.start


def _broken_off(source: Source, entry: Entry, partial: Path, reason: str) -> TransferError:
    have = partial.stat().st_size
    kept = f"it goes on from {mega(have)} of the {mega(entry.bytes)} of {entry.name}" if have else "it goes on there"
    return TransferError(f"{reason}: run the same command again, {kept}")


def _unlike(source: Source, entry: Entry, partial: Path, how: str) -> CacheError:
    partial.unlink(missing_ok=True)
    return CacheError(f"{source.address.shown}/{entry.name} is not what its catalogue says ({how}): it was damaged "
                      "there, or has just been replaced; nothing of it is kept")


def _require_expected(source: Source, entry: Entry, partial: Path) -> None:
    """Raises TransferError for damage, CacheError for a file that is whole but not what the catalogue promises."""
    if entry_of(partial).sha256 != entry.sha256:
        raise TransferError(f"{source.address.shown}/{entry.name} does not have the SHA-256 of its catalogue: it was "
                            "damaged on the way, or there; nothing of it is kept, run the same command again")
    if not isinstance(entry, Features):
        return
    file = FeatureFile(partial)
    try:
        received = (file.recipe, file.rows, file.failed, file.dim)
        file.check()
    except CacheError as error:
        reason = str(error).removeprefix(f"{partial}: ")
        raise CacheError(f"{source.address.shown}/{entry.name} is refused: {reason}") from None
    if received != (entry.recipe, entry.rows, entry.failed, entry.dim):
        raise CacheError(f"{source.address.shown}/{entry.name} is refused: it is of another recipe or size than the "
                         "catalogue says")


def _remove_forgotten(folder: Path) -> None:
    """What an attempt has left that nobody has gone on with for a week."""
    for path in folder.glob(f"{PARTIAL}*"):
        if time.time() - path.stat().st_mtime > FORGOTTEN_SECONDS:
            path.unlink(missing_ok=True)
