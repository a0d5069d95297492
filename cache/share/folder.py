"""A folder elsewhere: on this machine, over SSH, on the web, in an object store; whatever fsspec has a driver for."""

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol

from twofold.cache.errors import CacheError
from twofold.cache.share.catalogue import CATALOGUE, MAX_CATALOGUE_BYTES, Catalogue, SharedListing, parse_catalogue
from twofold.cache.share.deadline import brisk
from twofold.cache.share.failures import CHUNK_BYTES, Address, NothingThere, Stream, asking

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

GROWING = {"", "file", "local", "ssh", "sftp", "memory"}  #: where a file that broke off can be written on with


class Source(Protocol):
    """Where files can be read."""

    address: Address

    def read(self, name: str, start: int = 0) -> Stream: ...

    def close(self) -> None: ...


class Folder:
    """A folder that a driver of fsspec reads and writes."""

    def __init__(self, address: Address, files: "AbstractFileSystem", root: str):
        self.address, self.files, self.root = address, files, root.rstrip("/")
        self.grows = address.scheme in GROWING

    def close(self) -> None:
        if client := getattr(self.files, "client", None):  # SSH's; without this its threads outlive us
            client.close()

    def size(self, name: str) -> int | None:
        """Bytes of a file, None if there is none."""
        with asking(self.address, name):
            try:
                self.files.invalidate_cache()
                return self.files.info(self._path(name))["size"]
            except FileNotFoundError:
                return None

    def read(self, name: str, start: int = 0) -> Stream:
        total = self.size(name)
        if total is None:
            raise NothingThere(f"{self.address.shown}/{name}: there is no such file")
        return Stream(start, total, brisk(self._chunks(name, start), self.address.shown))

    def _chunks(self, name: str, start: int) -> Iterator[bytes]:
        with asking(self.address, name):
            file: Any = self.files.open(self._path(name), "rb")
        with file:
            with asking(self.address, name):
                file.seek(start)
            while True:
                with asking(self.address, name):
                    chunk = file.read(CHUNK_BYTES)
                if not chunk:
                    return
                yield chunk

    def make(self) -> None:
        with asking(self.address):
            self.files.makedirs(self.root or "/", exist_ok=True)

    def write(self, name: str, chunks: Iterable[bytes], start: int = 0) -> None:
        """Write a file anew, or one that has `start` bytes on from there (only where `grows`)."""
        with asking(self.address, name):
            file: Any = self.files.open(self._path(name), "r+b" if start else "wb")
            file.seek(start) if start else None
        try:
            for chunk in chunks:
                with asking(self.address, name):
                    file.write(chunk)
            if self.address.scheme in ("", "file", "local"):
                file.flush()
                os.fsync(file.fileno())
        finally:
            with asking(self.address, name):
                file.close()

    def rename(self, name: str, to: str) -> None:
        with asking(self.address, to):
            self.files.mv(self._path(name), self._path(to))

    def remove(self, name: str) -> None:
        with asking(self.address, name):
            self.files.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"


def open_source(url: str) -> Source:
    """A place to read from. Raises CacheError if its driver is unknown or missing, TransferError if it is silent."""
    address = _address(url)
    if address.scheme in ("http", "https"):
        from twofold.cache.share.http import Web

        return Web(address)
    return _folder(address)


def open_target(url: str) -> Folder:
    """A place to write to. Raises as `open_source`, and CacheError for the web, which can only be read."""
    address = _address(url)
    if address.scheme in ("http", "https"):
        raise CacheError(f"{address.shown}: a web server can only be read: push to the folder that it serves, on this "
                         "machine or by ssh://")
    return _folder(address)


def fetch_catalogue(source: Source) -> Catalogue:
    """The catalogue of a shared store. Raises CacheError if there is none, or it is refused."""
    shown, data = source.address.shown, bytearray()
    try:
        stream = source.read(CATALOGUE)
    except NothingThere:
        raise NothingThere(f"{shown} has no {CATALOGUE}: it is not a store that `cache push` has written") from None
    for chunk in stream.chunks:
        data += chunk
        if len(data) > MAX_CATALOGUE_BYTES:
            break
    return parse_catalogue(bytes(data), shown)


def shared_listing(url: str) -> SharedListing:
    """What the store at a URL holds; only its catalogue is fetched."""
    with closing(open_source(url)) as source:
        return SharedListing(source.address.shown, fetch_catalogue(source))


def _address(url: str) -> Address:
    address = Address(url.removesuffix(f"/{CATALOGUE}"))
    if address.scheme and "::" in url:  # fsspec would chain places, and write elsewhere than is said
        raise CacheError(f"{address.shown}: '::' is not taken: give one place")
    try:
        _ = address.parts.port
    except ValueError:
        raise CacheError(f"{url.rpartition('@')[2]!r} is not a URL") from None
    return address


def _folder(address: Address) -> Folder:
    try:
        if address.scheme in ("ssh", "sftp"):
            from twofold.cache.share.sftp import connect

            return Folder(address, connect(address), address.parts.path)
        import fsspec

        with asking(address):
            try:
                if not address.scheme:  # a path, whatever it is called
                    return Folder(address, fsspec.filesystem("file"), os.path.abspath(address.url))
                files, root = fsspec.core.url_to_fs(address.url, skip_instance_cache=True)
            except ValueError as error:
                if "rotocol" not in str(error):
                    raise
                raise CacheError(f"{address.shown}: {address.scheme}:// is no kind of place that fsspec knows (ssh, "
                                 "sftp, http, https, file, s3, gs, hf and others)") from None
            except ImportError as error:
                raise _missing(address, error) from None
        return Folder(address, files, root)
    except ImportError as error:
        raise _missing(address, error) from None


def _missing(address: Address, error: ImportError) -> CacheError:
    """The line that installs a driver: fsspec's own as an extra, another package by its name."""
    if (error.name or "").partition(".")[0] == "fsspec":
        package = "fsspec"
    else:
        from fsspec.registry import known_implementations

        package = known_implementations.get(address.scheme, {}).get("class", "fsspec").partition(".")[0]
    scheme = {"file": "", "": ""}.get(address.scheme, f"[{address.scheme}]") if package == "fsspec" else ""
    return CacheError(f"{address.shown}: {address.scheme or 'file'}:// needs a driver: pip install "
                      f'"{package.replace("_", "-")}{scheme}"')
