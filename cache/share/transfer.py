"""Push and pull a store: only what the other side lacks, on from where an earlier attempt broke off, proven by hash."""

import contextlib
import hashlib
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence

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
from twofold.cache.share.places import Address, NameTaken, Place, Stream, open_place, translate_errors
from twofold.cache.store import MANIFEST, Store
from twofold.data.utils.terminal import Summary

PART = ".part-"  #: and the SHA-256 of what it is to become
RESUMED_BYTES = 1 << 20  #: a smaller file is sent anew, under a name that no other push has
FORGOTTEN_SECONDS = 7 * 24 * 3600
MOST_CARD_BYTES = 1 << 20


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


def push(store: Store, url: str, *, replace: bool = False) -> Summary:
    """Send the feature files and the manifest of a store to a folder elsewhere; what else that holds stays. The
    catalogue comes last. A file of the same name with other contents is refused before anything is sent, unless it
    may be replaced. Raises CacheError, and TransferError where the same command may succeed later."""
    here = catalogue_of(store)
    if not here.files:
        raise CacheError(f"{store.path}: no feature files to share")
    target = open_place(url, writing=True)
    with translate_errors(target.address):
        indexed = _indexed(target)
        there = indexed | _entries(target)
        report = _copy_all(here.entries, open_place(str(store.path)), target, there, pushed=True, replace=replace)
        card = store.path / CARD
        if card.is_file() and (target.size(CARD) is None or is_card(  # a page of somebody's own stays
                _small(target, CARD, MOST_CARD_BYTES).decode("utf-8", "replace"))):
            _put(target, CARD, card.read_bytes())
        if there | here.entries != indexed:
            write_catalogue(target, here)
    unfinished = len(store.shards())
    said = f"not shared: unfinished work (parts: {unfinished}; the same `extract` command finishes it)"
    return Summary([*report.lines, *([said] if unfinished else [])], report.values | {"unfinished_parts": unfinished})


def pull(url: str, store: Store, *, backbones: Sequence[str] | None = None, replace: bool = False) -> Summary:
    """Fetch the files of a shared store (of these `backbones`, see `Catalogue.chosen`) that `store` lacks.

    Each stands under a hidden name until its size, SHA-256 and layout are what the catalogue says. A file of the same
    name with other contents is refused before anything is fetched, unless it may be replaced.
    Raises CacheError, and TransferError where the same command may succeed later: it goes on with what has arrived.
    """
    store.require_own_folder()
    source = open_place(url)
    wanted = fetch_catalogue(source).chosen(backbones, source.address.shown).entries
    report = _copy_all(wanted, source, open_place(str(store.path)), {}, pushed=False, replace=replace)
    for path in store.path.glob(f"{PART}*"):
        if time.time() - path.stat().st_mtime > FORGOTTEN_SECONDS:
            path.unlink(missing_ok=True)
    return report


def _copy_all(entries: Mapping[str, Entry], source: Place, target: Place, listed: Mapping[str, Entry], *, pushed: bool,
              replace: bool) -> Summary:
    """Copy what the target lacks of these files. listed: what its catalogue says of those that are there."""
    remote, local = (target, source) if pushed else (source, target)
    url, store = remote.address.shown, local.address.shown
    present, lacking, broken, other = [], [], [], []
    for name, entry in entries.items():
        known, size = listed.get(name), target.size(name)
        if size == entry.bytes and (known.sha256 if known else _digest(target, name)) == entry.sha256:
            present.append(entry)
            continue
        lacking.append(entry)
        if size is not None:  # of the same contents: it was cut off there
            (broken if known and known.sha256 == entry.sha256 else other).append(name)
    if other and not replace:
        more = f" (and {len(other) - 1} more)" if len(other) > 1 else ""
        remedy = ("push with --replace what is here, or pull that into another folder" if pushed
                  else "fetch with --replace what is there, or pull into another folder")
        raise CacheError(f"{other[0]}{more} is not the same in {store} as at {url}: {remedy} and `cache merge` the "
                         "two; nothing was transferred")
    target.make()
    whole = sum(entry.bytes for entry in lacking)
    if target.is_local:
        needed = whole - sum(target.size(f"{PART}{entry.sha256}") or 0 for entry in lacking)
        if (free := shutil.disk_usage(target.root).free) < needed:
            raise TransferError(f"{target.root}: {_mb(needed)} are to be written and its disk has {_mb(free)} free: "
                                f"make space{'' if pushed else ', or choose some of the --backbones'}")
    with tqdm(total=2 * whole, unit="B", unit_scale=True, disable=None) as bar:  # twice: all is read back
        resumed = sum(_copy(entry, source, target, remote.address, bar, replace=replace or entry.name in broken)
                      for entry in lacking)
    earlier = f", {_mb(resumed)} of them in an earlier attempt" if resumed else ""
    did = (f"{len(lacking)} {'files' if len(lacking) > 1 else 'file'}, {_mb(whole)}{earlier}, SHA-256 verified"
           if lacking else "nothing to do, everything is there")
    lines = [f"{what:13}  {entry.name}  {_mb(entry.bytes)}" for what, entries in (
        ("pushed" if pushed else "fetched", lacking), ("already there", present)) for entry in entries]
    records = {what: [{"file": entry.name, "bytes": entry.bytes, "sha256": entry.sha256} for entry in entries]
               for what, entries in (("moved", lacking), ("already_there", present))}
    return Summary([*lines, f"{store} -> {url}: {did}" if pushed else f"{url} -> {store}: {did}"], {
        "store": store, "url": url, "pushed": pushed, **records, "bytes": whole - resumed, "resumed_bytes": resumed,
        "unfinished_parts": 0})


def _copy(entry: Entry, source: Place, target: Place, remote: Address, bar: tqdm, *, replace: bool) -> int:
    """Copy one file: under a hidden name, on from where an earlier attempt broke off if the target can append; read
    back, compared by SHA-256, renamed. Returns where the source began to send.

    Nothing is kept of a file that is not what the catalogue promises; what has arrived is, where a connection breaks.
    """
    where, resumes = f"{remote.shown}/{entry.name}", target.resumes and entry.bytes >= RESUMED_BYTES
    part = f"{PART}{entry.sha256 if resumes else uuid.uuid4().hex}"

    def checked(stream: Stream) -> Iterator[bytes]:
        count = stream.start
        with contextlib.closing(stream.file):
            if stream.total not in (None, entry.bytes):
                raise CacheError(f"it has {stream.total} bytes and its catalogue says {entry.bytes}")
            for chunk in stream.chunks:
                count += len(chunk)
                if count > entry.bytes:
                    raise CacheError(f"it has more than the {entry.bytes} bytes that its catalogue says")
                yield chunk
                bar.update(len(chunk))
        if count < entry.bytes:
            raise ConnectionError("it ended too early")

    with translate_errors(remote, entry.name):
        start = target.resumable(part) if resumes else 0
        if start > entry.bytes:
            target.remove(part)
            start = 0
    with target.reserved(part):
        try:
            with translate_errors(remote, entry.name), _refused(where, target, part):
                if start < entry.bytes or not start:
                    stream = source.read(entry.name, start)
                    start = stream.start
                    bar.update(start)
                    target.write(part, checked(stream), start)
                arrived = _digest(target, part, bar)
                if target.is_local and arrived == entry.sha256 and isinstance(entry, FeatureEntry):
                    received = FeatureFile(target.path(part))
                    facts = [(each.recipe, each.rows, each.failed, each.dim) for each in (received, entry)]
                    received.check()
                    if facts[0] != facts[1]:
                        raise CacheError("it is of another recipe or size than its catalogue says")
        except TransferError as error:
            have = (target.size(part) or 0) if target.is_local and resumes else 0
            if target.is_local and not resumes:
                target.remove(part)
            kept = (f"it goes on from {_mb(have)} of the {_mb(entry.bytes)} of {entry.name}" if have else
                    "what has arrived is kept there" if resumes else f"{entry.name} starts anew")
            raise TransferError(f"{error}: run the same command again, {kept}") from None
        if arrived != entry.sha256:
            target.remove(part)
            raise TransferError(f"{where} does not have the SHA-256 of its catalogue: it was damaged on the way, or "
                                "changed meanwhile; nothing of it is kept, run the same command again")
        try:
            target.publish(part, entry.name, replace=replace)
        except NameTaken:
            target.remove(part)
            if _digest(target, entry.name) != entry.sha256:
                raise
    return start


@contextlib.contextmanager
def _refused(where: str, target: Place, part: str) -> Iterator[None]:
    """Keep nothing of a file that is not what the catalogue promises; a connection that broke off is another thing."""
    try:
        yield
    except TransferError:
        raise
    except CacheError as error:
        target.remove(part)
        reason = str(error).removeprefix(f"{target.path(part)}: ")
        raise CacheError(f"{where} is refused: {reason}; nothing of it is kept") from None


def write_catalogue(target: Place, ours: Catalogue) -> None:
    """Write our entries, and from all that are there `store.json`, again and again until no entry has come meanwhile.
    So the last who writes it has seen the entries of everybody who has ended before, and nobody needs a lock."""
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


def _put(target: Place, name: str, data: bytes) -> None:
    """Write a small file whole or not at all, over an earlier one."""
    partial = f"{PART}{uuid.uuid4().hex}"
    target.write(partial, [data])
    if _small(target, partial, len(data)) != data:
        raise TransferError(f"{target.address.shown}: {name} did not arrive whole: run the same command again")
    target.publish(partial, name, replace=True)


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


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
