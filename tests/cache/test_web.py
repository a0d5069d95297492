"""Fetching shared stores from a real web server: interrupted, damaged, killed, refused."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.cache.conftest import shared_files
from tests.cache.web_server import serve
from twofold.cache.errors import CacheError, TransferError
from twofold.cache.share.catalogue import CATALOGUE
from twofold.cache.share.transfer import pull, push, shared_listing
from twofold.cache.store import Store

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def site(tmp_path, store):
    push(store, str(tmp_path / "www"))
    yield from serve(tmp_path / "www")


def size_of(store: Store, name: str) -> int:
    return (store.path / name).stat().st_size


def test_a_store_is_listed_and_fetched(site, store, back, cli):
    listed = cli("cache", "ls", site.url)
    here = cli("cache", "ls", store.path)
    assert listed.returncode == 0 and listed.stdout == here.stdout
    assert set(site.sent) == {CATALOGUE}, "the catalogue is all that a listing needs"
    assert cli("cache", "ls", f"{site.url}/{CATALOGUE}").stdout == here.stdout
    done = cli("cache", "pull", site.url, back.path)
    assert done.returncode == 0 and done.stderr == ""
    assert shared_files(back.path) == shared_files(store.path)
    assert "3 files" in done.stdout and "SHA-256 verified" in done.stdout
    site.sent.clear()
    assert len(pull(site.url, back).present) == 3 and set(site.sent) == {CATALOGUE}


def test_what_breaks_off_goes_on_by_range(site, store, back):
    site.break_after = 1_000_000
    with pytest.raises(TransferError, match=r"connection broke off: .* goes on from [01]\.\d MB of the .* of a\.h5"):
        pull(site.url, back)
    assert not (back.path / "a.h5").exists() and (back.path / "manifest.csv").exists()
    site.break_after = None
    site.sent.clear()
    done = pull(site.url, back)
    assert 900_000 < done.resumed <= 1_000_000
    assert site.sent["a.h5"] == size_of(store, "a.h5") - done.resumed, "only the rest comes over the wire"
    assert shared_files(back.path) == shared_files(store.path)


def test_what_has_arrived_stays_where_the_rest_is_not_there(site, back):
    site.break_after = 1_000_000
    with pytest.raises(TransferError):
        pull(site.url, back)
    (site.folder / "a.h5").unlink()
    with pytest.raises(CacheError, match=r"a\.h5: there is no such file"):
        pull(site.url, back)
    assert any(path.stat().st_size for path in back.path.glob(".pull-*"))


def test_a_server_without_ranges_starts_a_file_again(site, store, back):
    site.break_after, site.ranges = 1_000_000, False
    with pytest.raises(TransferError):
        pull(site.url, back)
    site.break_after = None
    assert pull(site.url, back).resumed == 0
    assert shared_files(back.path) == shared_files(store.path)


def test_a_pull_that_is_killed_goes_on(site, store, back):
    """kill -9 of the real command, halfway; what it left is invisible, and kept."""
    site.pause = 0.05
    process = subprocess.Popen([sys.executable, str(ROOT / "pipeline.py"), "cache", "pull", site.url, str(back.path)],
                               cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while site.sent.get("a.h5", 0) < 800_000:
        assert time.monotonic() < deadline and process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [file.path.name for file in back.files()] == []
    had = sum(path.stat().st_size for path in back.path.glob(".pull-*"))
    assert 300_000 < had < size_of(store, "a.h5")
    time.sleep(0.2)  # the server notices that nobody listens
    site.pause = 0
    site.sent.clear()
    assert pull(site.url, back).resumed == had
    assert site.sent["a.h5"] == size_of(store, "a.h5") - had
    assert shared_files(back.path) == shared_files(store.path)


def test_damage_on_the_way_is_caught(site, store, back, cli):
    (back.path).mkdir()
    (back.path / "b.h5").write_bytes((store.path / "b.h5").read_bytes())
    site.damage = 500_000
    done = cli("cache", "pull", site.url, back.path)
    assert done.returncode == 1 and "a.h5 does not have the SHA-256 of its catalogue" in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in back.path.iterdir() if path.name != ".lock") == ["b.h5", "manifest.csv"]
    back.files()[0].check()
    site.damage = None
    assert len(pull(site.url, back).moved) == 1
    assert shared_files(back.path) == shared_files(store.path)


def test_a_damaged_beginning_of_an_earlier_attempt_is_caught(site, store, back):
    site.break_after = 1_000_000
    with pytest.raises(TransferError):
        pull(site.url, back)
    site.break_after = None
    partial = next(back.path.glob(".pull-*"))
    with partial.open("r+b") as file:
        file.write(b"\0\0\0\0")
    with pytest.raises(TransferError, match="SHA-256"):
        pull(site.url, back)
    assert not list(back.path.glob(".pull-*")) and not (back.path / "a.h5").exists()
    pull(site.url, back)
    assert shared_files(back.path) == shared_files(store.path)


@pytest.mark.parametrize("change", [lambda data: data + b"more", lambda data: data[:-1000]])
def test_a_file_of_another_length_is_refused_at_once(site, back, change):
    path = site.folder / "a.h5"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CacheError, match=r"a\.h5 is refused: it has \d+ bytes and its catalogue says \d+"):
        pull(site.url, back)
    assert site.sent.get("a.h5", 0) <= 16 << 16, "it is not fetched"
    assert sorted(path.name for path in back.path.iterdir() if path.name != ".lock") == ["manifest.csv"]


def test_a_file_without_an_end_is_cut_off(site, store, back):
    site.endless = True
    with pytest.raises(CacheError, match=r"a\.h5 is refused: it has more than the \d+ bytes"):
        pull(site.url, back)
    assert site.sent["a.h5"] < 20 * size_of(store, "a.h5")
    assert sorted(path.name for path in back.path.iterdir() if path.name != ".lock") == ["manifest.csv"]


@pytest.mark.parametrize(("status", "code", "said"), [
    (404, 2, "has no store.json: it is not a store that `cache push` has written"),
    (403, 2, "no permission (the server answers 403)"), (400, 2, "answers 400"),
    (503, 1, "answers 503"), (500, 1, "answers 500")])
def test_what_the_server_says_is_one_sentence(site, back, cli, status, code, said):
    site.status = status
    done = cli("cache", "pull", site.url, back.path)
    assert done.returncode == code and said in done.stderr and done.stderr.count("\n") == 1
    assert not back.path.exists()


def test_secrets_of_an_address_are_never_shown(site, cli):
    """No password is sent to a web server; a query, which may hold a key, is."""
    for secret in ("me:sesame@", ":sesame@"):
        done = cli("cache", "ls", site.url.replace("://", f"://{secret}") + "?token=abcdef")
        assert done.returncode == 2 and "no password is sent to a web server" in done.stderr and not site.headers
        assert "sesame" not in done.stderr and "abcdef" not in done.stderr
    assert len(shared_listing(f"{site.url}?token=abcdef").catalogue.files) == 2
    assert site.queries == ["token=abcdef"]
    site.status = 403
    done = cli("cache", "ls", f"{site.url}?token=abcdef")
    assert done.returncode == 2 and "no permission" in done.stderr and "abcdef" not in done.stderr


def test_a_page_instead_of_a_catalogue_is_refused(site, cli):
    (site.folder / CATALOGUE).write_text("<html>Welcome</html>")
    done = cli("cache", "ls", site.url)
    assert done.returncode == 2 and "is not one that `cache push` of" in done.stderr


@pytest.mark.parametrize("elsewhere", ["http://localhost:9/x", "ftp://127.0.0.1/x"])
def test_nobody_is_followed_to_another_host(site, cli, elsewhere):
    site.move_to = elsewhere
    done = cli("cache", "ls", site.url)
    assert done.returncode == 2 and "is not followed: if you trust that place, give its own URL" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("sent", "said"), [
    (b"", "no answer in time"), (b"HTTP/1.1 200 OK\r\nX-Long: ", "no answer in time"),
    (b"HTTP/1.1 200 OK\r\n\r\n", "no answer in time")], ids=["nothing", "head", "body"])
def test_a_server_that_is_silent_keeps_nobody(cli, monkeypatch, sent, said):
    monkeypatch.setattr("twofold.cache.share.places.TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        def trickle() -> None:
            client, _ = server.accept()
            with client, contextlib.suppress(OSError):
                client.recv(65536)
                client.sendall(sent)
                for _ in range(100):  # a head that trickles is as good as none
                    client.sendall(b"a" if b"Long" in sent else b"")
                    time.sleep(0.05)

        threading.Thread(target=trickle, daemon=True).start()
        began = time.monotonic()
        done = cli("cache", "ls", f"http://127.0.0.1:{server.getsockname()[1]}/store")
    assert done.returncode == 1 and said in done.stderr and time.monotonic() - began < 3


def test_nobody_there(cli, back):
    done = cli("cache", "pull", "http://127.0.0.1:9/x", back.path)
    assert done.returncode == 1 and "nothing answers there (connection refused)" in done.stderr
    assert os.listdir(back.path.parent) == []
