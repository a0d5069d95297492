"""Share a store: send only what the other place lacks, read it back, and write the catalogue last."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from twofold.cache.card import CARD, is_card
from twofold.cache.errors import CacheError, TransferError
from twofold.cache.share.catalogue import CATALOGUE, Catalogue, Entry, catalogue_of
from twofold.cache.share.failures import CHUNK_BYTES, NothingThere, Progress
from twofold.cache.share.folder import Folder, fetch_catalogue, open_target
from twofold.cache.share.transfer import Transfer, digest, refuse_conflicts, total
from twofold.cache.store import Store

MOST_CARD_BYTES = 1 << 20
PARTIAL = ".push-"  #: and the SHA-256 of what it is to become


def push(
    store: Store, url: str, *, replace: bool = False, progress: Progress = lambda count, total: None,
) -> Transfer:
    """Send the feature files and the manifest of a store to a folder elsewhere; what else that holds stays.

    Each is written under a hidden name (on from where an earlier attempt broke off, where that place can append), read
    back, compared by SHA-256 and renamed; `store.json` comes last. A file of the same name with other contents is
    refused before anything is sent, unless it may be replaced. `progress` counts each byte twice, out and back.
    Raises CacheError, and TransferError where the same command may succeed later.
    """
    here = catalogue_of(store)
    if not here.files:
        raise CacheError(f"{store.path}: no feature files to share")
    with closing(open_target(url)) as target:
        shown = target.address.shown
        there = _catalogue_there(target)
        lacking, present = _compare(here, there, target, store.path, replace)
        target.make()
        whole = 2 * total(lacking)
        resumed = sum([_send(target, entry, store.path / entry.name, whole, progress) for entry in lacking])
        there = _catalogue_there(target)  # anew: somebody else may have pushed other files meanwhile
        _send_card(target, store.path / CARD)
        if (both := there.with_those_of(here)) != there:
            _write_catalogue(target, both)
    return Transfer(store.path, shown, True, tuple(lacking), tuple(present), resumed, len(store.parts()))


def _catalogue_there(target: Folder) -> Catalogue:
    try:
        return fetch_catalogue(target)
    except NothingThere:
        return Catalogue()


def _compare(
    here: Catalogue, there: Catalogue, target: Folder, store: Path, replace: bool,
) -> tuple[list[Entry], list[Entry]]:
    """What is lacking there, and what is there already."""
    lacking, present, other = [], [], []
    for name, entry in here.entries.items():
        listed, size = there.entries.get(name), target.size(name)
        if size is None:
            lacking.append(entry)
        elif size == entry.bytes and _sha256_there(target, name, listed) == entry.sha256:
            present.append(entry)
        else:
            lacking.append(entry)
            other += [] if listed and listed.sha256 == entry.sha256 else [name]  # else it was cut off: sent again
    if not replace:
        refuse_conflicts(other, store=store, url=target.address.shown, remedy=(
            "push with --replace what is here, or pull that into another folder and `cache merge` the two"))
    return lacking, present


def _sha256_there(target: Folder, name: str, listed: Entry | None) -> str:
    """As catalogued; a file that no catalogue lists (the push that sent it did not come to its end) is read."""
    return listed.sha256 if listed else digest(target.read(name).chunks)


def _send(target: Folder, entry: Entry, path: Path, whole: int, progress: Progress) -> int:
    """Send one file; returns how many of its bytes an earlier attempt had left there."""
    partial = f"{PARTIAL}{entry.sha256}"
    have = (target.size(partial) or 0) if target.grows else 0
    have = have if have <= entry.bytes else 0
    progress(have, whole)
    try:
        if have < entry.bytes or not have:
            target.write(partial, _reported(_read(path, have), whole, progress), have)
        arrived = digest(_reported(target.read(partial).chunks, whole, progress))
    except TransferError as error:
        kept = "what has arrived is kept there" if target.grows else f"{entry.name} starts anew"
        raise TransferError(f"{error}: run the same command again, {kept}") from None
    if arrived != entry.sha256:
        target.remove(partial)
        raise TransferError(f"{target.address.shown}: {entry.name} arrived with another SHA-256 (damaged on the way, "
                            "or changed here meanwhile); it is removed there, run the same command again")
    target.rename(partial, entry.name)
    return have


def _send_card(target: Folder, card: Path) -> None:
    """The store's page, in place of an older one of ours; a page of somebody's own stays."""
    if not card.is_file():
        return
    size = target.size(CARD)
    if size is not None and (size > MOST_CARD_BYTES or not is_card(_text(target, CARD))):
        return
    target.write(f"{PARTIAL}{CARD}", [card.read_bytes()])
    target.rename(f"{PARTIAL}{CARD}", CARD)


def _text(target: Folder, name: str) -> str:
    return b"".join(target.read(name).chunks).decode("utf-8", errors="replace")


def _write_catalogue(target: Folder, catalogue: Catalogue) -> None:
    text, partial = catalogue.json().encode(), f"{PARTIAL}{CATALOGUE}"
    target.write(partial, [text])
    if b"".join(target.read(partial).chunks) != text:
        raise TransferError(f"{target.address.shown}: {CATALOGUE} did not arrive whole: run the same command again")
    target.rename(partial, CATALOGUE)


def _read(path: Path, start: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _reported(chunks: Iterator[bytes], whole: int, progress: Progress) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk
        progress(len(chunk), whole)
