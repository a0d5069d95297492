"""The server as an ASGI application: who may ask, the page, the answers."""

import asyncio
import hmac
import ipaddress
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from twofold.data.images.decode import PHOTO_LIMITS, ImageError, thumbnail
from twofold.data.images.formats import IMAGE_SUFFIXES
from twofold.data.utils.errors import InputError
from twofold.fuse.serve.queue import RequestError, RequestQueue

MAX_EXAMPLES, THUMBNAIL_SIDE = 48, 160
COOKIE = "twofold-token"
PAGE = Path(__file__).with_name("page")
ASSETS = {"/": ("page.html", "text/html"), "/page.css": ("page.css", "text/css"),
          "/page.js": ("page.js", "text/javascript"), "/face.js": ("face.js", "text/javascript"),
          "/live.js": ("live.js", "text/javascript"), "/pictures.js": ("pictures.js", "text/javascript")}
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
                               "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
                               "frame-ancestors 'none'",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()", "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff", "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin", "cache-control": "no-store",
}


@dataclass(frozen=True)
class Access:
    """The rules of one server. token: None on loopback, where only this machine can ask.

    There, what can still reach it are pages that the user's browser has open: a name of theirs that resolves to
    127.0.0.1 (DNS rebinding) is told by the header Host, a request of theirs by Origin and Sec-Fetch-Site.
    """

    token: str | None

    def refusal(self, *, headers: Mapping[str, str], query: str, cookies: Mapping[str, str], opening: bool
                ) -> RequestError | None:
        """Why not, or None. headers: lower-case names; opening: the page itself is asked for, as by a link to it."""
        host = headers.get("host", "")
        if self.token is None and not is_loopback(_name(host)):
            return RequestError(403, f"this page answers to localhost only, not to {host[:100]!r}")
        origin = headers.get("origin", "")
        if origin and _netloc(origin) != host.lower():
            return RequestError(403, f"a page of {origin[:100]!r} asked, and only this server's own page may")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not opening:
            return RequestError(403, "a page of another site asked, and only this server's own page may")
        if self.token is not None and not self._has_token(headers, query, cookies):
            return RequestError(401, "the token is missing or wrong: open the address that `twofold serve` printed, "
                                     "with all of its end")
        return None

    def _has_token(self, headers: Mapping[str, str], query: str, cookies: Mapping[str, str]) -> bool:
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        offers = (token_in(query), cookies.get(COOKIE, ""), bearer)
        return any(hmac.compare_digest(offer.encode(), (self.token or "").encode()) for offer in offers)


def access_for(host: str) -> Access:
    """No token on loopback; elsewhere a fresh one of 192 bits."""
    return Access(None if is_loopback(host) else secrets.token_urlsafe(24))


def is_loopback(host: str) -> bool:
    """Whether this is an address of this machine that no other machine reaches, or `localhost`; no other name is."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def token_in(query: str) -> str:
    """The token of a query string, or an empty text."""
    return parse_qs(query).get("token", [""])[0]


def _netloc(url: str) -> str:
    """Host and port of a URL in lower case; empty for what is not a URL."""
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return ""


def _name(host: str) -> str:
    """The header Host without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


@dataclass(frozen=True)
class Examples:
    """Image files that the page offers for a click; the page knows them by their numbers, never by a path."""

    paths: tuple[Path, ...] = ()
    _thumbnails: dict[int, bytes] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)  #: a browser asks for several at once, and each is decoded whole

    @property
    def names(self) -> list[str]:
        return [path.name for path in self.paths]

    def read(self, number: int) -> bytes:
        """The file's bytes. Raises IndexError for no such number, OSError."""
        if number < 0:
            raise IndexError(number)
        return self.paths[number].read_bytes()

    def thumbnail(self, number: int) -> bytes:
        """The image as a small JPEG. Raises IndexError, OSError and ImageError."""
        with self._lock:
            if number not in self._thumbnails:
                self._thumbnails[number] = thumbnail(self.read(number), side=THUMBNAIL_SIDE, limits=PHOTO_LIMITS)
            return self._thumbnails[number]


def find_examples(folder: Path | None, *, max_bytes: int) -> Examples:
    """The first images of a folder by name, of files that are not too large. Raises InputError if there are none."""
    if folder is None:
        return Examples()
    if not folder.is_dir():
        raise InputError(f"--examples {folder}: no such folder")
    paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
             and not path.name.startswith(".") and path.stat().st_size <= max_bytes]
    if not paths:
        raise InputError(f"--examples {folder}: no pictures in it")
    return Examples(tuple(paths[:MAX_EXAMPLES]))


@dataclass(frozen=True)
class App:
    """What the application serves. description: of the run, as JSON."""

    access: Access
    queue: RequestQueue
    examples: Examples
    description: dict[str, Any]

    async def run(self, _: Request) -> Response:
        return JSONResponse(self.description | {"examples": self.examples.names})

    async def recognise(self, request: Request) -> Response:
        answer = await self.queue.answer(request.headers.get("content-length"), request.stream())
        return JSONResponse(asdict(answer))


def application(app: App) -> ASGIApp:
    """The page at `/`, its run at `/run`, answers at `POST /recognise`, the examples."""
    routes = [Route(path, _asset(*asset, app.access)) for path, asset in ASSETS.items()]
    routes += [Route("/run", app.run), Route("/recognise", app.recognise, methods=["POST"]),
               Route("/examples/{number}", _example(app.examples.read, "application/octet-stream")),
               Route("/examples/{number}/small", _example(app.examples.thumbnail, "image/jpeg"))]
    starlette = Starlette(routes=routes, exception_handlers={
        RequestError: _refused, HTTPException: _no_such_page, ClientDisconnect: _gone})
    return Guard(starlette, app.access)  # outside of Starlette, whose own answer to a defect has the headers, too


class Guard:
    """Refuses strangers before anything of their request is read, and adds the headers that every answer has."""

    def __init__(self, app: ASGIApp, access: Access):
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((name.encode(), value.encode())
                                                             for name, value in HEADERS.items())]
            await send(message)

        request, at_page = Request(scope), scope["path"] == "/"
        refusal = self.access.refusal(headers=request.headers, query=scope["query_string"].decode("latin-1"),
                                      cookies=request.cookies, opening=request.method == "GET" and at_page)
        answer = _sentence(refusal.status, refusal.sentence, plain=at_page) if refusal else self.app
        return await answer(scope, receive, send_with_headers)


Endpoint = Callable[[Request], Awaitable[Response]]


def _asset(name: str, media_type: str, access: Access) -> Endpoint:
    content = (PAGE / name).read_bytes()

    async def endpoint(request: Request) -> Response:
        if access.token and token_in(request.url.query):  # into a cookie, so that it does not stay in the address bar
            response = RedirectResponse("/", 303)
            response.set_cookie(COOKIE, access.token, httponly=True, samesite="lax")
            return response
        return Response(content, media_type=media_type)

    return endpoint


def _example(read: Callable[[int], bytes], media_type: str) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        try:
            number = request.path_params["number"]
            content = await asyncio.to_thread(read, int(number) if number.isdecimal() else -1)
        except (ValueError, IndexError, OSError, ImageError):
            raise RequestError(404, "this example cannot be read") from None
        return Response(content, media_type=media_type)

    return endpoint


def _sentence(status: int, sentence: str, *, plain: bool = False) -> Response:
    headers = {"retry-after": "1"} if status == 503 else None
    return (Response(sentence + "\n", status, headers, "text/plain") if plain
            else JSONResponse({"error": sentence}, status, headers))


def _refused(_: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, RequestError)
    return _sentence(refusal.status, refusal.sentence)


def _no_such_page(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _sentence(error.status_code, "nothing is here" if error.status_code == 404 else str(error.detail).lower())


def _gone(_: Request, __: Exception) -> Response:
    return _sentence(400, "the sender has left")
