"""A folder on a web server, read with the standard library: whoever publishes a store, its readers install nothing."""

import base64
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.client import HTTPResponse

from twofold.cache.errors import CacheError
from twofold.cache.share.deadline import brisk, within
from twofold.cache.share.failures import CHUNK_BYTES, TIMEOUT, Address, Stream, asking

CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class SameHost(urllib.request.HTTPRedirectHandler):
    """Follows a server to another of its own pages, never to another host, nor to anything but http(s)."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        there, here = urllib.parse.urlsplit(newurl), urllib.parse.urlsplit(req.full_url)
        if there.scheme not in ("http", "https") or there.hostname != here.hostname:
            raise CacheError(f"{here.scheme}://{here.netloc}: it sends on to {there.scheme}://{there.netloc}, which is "
                             "not followed: if you trust that place, give its own URL")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class Web:
    """The folder at an http(s) address; it can only be read."""

    def __init__(self, address: Address):
        self.address = address

    def close(self) -> None:
        """Nothing stays open."""

    def read(self, name: str, start: int = 0) -> Stream:
        """The file from `start` on, or from its beginning if the server cannot do ranges."""
        with asking(self.address, name):
            try:
                response = within(lambda: self._request(name, start), self.address.shown)
            except urllib.error.HTTPError as error:
                if error.code != 416:
                    raise
                start = 0  # what we have is longer than what is there
                response = within(lambda: self._request(name, 0), self.address.shown)
            start, total = _extent(response, start)
        return Stream(start, total, brisk(self._chunks(name, response), self.address.shown))

    def _request(self, name: str, start: int) -> HTTPResponse:
        parts = self.address.parts
        path = f"{parts.path.rstrip('/')}/{urllib.parse.quote(name)}"
        host = parts.netloc.rpartition("@")[2]
        request = urllib.request.Request(urllib.parse.urlunsplit((parts.scheme, host, path, parts.query, "")))
        request.add_header("User-Agent", "twofold")
        if start:
            request.add_header("Range", f"bytes={start}-")
        if self.address.user:  # not for whoever it is that we may be sent on to
            login = base64.b64encode(f"{self.address.user}:{self.address.password or ''}".encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {login}")
        return urllib.request.build_opener(SameHost).open(request, timeout=TIMEOUT)

    def _chunks(self, name: str, response: HTTPResponse) -> Iterator[bytes]:
        with response:
            while True:
                with asking(self.address, name):
                    chunk = response.read1(CHUNK_BYTES)  # what is there, so that little is lost if the rest is not
                if not chunk:
                    return
                yield chunk


def _extent(response: HTTPResponse, start: int) -> tuple[int, int | None]:
    """Where the body really begins, and how long the whole file is."""
    if response.status == 206 and (said := CONTENT_RANGE.match(response.headers.get("Content-Range", ""))):
        if int(said[1]) != start:
            raise ConnectionError("another range than was asked for")
        return start, None if said[2] == "*" else int(said[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None
