"""Servers on this machine for tests of sharing: a web server that can misbehave, OpenSSH, a connection that breaks."""

import contextlib
import getpass
import http.server
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


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
    queries: list[str] = field(default_factory=list)


class Handler(http.server.BaseHTTPRequestHandler):
    site: Site

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        site, name = self.site, self.path.partition("?")[0].rpartition("/")[2]
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
        site, misbehaves = self.site, name.endswith(".h5")
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) if self.site.ranges else None
        start = int(asked[1]) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if site.endless and misbehaves:
            data *= 1000
        else:
            self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if site.damage is not None and misbehaves:
            data = data[:site.damage] + bytes([data[site.damage] ^ 1]) + data[site.damage + 1:]
        data = data[start:start + site.break_after if site.break_after is not None and misbehaves else None]
        for place in range(0, len(data), 65536):
            piece = data[place:place + 65536]
            with contextlib.suppress(OSError):  # the other side was killed
                self.wfile.write(piece)
                site.sent[name] = site.sent.get(name, 0) + len(piece)
                time.sleep(site.pause if misbehaves else 0)


def serve_web(folder: Path) -> Iterator[Site]:
    site = Site(folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Handler,), {"site": site}))
    site.url = f"http://127.0.0.1:{server.server_port}/stores/fer"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()


@dataclass(frozen=True)
class Host:
    """A running OpenSSH server. home: the HOME of whoever connects to it."""

    port: int
    home: Path

    def url(self, folder: Path, port: int | None = None) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{port or self.port}{folder}"

    def introduce(self, port: int, address: str = "127.0.0.1") -> None:
        """Write its key into known_hosts."""
        key = (self.home / "host_key.pub").read_text().split()
        with (self.home / ".ssh" / "known_hosts").open("a") as file:
            file.write(f"[{address}]:{port} {key[0]} {key[1]}\n")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve_ssh(home: Path) -> Iterator[Host]:
    """An OpenSSH server with keys, configuration and a user's HOME of its own."""
    pytest.importorskip("sshfs", reason="no sshfs: pip install sshfs")
    if SSHD is None or shutil.which("ssh-keygen") is None:
        pytest.skip("no OpenSSH server on this machine (apt-get install openssh-server)")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it locks itself in before a login
    (home / ".ssh").mkdir(mode=0o700)
    for path in (home / "host_key", home / ".ssh" / "id_ed25519"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    shutil.copy(home / ".ssh" / "id_ed25519.pub", home / "authorized_keys")
    host = Host(free_port(), home)
    (home / "sshd_config").write_text(
        f"Port {host.port}\nListenAddress 127.0.0.1\nListenAddress ::1\nHostKey {home}/host_key\n"
        f"PidFile {home}/sshd.pid\nAuthorizedKeysFile {home}/authorized_keys\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n")
    running = subprocess.Popen([SSHD, "-D", "-e", "-f", home / "sshd_config"], stderr=(home / "log").open("w"))
    try:
        for _ in range(600):
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", host.port)):
                break
            time.sleep(0.05)
        else:
            pytest.fail(f"sshd does not start: {(home / 'log').read_text()}")
        host.introduce(host.port)
        yield host
    finally:
        running.terminate()
        running.wait(10)


@contextlib.contextmanager
def cut_off_after(port: int, count: int) -> Iterator[int]:
    """A way to `port` that breaks off once so many bytes have gone up; gives the port of its beginning."""
    listener = socket.create_server(("127.0.0.1", 0))
    ends: list[socket.socket] = [listener]

    def carry(source: socket.socket, to: socket.socket, most: int) -> None:
        with contextlib.suppress(OSError):
            while most > 0 and (data := source.recv(min(65536, most))):
                to.sendall(data)
                most -= len(data)
        for end, how in ((source, socket.SHUT_RDWR), (to, socket.SHUT_WR)):  # what has gone through is delivered
            with contextlib.suppress(OSError):
                end.shutdown(how)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, far = listener.accept()[0], socket.create_connection(("127.0.0.1", port))
                ends.extend((near, far))
                for ways in ((near, far, count), (far, near, 1 << 60)):
                    threading.Thread(target=carry, args=ways, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        for end in ends:
            end.close()
