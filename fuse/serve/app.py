"""The pages and answers of the server, as an ASGI application."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from twofold.data.images.decode import ImageError
from twofold.fuse.serve.access import COOKIE, Access, Refusal, token_in
from twofold.fuse.serve.desk import Desk
from twofold.fuse.serve.examples import Examples

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
class Site:
    """What the application serves. facts: what the page says of the run, as JSON."""

    access: Access
    desk: Desk
    examples: Examples
    facts: dict[str, Any]

    async def run(self, _: Request) -> Response:
        return JSONResponse(self.facts | {"examples": self.examples.names})

    async def recognise(self, request: Request) -> Response:
        answer = await self.desk.answer(request.headers.get("content-length"), request.stream())
        return JSONResponse(asdict(answer))


def application(site: Site) -> Starlette:
    """The page at `/`, its run at `/run`, answers at `POST /recognise`, the examples."""
    routes = [Route(path, _asset(*asset, site.access)) for path, asset in ASSETS.items()]
    routes += [Route("/run", site.run), Route("/recognise", site.recognise, methods=["POST"]),
               Route("/examples/{number:int}", _example(site.examples.read, "application/octet-stream")),
               Route("/examples/{number:int}/small", _example(site.examples.thumbnail, "image/jpeg"))]
    return Starlette(routes=routes, middleware=[Middleware(Guard, access=site.access)], exception_handlers={
        Refusal: _refused, HTTPException: _no_such_page, ClientDisconnect: _gone})


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

        request = Request(scope)
        refusal = self.access.refusal(headers=request.headers, query=request.url.query, cookies=request.cookies,
                                      opening=request.method == "GET" and request.url.path == "/")
        answer = _sentence(refusal.status, refusal.sentence, plain=request.url.path == "/") if refusal else self.app
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
            content = await asyncio.to_thread(read, request.path_params["number"])
        except (IndexError, OSError, ImageError):
            raise Refusal(404, "this example cannot be read") from None
        return Response(content, media_type=media_type)

    return endpoint


def _sentence(status: int, sentence: str, *, plain: bool = False) -> Response:
    headers = {"retry-after": "1"} if status == 503 else None
    return (Response(sentence + "\n", status, headers, "text/plain") if plain
            else JSONResponse({"error": sentence}, status, headers))


def _refused(_: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    return _sentence(refusal.status, refusal.sentence)


def _no_such_page(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _sentence(error.status_code, "nothing is here" if error.status_code == 404 else str(error.detail).lower())


def _gone(_: Request, __: Exception) -> Response:
    return _sentence(400, "the sender has left")
