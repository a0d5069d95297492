"""The verb `weights get`: download what has a stable public address, or a name on a hub, and nothing unasked."""

import contextlib
import hashlib
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from twofold.cache.errors import TransferError
from twofold.cache.share.places import Stream, open_place, translate_errors
from twofold.data.faces.detectors import DETECTORS
from twofold.data.utils.errors import InputError
from twofold.data.utils.terminal import Summary
from twofold.data.utils.weights_files import weights_folder
from twofold.extract.encoders.presets import published_weights, source_of
from twofold.extract.weights.find import find_in_folder, find_weights, how_to_get
from twofold.extract.weights.read import file_sha256, refuse_other_files

log = logging.getLogger(__name__)


def get(name: str) -> Summary:
    """Download the weights of a preset, a detector or a model of a hub; say the licence first.

    Raises InputError for an unknown name, and for weights that only their authors' page gives, which it names;
    TransferError where a connection broke off: the same command goes on from there.
    """
    folder = weights_folder()
    weights, entry = None, DETECTORS.get(name)
    if entry:
        found, licence, page = entry.local_file(folder), entry.licence, entry.page
    else:
        source, plain = source_of(name)
        try:
            source.check_name(plain)  # of a hub, which has its configuration
        except InputError as error:
            also = "" if ":" in name else f", or a face detector: {', '.join(DETECTORS)}"
            raise InputError(f"{error}{also}") from None
        weights = published_weights(name)
        found, page = find_in_folder(weights, folder), weights.page or (f"hub {weights.hub}" if weights.hub else name)
        licence = "" if found else weights.licence or weights.read_licence()
    if found:
        return Summary([f"{name}: is here already, {found}"], {"name": name, "path": str(found), "fetched": False})
    log.info("%s: licence %s (%s)", name, licence or "not stated", page)
    if entry:
        path, digest = entry.find_file(), ""
    else:
        assert weights is not None
        if weights.url:
            path, digest = folder / weights.files[0], weights.url_sha256
            fetch(weights.url, path, sha256=digest)
        elif weights.hub or weights.download:
            path, digest = find_weights(weights, weights="hub", folder=folder), ""
        else:
            raise InputError(f"{name}: its weights have no address that a program could fetch. "
                             f"{how_to_get(weights, folder)}")
    published = digest or _stated_sha256(path)
    found_digest = file_sha256(path)
    if not found_digest.startswith(published):
        raise InputError(f"{path} has the SHA-256 {found_digest}, and {published} was published: remove it, and run "
                         "the same command again")
    proof = "as published" if published else "nobody publishes it to compare with"
    return Summary([f"{name} -> {path}, {path.stat().st_size / 1e6:.1f} MB", f"SHA-256 {found_digest} ({proof})"],
                   {"name": name, "path": str(path), "fetched": True, "licence": licence, "sha256": found_digest,
                    "verified": bool(published)})


def _stated_sha256(path: Path) -> str:
    """The start of the SHA-256 that a downloaded file's name states: on the hub that of what it is a link to, in
    torchvision's cache the end of its own."""
    match = re.fullmatch(r"([0-9a-f]{64})|.*-([0-9a-f]{8})\.pth", path.resolve().name)
    return match[1] or match[2] if match else ""


def fetch(url: str, target: Path, *, sha256: str = "") -> None:
    """Download a file, whole or not at all; what a broken connection left is gone on from.

    sha256: how its digest starts, "" if unknown. Raises TransferError where the same call may succeed later, CacheError
    for what the server refuses, InputError for a file of another content, of which nothing is kept.
    """
    place, _, name = url.partition("?")[0].rpartition("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    source, folder, part = open_place(place), open_place(str(target.parent)), f".part-{target.name}"
    start = folder.resumable(part)
    with folder.reserved(part):
        try:
            with translate_errors(source.address, name):
                stream = source.read(name, start)
                _require_space(target, (stream.total or 0) - start)
                folder.write(part, _counted(stream, target.name), stream.start)
        except TransferError as error:
            have = (folder.size(part) or 0) / 1e6
            raise TransferError(f"{error}: run the same command again, it goes on from {have:.1f} MB") from None
        path = Path(folder.path(part))
        try:
            with path.open("rb") as file:
                refuse_other_files(path, file.read(512), path.stat().st_size)
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if not digest.startswith(sha256):
                raise InputError(f"{url} has the SHA-256 {digest}, not {sha256}...: it was damaged on the way, or is "
                                 "another file now; nothing of it is kept")
        except InputError as error:
            folder.remove(part)
            raise InputError(str(error).replace(str(path), url)) from None
        folder.publish(part, target.name, replace=False)


def _counted(stream: Stream, name: str) -> Iterator[bytes]:
    """The bytes of a stream, with a bar of progress. Raises ConnectionError where it ends too early."""
    with contextlib.closing(stream.file), tqdm(total=stream.total, initial=stream.start, unit="B", unit_scale=True,
                                               desc=name, disable=None) as bar:
        count = stream.start
        for chunk in stream.chunks:
            count += len(chunk)
            yield chunk
            bar.update(len(chunk))
    if stream.total is not None and count < stream.total:
        raise ConnectionError("it ended too early")


def _require_space(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise TransferError(f"{target.parent}: {needed / 1e6:.0f} MB are to be written and its disk has "
                            f"{free / 1e6:.0f} MB free: make space")
