"""The verb `serve`: a run as a page on this machine, until Ctrl-C."""

import contextlib
import logging
import secrets
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from twofold.data.images.decode import PHOTO_LIMITS
from twofold.data.utils.errors import InputError
from twofold.data.utils.terminal import Summary
from twofold.fuse.answers import NONE, check_second
from twofold.fuse.runs.read import Run
from twofold.fuse.serve.queue import Limits, RequestQueue
from twofold.fuse.serve.recogniser import Embed, Recogniser
from twofold.fuse.serve.worker import FinderPool, open_finder

log = logging.getLogger(__name__)


def serve(run: Run, *, load: Callable[[], Embed], host: str = "127.0.0.1", port: int = 7860,
          examples: Path | None = None, threshold: float = 0.5, second: float | None = None, cropped: bool = False,
          detector: Path | None = None) -> Summary:
    """Serve the run until Ctrl-C or SIGTERM.

    load: the encoders of its streams, called once; port: 0 takes a free one; threshold: calls with less are 'uncertain'
    until the page's slider says otherwise; second: of `decide`, None is the usual share; cropped: every picture is one
    face; detector: its weights file, None to look. Raises InputError, before anything is served, for options that make
    no sense, and where a library, weights, the detector, examples or the port are not to be had.
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"--threshold {threshold:g} is not a probability (0 to 1)")
    second = check_second(run, second)
    if not 0 <= port <= 65_535:
        raise InputError(f"--port {port} is not between 0 (a free one) and 65535")
    if cropped and detector:
        raise InputError("--cropped takes pictures for faces as they are: leave out --detector")
    try:
        from twofold.fuse.serve.app import application, find_examples, is_loopback, make_server
    except ImportError:
        raise InputError("serving a page needs starlette and uvicorn: pip install 'twofold[serve]'") from None
    run.require_single_images()
    limits = Limits()
    offered = find_examples(examples, max_bytes=limits.bytes)
    token = None if is_loopback(host) else secrets.token_urlsafe(24)
    counts: dict[str, int] = dict.fromkeys(("pictures", "faces", "refused"), 0)
    url = ""
    with _listen(host, port) as listener, _ended_by_signals(), contextlib.ExitStack() as stack:
        # this machine's name where it listens on all interfaces
        name = host if host not in ("0.0.0.0", "::") else socket.gethostname()
        url = f"http://{f'[{name}]' if ':' in name else name}:{listener.getsockname()[1]}/"
        finder = stack.enter_context(contextlib.closing(FinderPool(
            partial(open_finder, tuple(run.record.crops), detector, cropped), workers=limits.workers,
            seconds=limits.find_seconds, detects=not cropped)))
        recogniser = Recogniser(run, finder, load(), limits.faces, second)
        recogniser.warm_up()
        queue = RequestQueue(recogniser.recognise, limits, counts)
        stack.callback(queue.close)
        stack.callback(finder.close)  # first, so that no thread waits for a process
        description = describe_run(run, limits, threshold, second, detects=not cropped)
        app = application(queue, offered, description, token=token)
        listener.listen()  # before the address is said: whoever is quick waits, and is not refused
        log.info("open %s%s (Ctrl-C ends it)%s", url, f"?token={token}" if token else "", "" if token is None else
                 ". Whoever has this address may send pictures, over a line that is not encrypted; browsers give their "
                 "camera to localhost only")
        make_server(app).run(sockets=[listener])
    return Summary([f"served {counts['pictures']} pictures with {counts['faces']} faces"
                    + (f", {counts['refused']} refused" if counts["refused"] else "")], {"url": url} | counts)


def describe_run(run: Run, limits: Limits, threshold: float, second: float, *, detects: bool) -> dict[str, Any]:
    """What the page says of the run."""
    return {
        "name": run.path.resolve().name, "classes": run.task.outputs, "taxonomy": run.taxonomy.name,
        "columns": "" if run.task.classes == len(run.task.outputs) else run.task.kind, "numbers": run.task.numbers,
        "head": run.kind, "members": run.head.spec.members, "streams": run.stream_names,
        "untrained": [name for name, (_, _, recipe) in zip(run.stream_names, run.streams, strict=True)
                      if recipe.untrained],
        "basic": run.basics, "threshold": threshold, "second": second, "none": NONE, "detects": detects,
        "limits": {"bytes": limits.bytes, "faces": limits.faces, "pixels": PHOTO_LIMITS.pixels},
    }


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


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM end what is within, as it is meant to end. uvicorn raises them again once it is done."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)
