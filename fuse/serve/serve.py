"""The verb `serve`: a run as a page on this machine, until Ctrl-C."""

import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from twofold.data.images.decode import PHOTO_LIMITS
from twofold.data.labels import BASIC
from twofold.data.utils.errors import InputError
from twofold.fuse.core.settings import HEAD_TYPES
from twofold.fuse.runs.read import Run
from twofold.fuse.serve.queue import Limits, RequestQueue, ServeStats
from twofold.fuse.serve.recogniser import Embed, Recogniser
from twofold.fuse.serve.worker import FinderPool, open_finder

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Where to listen and what to offer. port: 0 takes a free one; threshold: calls with less are 'uncertain' until
    the page's slider says otherwise; cropped: every picture is one face; detector: its weights file, None to look."""

    host: str = "127.0.0.1"
    port: int = 7860
    examples: Path | None = None
    threshold: float = 0.5
    cropped: bool = False
    detector: Path | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise InputError(f"--threshold {self.threshold:g} is not a probability (0 to 1)")
        if not 0 <= self.port <= 65_535:
            raise InputError(f"--port {self.port} is not between 0 (a free one) and 65535")
        if self.cropped and self.detector:
            raise InputError("--cropped takes pictures for faces as they are: leave out --detector")


@dataclass(frozen=True)
class ServeReport:
    """What was served, once it is over."""

    url: str
    stats: ServeStats

    def record(self) -> dict[str, Any]:
        return {"url": self.url} | asdict(self.stats)

    def text(self) -> str:
        refused = f", {self.stats.refused} refused" if self.stats.refused else ""
        return f"served {self.stats.pictures} pictures with {self.stats.faces} faces{refused}"


def serve(run: Run, options: ServeOptions, *, load: Callable[[], Embed]) -> ServeReport:
    """Serve the run until Ctrl-C or SIGTERM. load: the encoders of its streams, called once.

    Raises InputError, before anything is served, where a library, weights, the detector, examples or the port are not
    to be had.
    """
    uvicorn = _require_uvicorn()
    from twofold.fuse.serve.app import App, access_for, application, find_examples
    from twofold.fuse.serve.protocol import Protocol

    run.require_one_encoder_per_stream()
    examples = find_examples(options.examples, max_bytes=options.limits.bytes)
    access = access_for(options.host)
    with _listen(options.host, options.port) as listener, _ended_by_signals(), contextlib.ExitStack() as stack:
        url, limits = _url(listener, options.host, access.token), options.limits
        finder = stack.enter_context(contextlib.closing(FinderPool(
            partial(open_finder, tuple(run.record.crops), options.detector, options.cropped), workers=limits.workers,
            seconds=limits.find_seconds, detects=not options.cropped)))
        recogniser = Recogniser(run, finder, load(), limits.faces)
        recogniser.warm_up()
        queue = RequestQueue(recogniser.recognise, limits)
        stack.callback(queue.close)
        stack.callback(finder.close)  # first, so that no thread waits for a process
        app = App(access, queue, examples, describe_run(run, options, detects=recogniser.finder.detects))
        listener.listen()  # before the address is said: whoever is quick waits, and is not refused
        log.info("open %s (Ctrl-C ends it)%s", url, "" if access.token is None else
                 ". Whoever has this address may send pictures, over a line that is not encrypted; browsers give their "
                 "camera to localhost only")
        server = uvicorn.Server(uvicorn.Config(
            application(app), log_level="warning", access_log=False, lifespan="off", http=Protocol, ws="none",
            server_header=False, proxy_headers=False, timeout_keep_alive=10, timeout_graceful_shutdown=3))
        server.run(sockets=[listener])
    return ServeReport(url.partition("?")[0], queue.stats)


def describe_run(run: Run, options: ServeOptions, *, detects: bool) -> dict[str, Any]:
    """What the page says of the run."""
    return {
        "name": run.path.resolve().name, "classes": run.taxonomy.classes, "taxonomy": run.taxonomy.name,
        "head": run.kind, "members": run.head.spec.members, "streams": run.stream_names,
        "untrained": [name for name, (_, _, recipe) in zip(run.stream_names, run.streams, strict=True)
                      if recipe.untrained],
        "basic": BASIC if HEAD_TYPES[run.kind].outputs_basic else [], "threshold": options.threshold,
        "detects": detects,
        "limits": {"bytes": options.limits.bytes, "faces": options.limits.faces, "pixels": PHOTO_LIMITS.pixels},
    }


def _require_uvicorn() -> Any:
    try:
        import starlette  # noqa: F401  # pyright: ignore[reportUnusedImport]
        import uvicorn
    except ImportError:
        raise InputError("serving a page needs starlette and uvicorn: pip install 'twofold[serve]'") from None
    return uvicorn


def _listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address. Raises InputError where that cannot be."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise InputError(f"--host {host}: {error.strerror or error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise InputError(f"cannot listen on {host} port {port} ({error.strerror}): choose another --port, or 0 for a "
                         "free one") from None
    return listener


def _url(listener: socket.socket, host: str, token: str | None) -> str:
    """What to open: the name of this machine where it listens on all interfaces."""
    port = listener.getsockname()[1]
    name = host if host not in ("0.0.0.0", "::") else socket.gethostname()
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM end what is within, as it is meant to end. uvicorn raises them again once it is done."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)
