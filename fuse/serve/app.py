"""The server as an ASGI application: who may ask, the page, the answers, and how long a connection may be idle."""

import asyncio
import hmac
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from twofold.data.images.archives import read_head
from twofold.data.images.decode import PHOTO_LIMITS, ImageError, thumbnail
from twofold.data.images.formats import is_image, left_out_note
from twofold.data.utils.errors import InputError
from twofold.fuse.serve.queue import RequestError, RequestQueue

log = logging.getLogger(__name__)
MAX_EXAMPLES, THUMBNAIL_SIDE = 48, 160
IDLE_SECONDS = 10  #: of a connection without a complete request
MAX_CONNECTIONS = 500
COOKIE = "twofold-token"
PAGE = Path(__file__).with_name("page")
ASSETS = {"/": ("page.html", "text/html"), "/page.css": ("page.css", "text/css"),
          **{f"/{name}.js": (f"{name}.js", "text/javascript") for name in ("page", "face", "live", "pictures")}}
HEADERS = {  #: of every answer
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
                               "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
                               "frame-ancestors 'none'",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()", "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff", "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin", "cache-control": "no-store",
}
Endpoint = Callable[[Request], Awaitable[Response]]


def find_examples(folder: Path | None, *, max_bytes: int) -> list[Path]:
    """The first `MAX_EXAMPLES` images of a folder by name, of files that are not too large; what is left out is counted
    in a warning. Raises InputError if there are none."""
    if folder is None:
        return []
    if not folder.is_dir():
        raise InputError(f"--examples {folder}: no such folder")
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    images = [path for path in files if is_image(PurePath(path.name), partial(read_head, path))]
    if note := left_out_note(folder, set(files).difference(images)):
        log.warning("warning: --examples %s", note)
    paths = [path for path in images if path.stat().st_size <= max_bytes]
    if not paths:
        raise InputError(f"--examples {folder}: no pictures in it")
    if len(images) > len(paths[:MAX_EXAMPLES]):
        log.warning("warning: --examples %s: of %d pictures the first %d of at most %d MB are offered", folder,
                    len(images), len(paths[:MAX_EXAMPLES]), max_bytes >> 20)
    return paths[:MAX_EXAMPLES]


def application(queue: RequestQueue, examples: Sequence[Path], description: dict[str, Any], *, token: str | None
                ) -> ASGIApp:
    """The page at `/`, its run at `/run`, answers at `POST /recognise`, the examples.

    examples: image files that the page offers for a click, and knows by their numbers, never by a path; description: of
    the run, as JSON; token: None on loopback (see `Guard`).
    """
    decoding = asyncio.Lock()  # a browser asks for several at once, and each is decoded whole

    async def run(_: Request) -> Response:
        return JSONResponse(description | {"examples": [path.name for path in examples]})

    async def recognise(request: Request) -> Response:
        return JSONResponse(asdict(await queue.answer(request.headers.get("content-length"), request.stream())))

    async def example(request: Request) -> Response:
        try:
            number = request.path_params["number"]
            content = examples[int(number) if number.isdecimal() else MAX_EXAMPLES].read_bytes()
            if not request.scope["path"].endswith("small"):
                return Response(content, media_type="application/octet-stream")
            async with decoding:
                small = await asyncio.to_thread(thumbnail, content, side=THUMBNAIL_SIDE, limits=PHOTO_LIMITS)
            return Response(small, media_type="image/jpeg")
        except (ValueError, IndexError, OSError, ImageError):
            raise RequestError(404, "this example cannot be read") from None

    routes = [Route(path, _asset(*asset, token)) for path, asset in ASSETS.items()]
    routes += [Route("/run", run), Route("/recognise", recognise, methods=["POST"]),
               Route("/examples/{number}", example), Route("/examples/{number}/small", example)]
    return Guard(Starlette(routes=routes, exception_handlers=dict.fromkeys(
        (RequestError, HTTPException, ClientDisconnect), _explain)), token)


def make_server(app: ASGIApp) -> uvicorn.Server:
    """A server of the application that puts `HEADERS` on each answer and closes idle connections."""
    idle_since: dict[tuple[Any, object], float] = {}

    async def close_idle() -> None:
        """Close what is idle for too long; of too many connections the longest idle ones."""
        nonlocal idle_since
        now, connections = time.monotonic(), server.server_state.connections
        idle = [(each, each.cycle) for each in connections
                if isinstance(each, Protocol) and (each.cycle is None or each.cycle.response_complete)]
        idle_since = {key: idle_since.get(key, now) for key in idle}
        for number, (connection, cycle) in enumerate(sorted(idle, key=lambda key: idle_since[key])):
            if number < len(connections) - MAX_CONNECTIONS or now - idle_since[connection, cycle] > IDLE_SECONDS:
                connection.transport.close()

    server = uvicorn.Server(uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", http=Protocol, ws="none", server_header=False,
        proxy_headers=False, headers=list(HEADERS.items()), timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=3, timeout_notify=0, callback_notify=close_idle))
    return server


class Protocol(H11Protocol):
    """uvicorn's HTTP/1.1, with the headers of every answer on its own sentence for what is no HTTP, too."""

    def send_400_response(self, msg: str) -> None:
        headers = {"content-type": "text/plain; charset=utf-8", "connection": "close", "content-length": len(msg)}
        lines = [f"{name}: {value}" for name, value in (headers | HEADERS).items()]
        self.transport.write("\r\n".join(["HTTP/1.1 400 Bad Request", *lines, "", msg]).encode("ascii"))
        self.transport.close()


class Guard:
    """Refuses strangers before anything of their request is read.

    token: None on loopback, where only this machine can ask. There, what can still reach it are pages that the user's
    browser has open: a name of theirs that resolves to 127.0.0.1 (DNS rebinding) is told by the header Host, a request
    of theirs by Origin and Sec-Fetch-Site.
    """

    def __init__(self, app: ASGIApp, token: str | None):
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(Request(scope)) if scope["type"] == "http" else None
        await (refusal or self.app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        headers, at_page = request.headers, request.scope["path"] == "/"
        host, origin = headers.get("host", ""), headers.get("origin", "")
        status, sentence = 403, ""
        if self.token is None and not is_loopback(_split(f"//{host}").hostname or ""):
            sentence = f"this page answers to localhost only, not to {host[:100]!r}"
        elif origin and _split(origin).netloc.lower() != host.lower():
            sentence = f"a page of {origin[:100]!r} asked, and only this server's own page may"
        elif headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not (
                at_page and request.method == "GET"):  # a link to the page
            sentence = "a page of another site asked, and only this server's own page may"
        elif self.token is not None and not self._has_token(request):
            status, sentence = 401, ("the token is missing or wrong: open the address that `twofold serve` printed, "
                                     "with all of its end")
        if not sentence:
            return None
        return Response(f"{sentence}\n", status, media_type="text/plain") if at_page else _sentence(status, sentence)

    def _has_token(self, request: Request) -> bool:
        offers = (_token(request), request.cookies.get(COOKIE, ""),
                  request.headers.get("authorization", "").removeprefix("Bearer "))
        return any(hmac.compare_digest(offer.encode(), (self.token or "").encode()) for offer in offers)


def is_loopback(host: str) -> bool:
    """Whether this is an address of this machine that no other machine reaches, or `localhost`; no other name is."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _token(request: Request) -> str:
    """The token in the query, or an empty text."""
    return parse_qs(request.scope["query_string"].decode("latin-1")).get("token", [""])[0]


def _split(url: str) -> SplitResult:
    """The parts of a URL; all are empty for what is not a URL."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _asset(name: str, media_type: str, token: str | None) -> Endpoint:
    content = (PAGE / name).read_bytes()

    async def endpoint(request: Request) -> Response:
        if token and _token(request):  # into a cookie, so that it does not stay in the address bar
            response = RedirectResponse("/", 303)
            response.set_cookie(COOKIE, token, httponly=True, samesite="lax")
            return response
        return Response(content, media_type=media_type)

    return endpoint


def _sentence(status: int, sentence: str) -> Response:
    return JSONResponse({"error": sentence}, status, {"retry-after": "1"} if status == 503 else None)


def _explain(_: Request, error: Exception) -> Response:
    if isinstance(error, RequestError):
        return _sentence(error.status, str(error))
    if isinstance(error, HTTPException):
        return _sentence(error.status_code, "nothing is here" if error.status_code == 404 else error.detail.lower())
    return _sentence(400, "the sender has left")
