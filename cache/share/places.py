"""A folder elsewhere: on this machine, over SSH, on the web, in an object store; drivers of fsspec carry the bytes.

What is ours: secrets are not shown, every error is one sentence, no silent server is waited for, no redirection to
another host is followed, and nothing is written through a link that somebody has laid there.
"""

import asyncio
import errno
import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from twofold.cache.errors import CacheError, TransferError
from twofold.data.utils import atomic
from twofold.data.utils.atomic import file_exists, file_lock, try_lock

CHUNK_BYTES = 1 << 20
TIMEOUT = 60.0  #: seconds of silence after which a connection counts as broken
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  #: which the command line explains
LOCAL, SSH, WEB = ("", "file", "local"), ("ssh", "sftp"), ("http", "https")
DRIVERS = {"file": "", "ssh": "sshfs", "sftp": "sshfs", "http": "aiohttp", "https": "aiohttp", "s3": "s3fs",
           "gs": "gcsfs", "hf": "huggingface-hub"}  #: packages beside fsspec
CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
Reasons = dict[str, tuple[type[CacheError], str]]
REASONS: Reasons = {  # by the names of classes of errors, as those of drivers need not be installed
    "HostKeyNotVerifiable": (CacheError, "the key of this host is not in ~/.ssh/known_hosts: connect to it once with "
                                         "`ssh`, which asks whether that is its key, or says that it has changed"),
    "ClientConnectorCertificateError": (CacheError, "its certificate is not to be trusted"),
    **dict.fromkeys(["SFTPPermissionDenied", "PermissionError"], (CacheError, "no permission")),
    **dict.fromkeys(["FileNotFoundError", "NotADirectoryError"], (CacheError, "there is no such file or folder")),
    "FileExistsError": (TransferError, "another push is writing the same file"),
    "SFTPFailure": (TransferError, "the server says no more than 'Failure' (is its disk full, or a file in the way?)"),
    "SFTPNoSpaceOnFilesystem": (TransferError, "its disk is full"),
    "gaierror": (TransferError, "there is no host of that name, or no network"),
    "ConnectionRefusedError": (TransferError, "nothing answers there (connection refused)"),
    "TimeoutError": (TransferError, "no answer in time"),
    **dict.fromkeys(["DisconnectError", "SFTPConnectionLost", "ClientPayloadError", "ServerDisconnectedError",
                     "ConnectionError"], (TransferError, "the connection broke off")),
}
LOGIN_REASONS = REASONS | {
    **dict.fromkeys(["DisconnectError", "ConnectionResetError", "EOFError"],
                    (TransferError, "it does not answer as an SSH server does")),
    "PermissionError": (CacheError, "the login is refused: it needs a key of ~/.ssh or of ssh-agent that the host "
                                    "accepts, as `ssh` does (one with a passphrase: `ssh-add` first)")}


class NameTaken(TransferError):
    """Somebody else has published a file of this name meanwhile."""


class Address:
    """A URL in parts, or a path on this machine (no scheme).

    shown: without password and query, which may hold a key. Raises CacheError, without secrets, for what is no URL of
    one place.
    """

    def __init__(self, url: str):
        try:
            parts = urlsplit(url if "://" in url else "")
            if "://" in url and not url.lower().startswith(f"{parts.scheme or '?'}://"):
                raise ValueError
            self.port = parts.port or 0
        except ValueError:
            shown = re.sub(r"://.*@", "://", re.split(r"[?#]", url)[0])
            raise CacheError(f"{shown!r} is not a URL: give one place, as ssh://user@host:22/folder or s3://bucket/x, "
                             "an IPv6 address as [::1]") from None
        self.url, self.scheme, self.path = url, parts.scheme, parts.path
        self.host = unquote(parts.hostname or "")  # of [fe80::1%25eth0] the zone
        self.user, self.password = unquote(parts.username or ""), unquote(parts.password or "")
        self.query = url[len(re.split(r"[?#]", url)[0]):]
        self.secrets = [secret for secret in (self.password, parts.password, self.query[1:]) if secret]
        user, host = f"{parts.username}@" if parts.username else "", parts.netloc.rpartition("@")[2]
        self.shown = f"{parts.scheme}://{user}{host}{parts.path}".rstrip("/") if parts.scheme else url


@contextmanager
def translate_errors(address: Address, name: str = "", *, reasons: Reasons = REASONS) -> Iterator[None]:
    """Turn whatever a driver raises into CacheError (mend something) or TransferError (the same may work later)."""
    try:
        yield
    except (CacheError, ImportError):
        raise
    except Exception as error:
        cause: Any = getattr(error, "os_error", error)  # aiohttp's around the socket's
        status = getattr(error, "status", None)
        causes = [each.__name__ for each in (*type(error).__mro__, *type(cause).__mro__) if each.__name__ in reasons]
        if isinstance(cause, OSError) and cause.errno in FULL_DISK:
            raise cause from None
        if isinstance(status, int):
            kind = TransferError if status >= 500 or status in (408, 429) else CacheError
            reason = f"the server answers {status}"
            reason = f"no permission ({reason})" if status in (401, 403, 407) else reason
        elif causes:
            kind, reason = reasons[causes[0]]
        else:
            said = " ".join(str(cause).split()) or type(cause).__name__
            for secret in address.secrets:
                said = said.replace(secret, "***")
            kind, reason = TransferError, said[:200]
        raise kind(f"{address.shown}{f'/{name}' if name else ''}: {reason}") from None


@dataclass(frozen=True)
class Stream:
    """Bytes of an open file from `start` on. total: size of the whole file, None if the other side does not say."""

    start: int
    total: int | None
    file: Any

    @property
    def chunks(self) -> Iterator[bytes]:
        with self.file:
            while chunk := self.file.read(CHUNK_BYTES):  # of the web what is there, so that a break costs little
                yield chunk


class Place:
    """A folder that a driver of fsspec reads and writes; names are relative to it. Errors are those of the driver."""

    def __init__(self, address: Address, files: Any, root: str):
        self.address, self.files, self.root = address, files, root.rstrip("/")
        self.is_local = address.scheme in LOCAL
        self.resumes = self.is_local or address.scheme in SSH  #: a file that broke off can be written on

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def size(self, name: str) -> int | None:
        """Bytes of a file, None if there is none."""
        self.files.invalidate_cache()
        with suppress(FileNotFoundError):
            return self.files.info(self.path(name))["size"]

    def entries(self, folder: str = "") -> dict[str, dict[str, Any]]:
        """What is in a folder below, by name, with what fsspec says of it; nothing if the folder is not there."""
        self.files.invalidate_cache()
        with suppress(FileNotFoundError):
            return {entry["name"].rstrip("/").rpartition("/")[2]: entry
                    for entry in self.files.ls(self.path(folder), detail=True)}
        return {}

    def read(self, name: str, start: int = 0) -> Stream:
        """The file from `start` on."""
        file = self.files.open(self.path(name), "rb")
        file.seek(start)
        return Stream(start, self.size(name), file)

    def make(self, folder: str = "") -> None:
        self.files.makedirs(self.path(folder).rstrip("/") or "/", exist_ok=True)

    def resumable(self, name: str) -> int:
        """Bytes of a file that can be written on; 0 if there is none. A link of its name goes: it leads elsewhere."""
        entry = self.entries().get(name) if self.resumes else None
        if entry is None:
            return 0
        if entry["type"] == "file" and not entry.get("islink") and entry.get("nlink", 1) == 1:
            return entry["size"]
        self.remove(name)
        return 0

    @contextmanager
    def reserved(self, name: str) -> Iterator[None]:
        """On this machine make a file if it is not there, and keep others from writing to it; the system forgets that
        with the process. Raises TransferError if another process writes to it, or has just renamed it."""
        path = Path(self.path(name))
        if not self.is_local:
            yield
            return
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b") as file:
            mine = try_lock(file.fileno(), unknown=True)  # without locks two processes would write the same bytes
            if not mine or not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise TransferError(f"{self.root}: another process is writing the same file into it: run the same "
                                    "command again when that is done")
            yield

    def write(self, name: str, chunks: Iterable[bytes], start: int = 0) -> None:
        """Write a file that is not there, or from `start` on one that `resumable` allows."""
        there = start or (self.is_local and self.files.exists(self.path(name)))
        with self.files.open(self.path(name), "wb" if not self.resumes else "r+b" if there else "xb") as file:
            if start:
                file.seek(start)
            for chunk in chunks:
                file.write(chunk)

    def publish(self, temporary: str, name: str, *, replace: bool) -> None:
        """Give a file its name. Raises NameTaken for one that is there, unless it may be replaced."""
        old, new = self.path(temporary), self.path(name)
        try:
            if not replace and self.address.scheme in SSH:
                from fsspec.asyn import sync

                async def rename() -> None:  # SFTP's plain rename, which never replaces
                    async with self.files.client.start_sftp_client() as sftp:
                        await sftp.rename(old, new)

                return sync(self.files.loop, rename)
            if self.is_local:
                with file_lock(Path(self.path(".lock"))):  # it may be a store that `extract` writes to meanwhile
                    if not replace and file_exists(Path(new)):
                        raise FileExistsError(name)
                    return atomic.publish(Path(old), Path(new))
            if not replace and self.size(name) is not None:
                raise FileExistsError(name)
            self.files.mv(old, new)
        except Exception:
            if replace or self.size(name) is None:
                raise
            raise NameTaken(f"{self.address.shown}/{name} has just been written by another push: run the same command "
                            "again") from None

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self.files.rm_file(self.path(name))


class WebFolder(Place):
    """A folder on a web server; it can only be read, a request a file."""

    def read(self, name: str, start: int = 0) -> Stream:
        """The file from `start` on, or from its beginning if the server cannot do ranges."""
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        try:  # block_size 0: as a stream; size: not asked for before
            file = self.files.open(f"{self.path(name)}{self.address.query}", block_size=0, size=1, headers=headers)
        except Exception as error:
            if getattr(error, "status", None) != 416 or not start:
                raise
            return self.read(name)  # what we have is longer than what is there
        said = CONTENT_RANGE.match(file.r.headers.get("Content-Range", "")) if file.r.status == 206 else None
        if said and int(said[1]) != start:
            raise ConnectionError("another range than was asked for")
        length = said[2] if said else file.r.headers.get("Content-Length", "")
        return Stream(start if said else 0, int(length) if length.isdecimal() else None, file)


async def _guarded(request: Any, handler: Any) -> Any:
    """Wait for the head of an answer no longer than TIMEOUT, and stay with its host."""
    async with asyncio.timeout(TIMEOUT):
        answer = await handler(request)
    if answer.status in (301, 302, 303, 307, 308) and (location := answer.headers.get("Location")):
        there, here = urlsplit(urljoin(str(request.url), location)), request.url
        if there.hostname != here.host or there.scheme not in (here.scheme, "https"):
            answer.close()
            raise CacheError(f"{here.scheme}://{here.authority}: it sends on to {there.scheme}://{there.netloc}, "
                             "which is not followed: if you trust that place, give its own URL")
    return answer


def open_place(url: str, *, writing: bool = False) -> Place:
    """A place to read from or to write to. Raises CacheError if its driver is unknown or missing, or for the web to
    write to; TransferError if it is silent."""
    address = Address(url.removesuffix("/store.json"))
    if address.scheme in WEB and writing:
        raise CacheError(f"{address.shown}: a web server can only be read: push to the folder that it serves, on this "
                         "machine or by ssh://")
    if address.scheme in WEB and address.password:
        raise CacheError(f"{address.shown}: no password is sent to a web server: leave it out, or use ssh://")
    for name in ("asyncio", "asyncssh"):  # of a connection that breaks off they log much, with tracebacks
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with translate_errors(address, reasons=LOGIN_REASONS if address.scheme in SSH else REASONS):
            return _connected(address)
    except ImportError:
        scheme = address.scheme or "file"
        packages = f"fsspec {DRIVERS.get(scheme, f'and its driver for {scheme}://')}".rstrip()
        raise CacheError(f"{address.shown}: {scheme}:// needs packages: pip install {packages}") from None


def _connected(address: Address) -> Place:
    """SSH: logged in as `ssh` does, by `~/.ssh/config`, `known_hosts`, keys and ssh-agent."""
    import fsspec

    if address.scheme in LOCAL:  # a path, whatever it is called
        path = address.url.removeprefix(f"{address.scheme}://")
        return Place(address, fsspec.filesystem("file"), os.path.abspath(path))
    if address.scheme in SSH:
        from sshfs import SSHFileSystem

        if not address.host or not address.path.strip("/") or address.query:
            raise CacheError(f"{address.shown}: say which folder of which host, as ssh://user@host/path/of/the/folder")
        login = {"username": address.user, "password": address.password, "port": address.port}
        return Place(address, SSHFileSystem(
            address.host, known_hosts=(), connect_timeout=TIMEOUT / 2, login_timeout=TIMEOUT / 2,
            keepalive_interval=TIMEOUT / 4, keepalive_count_max=3, skip_instance_cache=True,
            **{name: value for name, value in login.items() if value}), address.path)
    if address.scheme in WEB:
        import aiohttp

        options = {"middlewares": [_guarded], "auto_decompress": False, "trust_env": True,
                   "timeout": aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT, sock_read=TIMEOUT)}
        return WebFolder(address, fsspec.filesystem("http", client_kwargs=options, skip_instance_cache=True),
                         address.shown)
    if "::" in address.url:  # fsspec would chain places, and write elsewhere than is said
        raise CacheError(f"{address.shown}: '::' is not taken: give one place")
    if address.scheme not in fsspec.available_protocols():
        raise CacheError(f"{address.shown}: {address.scheme}:// is no kind of place that fsspec knows (ssh, sftp, "
                         "http, https, file, s3, gs, hf and others)")
    return Place(address, *fsspec.core.url_to_fs(address.url, skip_instance_cache=True))
