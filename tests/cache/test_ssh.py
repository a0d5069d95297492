"""What only an SSH server can do: its keys, logins, names, and a push that breaks off."""

import getpass
import shutil
import socket
import subprocess
import threading
import time

import pytest

from tests.cache.conftest import moved, shared_files
from tests.cache.servers import cut_off_after
from twofold.cache.errors import CacheError, TransferError
from twofold.cache.share.catalogue import CATALOGUE, Entry
from twofold.cache.share.transfer import pull, push, shared_listing


def test_a_process_that_has_pulled_ends(host, store, back, there, pipeline):
    push(store, host.url(there))
    done = pipeline("cache", "pull", host.url(there), back.path)
    assert done.returncode == 0, done.stderr
    assert shared_files(there) == shared_files(back.path) == shared_files(store.path)


def test_a_push_that_breaks_off_goes_on_where_it_was(host, store, there, caplog):
    with cut_off_after(host.port, 2_500_000) as port:
        host.introduce(port)
        with pytest.raises(TransferError, match="run the same command again, what has arrived is kept"):
            push(store, host.url(there, port))
    assert not caplog.records
    assert not (there / "a.h5").exists() and not (there / CATALOGUE).exists()
    sizes = [-1]
    while len(sizes) < 3 or len(set(sizes[-3:])) > 1:  # the server writes on what has reached it
        time.sleep(0.1)
        sizes.append(sum(path.stat().st_size for path in there.glob(".part-*")))
    again = push(store, host.url(there))
    assert again.values["resumed_bytes"] == sizes[-1] >= 32768 and sizes[-1] < Entry.of(store.path / "a.h5").bytes
    assert shared_files(there) == shared_files(store.path)


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
    assert len(moved(push(store, f"ssh://box{tmp_path}/there"))) == 3


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


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    (tmp_path / "disk").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path / "disk"]).returncode:
        pytest.skip("no file system can be mounted here")
    yield tmp_path / "disk"
    subprocess.run(["umount", "-l", tmp_path / "disk"], check=True)


def test_a_full_disk_there_is_said(host, store, small_disk, cli):
    for url, said in ((host.url(small_disk), "its disk"), (small_disk, "its disk has")):
        done = cli("cache", "push", store.path, url)
        assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr
        assert "damaged" not in done.stderr and not (small_disk / "a.h5").exists()


def test_an_ipv6_address(host, store, back, there):
    url = host.url(there).replace("127.0.0.1", "[::1]")
    with pytest.raises(CacheError, match=r"ssh://.*@\[::1\]:\d+/.*not in ~/.ssh/known_hosts"):
        push(store, url)
    host.introduce(host.port, "::1")
    assert len(moved(push(store, url))) == len(moved(pull(url, back))) == 3
