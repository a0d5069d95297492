"""Sharing through a real OpenSSH server on this machine."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cache.conftest import shared_files
from twofold.cache.errors import CacheError, TransferError
from twofold.cache.feature_file import FeatureFile
from twofold.cache.share.catalogue import CATALOGUE, Entry
from twofold.cache.share.transfer import pull, push, shared_listing
from twofold.cache.store import Store

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True)
class Host:
    """A running server. home: the HOME of whoever connects to it."""

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


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """An OpenSSH server with keys, configuration and a user's HOME of its own."""
    pytest.importorskip("sshfs", reason="no sshfs: pip install sshfs")
    if SSHD is None or shutil.which("ssh-keygen") is None:
        pytest.skip("no OpenSSH server on this machine (apt-get install openssh-server)")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it locks itself in before a login
    home = tmp_path_factory.mktemp("home")
    (home / ".ssh").mkdir(mode=0o700)
    for path in (home / "host_key", home / ".ssh" / "id_ed25519"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    shutil.copy(home / ".ssh" / "id_ed25519.pub", home / "authorized_keys")
    host = Host(free_port(), home)
    (home / "sshd_config").write_text(
        f"Port {host.port}\nListenAddress 127.0.0.1\nListenAddress ::1\nHostKey {home}/host_key\n"
        f"PidFile {home}/sshd.pid\n"
        f"AuthorizedKeysFile {home}/authorized_keys\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        "PermitRootLogin yes\nSubsystem sftp internal-sftp\n")
    running = subprocess.Popen([SSHD, "-D", "-e", "-f", home / "sshd_config"], stderr=(home / "log").open("w"))
    try:
        for _ in range(100):
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


@pytest.fixture
def host(server, monkeypatch):
    monkeypatch.setenv("HOME", str(server.home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return server


@contextlib.contextmanager
def cut_off_after(port: int, *, up: int = 1 << 60, down: int = 1 << 60):
    """A way to `port` that breaks off once so many bytes have gone up or down; gives the port of its beginning."""
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
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", port))
                ends.extend((near, far))
                threading.Thread(target=carry, args=(near, far, up), daemon=True).start()
                threading.Thread(target=carry, args=(far, near, down), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def test_a_store_goes_there_and_back(host, store, tmp_path, cli, pipeline):
    url = host.url(tmp_path / "there" / "deep")
    sent = cli("cache", "push", store.path, url)
    assert sent.returncode == 0, sent.stderr
    assert shared_files(tmp_path / "there" / "deep") == shared_files(store.path)
    assert [file["file"] for file in shared_listing(url).record()["files"]] == ["a.h5", "b.h5"]
    back = pipeline("cache", "pull", url, tmp_path / "back", timeout=60)  # a process, which ends when all is there
    assert back.returncode == 0, back.stderr
    assert shared_files(tmp_path / "back") == shared_files(store.path)
    assert pull(url, Store(tmp_path / "back")).moved == push(store, url).moved == ()
    FeatureFile(tmp_path / "back" / "a.h5").check()


def test_a_pull_that_breaks_off_goes_on_where_it_was(host, store, tmp_path):
    push(store, host.url(tmp_path / "there"))
    with cut_off_after(host.port, down=1_900_000) as port:
        host.introduce(port)
        with pytest.raises(TransferError, match=r"again, it goes on from .* MB of a\.h5"):
            pull(host.url(tmp_path / "there", port), Store(tmp_path / "back", new=True))
    assert not (tmp_path / "back" / "a.h5").exists()
    had = sum(path.stat().st_size for path in (tmp_path / "back").glob(".pull-*"))
    assert 500_000 < had < 1_900_000
    moved = []
    again = pull(host.url(tmp_path / "there"), Store(tmp_path / "back"), progress=lambda count, _: moved.append(count))
    assert again.resumed == had == moved[0]
    assert shared_files(tmp_path / "back") == shared_files(store.path)


def test_a_push_that_breaks_off_goes_on_where_it_was(host, store, tmp_path, caplog):
    with cut_off_after(host.port, up=2_500_000) as port:
        host.introduce(port)
        with pytest.raises(TransferError, match="run the same command again, what has arrived is kept"):
            push(store, host.url(tmp_path / "there", port))
    assert not caplog.records
    assert not (tmp_path / "there" / "a.h5").exists() and not (tmp_path / "there" / CATALOGUE).exists()
    time.sleep(0.3)  # the server writes on what has reached it
    had = sum(path.stat().st_size for path in (tmp_path / "there").glob(".push-*"))
    again = push(store, host.url(tmp_path / "there"))
    assert again.resumed == had >= 32768 and had < Entry.of(store.path / "a.h5").bytes
    assert shared_files(tmp_path / "there") == shared_files(store.path)


@pytest.mark.parametrize("changed", [False, True])
def test_a_host_whose_key_is_not_known_or_has_changed_is_refused(host, tmp_path, monkeypatch, changed):
    shutil.copytree(host.home / ".ssh", tmp_path / ".ssh")
    key = (host.home / ".ssh" / "id_ed25519.pub").read_text().split()
    (tmp_path / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{host.port} {key[0]} {key[1]}\n" if changed else "")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(CacheError, match=r"127.0.0.1.* is not in ~/.ssh/known_hosts: connect to it once with `ssh`"):
        shared_listing(host.url(tmp_path))


def test_a_login_that_is_refused_is_said_without_the_password(host, tmp_path, monkeypatch, cli):
    nobody = tmp_path / "nobody"
    (nobody / ".ssh").mkdir(parents=True)
    shutil.copy(host.home / ".ssh" / "known_hosts", nobody / ".ssh")
    monkeypatch.setenv("HOME", str(nobody))
    done = cli("cache", "ls", host.url(tmp_path).replace("@", ":hunter2@", 1))
    assert done.returncode == 2 and "the login is refused" in done.stderr
    assert "hunter2" not in done.stderr and done.stderr.count("\n") == 1


def test_names_of_the_ssh_config_are_known(host, store, tmp_path, monkeypatch):
    home = tmp_path / "home"
    shutil.copytree(host.home / ".ssh", home / ".ssh")
    (home / ".ssh" / "id_ed25519").rename(home / "elsewhere")
    (home / ".ssh" / "config").write_text(
        f"Host box\n HostName 127.0.0.1\n Port {host.port}\n User {getpass.getuser()}\n"
        f" IdentityFile {home}/elsewhere\n")
    monkeypatch.setenv("HOME", str(home))
    assert len(push(store, f"ssh://box{tmp_path}/there").moved) == 3


def test_what_is_not_there_and_who_does_not_answer(host, tmp_path):
    with pytest.raises(CacheError, match=r"has no store\.json"):
        shared_listing(host.url(tmp_path / "nothing"))
    for url in ("ssh://127.0.0.1", "sftp://127.0.0.1/", "ssh:///folder"):
        with pytest.raises(CacheError, match="say which folder of which host"):
            shared_listing(url)
    with pytest.raises(TransferError, match="connection refused"):
        shared_listing(host.url(tmp_path, free_port()))


def test_who_is_no_ssh_server_is_said_to_be_none(host, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def greet() -> None:
            near, _ = listener.accept()
            near.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            near.close()

        threading.Thread(target=greet, daemon=True).start()
        with pytest.raises(TransferError, match="does not answer as an SSH server does"):
            shared_listing(host.url(tmp_path, listener.getsockname()[1]))


def test_a_folder_that_cannot_be_made_is_said(host, store, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CacheError, match=r"^ssh://.*/file/store: .* a file in the way"):
        push(store, host.url(tmp_path / "file" / "store"))


def test_nothing_is_written_through_a_planted_link(host, store, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "precious").write_bytes(b"mine")
    planted = tmp_path / "there" / f".push-{Entry.of(store.path / 'a.h5').sha256}"
    planted.symlink_to(tmp_path / "precious")
    push(store, host.url(tmp_path / "there"))
    assert (tmp_path / "precious").read_bytes() == b"mine" and not (tmp_path / "there" / "a.h5").is_symlink()
    assert shared_files(tmp_path / "there") == shared_files(store.path)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    (tmp_path / "disk").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path / "disk"]).returncode:
        pytest.skip("no file system can be mounted here")
    yield tmp_path / "disk"
    subprocess.run(["umount", "-l", tmp_path / "disk"], check=True)


def test_a_full_disk_there_is_said(host, store, small_disk, cli):
    for url, said in ((host.url(small_disk), "its disk"), (small_disk, "the disk is full")):
        done = cli("cache", "push", store.path, url)
        assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr
        assert "damaged" not in done.stderr and not (small_disk / "a.h5").exists()


def test_an_ipv6_address(host, store, tmp_path):
    url = host.url(tmp_path / "there").replace("127.0.0.1", "[::1]")
    with pytest.raises(CacheError, match=r"ssh://.*@\[::1\]:\d+/.*not in ~/.ssh/known_hosts"):
        push(store, url)
    host.introduce(host.port, "::1")
    assert len(push(store, url).moved) == len(pull(url, Store(tmp_path / "back", new=True)).moved) == 3
