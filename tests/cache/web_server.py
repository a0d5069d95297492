"""A web server for tests, which can be told to break off, to damage, and to wait."""

import http.server
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Site:
    """A web server of one folder, and how it misbehaves with feature files."""

    folder: Path
    url: str = ""
    ranges: bool = True
    break_after: int | None = None  #: bytes of a feature file
    damage: int | None = None  #: position of a byte that arrives changed
    pause: float = 0.0  #: seconds after each 64 KB
    endless: bool = False  #: sends a feature file again and again, and does not say how long it is
    status: int = 0  #: answered to everything
    move_to: str = ""  #: where everything is redirected
    sent: dict[str, int] = field(default_factory=dict)
    headers: list[dict[str, str]] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)


class Handler(http.server.BaseHTTPRequestHandler):
    site: Site

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        site, name = self.site, self.path.partition("?")[0].rpartition("/")[2]
        site.headers.append(dict(self.headers))
        site.queries.append(self.path.partition("?")[2])
        path = site.folder / name
        if site.move_to:
            self.send_response(302)
            self.send_header("Location", f"{site.move_to}/{name}")
            self.end_headers()
        elif site.status or not path.is_file():
            self.send_error(site.status or 404)
        else:
            self.send_file(name, path.read_bytes())

    def send_file(self, name: str, data: bytes) -> None:
        site, start = self.site, 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and site.ranges:
            start = int(asked[1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        if site.endless and name.endswith(".h5"):
            data *= 1000
        else:
            self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        stop = len(data)
        if name.endswith(".h5"):
            if site.damage is not None:
                data = data[:site.damage] + bytes([data[site.damage] ^ 1]) + data[site.damage + 1:]
            stop = min(stop, start + site.break_after) if site.break_after is not None else stop
        for place in range(start, stop, 65536):
            piece = data[place:min(place + 65536, stop)]
            try:
                self.wfile.write(piece)
            except OSError:  # the other side was killed
                return
            site.sent[name] = site.sent.get(name, 0) + len(piece)
            time.sleep(site.pause if name.endswith(".h5") else 0)


def serve(folder: Path) -> Iterator[Site]:
    site = Site(folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Handler,), {"site": site}))
    site.url = f"http://127.0.0.1:{server.server_port}/stores/fer"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
