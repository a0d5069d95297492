"""What another place sends, and what goes wrong on the way, each in one sentence."""

import errno
import http.client
import socket
import ssl
import urllib.error
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from twofold.cache.errors import CacheError, TransferError

Progress = Callable[[int, int], None]  #: bytes that have just gone one way or the other, and those to go in all
CHUNK_BYTES = 1 << 20
TIMEOUT = 60.0  #: seconds without a byte after which a connection counts as broken
OURS_TO_EXPLAIN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  #: a full disk, which the command line explains


class NothingThere(CacheError):
    """A file that the other place does not have."""


@dataclass(frozen=True)
class Stream:
    """Bytes of a file from `start` on. total: size of the whole file, None if the other side does not say."""

    start: int
    total: int | None
    chunks: Iterator[bytes]


@dataclass(frozen=True)
class Address:
    """A URL, and how it may be shown: without password and without its query, which may hold a key."""

    url: str

    @property
    def parts(self) -> urllib.parse.SplitResult:
        return urllib.parse.urlsplit(self.url)

    @property
    def scheme(self) -> str:
        return self.url.partition("://")[0].lower() if "://" in self.url else ""

    @property
    def user(self) -> str | None:
        return urllib.parse.unquote(self.parts.username) if self.parts.username else None

    @property
    def password(self) -> str | None:
        return urllib.parse.unquote(self.parts.password) if self.parts.password else None

    @property
    def shown(self) -> str:
        if not self.scheme:
            return self.url
        parts = self.parts
        user = f"{parts.username}@" if parts.username else ""
        return f"{self.scheme}://{user}{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"

    def without_secrets(self, text: str) -> str:
        for secret in filter(None, (self.password, self.parts.password, self.parts.query)):
            text = text.replace(secret, "***")
        return text


@contextmanager
def asking(address: Address, name: str = "") -> Iterator[None]:
    """Turn whatever a driver raises into CacheError (mend something) or TransferError (the same may work later)."""
    where = f"{address.shown}/{name}" if name and not name.startswith(".") else address.shown  # no temporary names
    try:
        yield
    except CacheError:
        raise
    except urllib.error.HTTPError as error:
        raise _http_status(error, where) from None
    except urllib.error.URLError as error:
        raise _told(error.reason, where, address) from None
    except Exception as error:
        raise _told(error, where, address) from None


def _told(error: object, where: str, address: Address) -> Exception:
    if isinstance(error, OSError) and error.errno in OURS_TO_EXPLAIN:
        return error
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NothingThere(f"{where}: there is no such file or folder")
    if isinstance(error, PermissionError):
        return CacheError(f"{where}: no permission")
    if isinstance(error, socket.gaierror):
        return TransferError(f"{where}: there is no host of that name, or no network")
    if isinstance(error, ConnectionRefusedError):
        return TransferError(f"{where}: nothing answers there (connection refused)")
    if isinstance(error, TimeoutError):
        return TransferError(f"{where}: no answer in time")
    if isinstance(error, ssl.SSLCertVerificationError):
        return CacheError(f"{where}: its certificate is not to be trusted ({error.verify_message})")
    if isinstance(error, ConnectionError | EOFError | http.client.HTTPException):
        return TransferError(f"{where}: the connection broke off")
    said = address.without_secrets(" ".join(str(error).split()))[:200]
    said = "the server says no more than 'Failure' (its disk may be full)" if said == "Failure" else said  # OpenSSH's
    return TransferError(f"{where}: {said or type(error).__name__}")


def _http_status(error: urllib.error.HTTPError, where: str) -> CacheError:
    if error.code in (404, 410):
        return NothingThere(f"{where}: there is no such file")
    if error.code in (401, 403, 407):
        return CacheError(f"{where}: no permission (the server answers {error.code})")
    kind = TransferError if error.code >= 500 or error.code in (408, 429) else CacheError
    return kind(f"{where}: the server answers {error.code}")
