"""Fetching shared stores from a real web server: interrupted, damaged, killed, refused."""

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.cache.conftest import moved, shared_files
from twofold.cache.errors import CacheError, TransferError
from twofold.cache.share.catalogue import CATALOGUE
from twofold.cache.share.transfer import pull, shared_listing

ROOT = Path(__file__).resolve().parents[2]


def arrived(back) -> list[str]:
    return sorted(path.name for path in back.path.iterdir() if path.name != ".lock")


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
    assert len(moved(pull(site.url, back), "already_there")) == 3 and set(site.sent) == {CATALOGUE}


def test_what_has_arrived_stays_where_the_rest_is_not_there(site, back):
    site.break_after = 1_000_000
    with pytest.raises(TransferError):
        pull(site.url, back)
    (site.folder / "a.h5").unlink()
    with pytest.raises(CacheError, match=r"a\.h5: there is no such file"):
        pull(site.url, back)
    assert any(path.stat().st_size for path in back.path.glob(".part-*"))


def test_a_server_without_ranges_starts_a_file_again(site, store, back):
    site.break_after, site.ranges = 1_000_000, False
    with pytest.raises(TransferError):
        pull(site.url, back)
    site.break_after = None
    assert pull(site.url, back).values["resumed_bytes"] == 0
    assert shared_files(back.path) == shared_files(store.path)


def test_a_pull_that_is_killed_goes_on(site, store, back):
    """kill -9 of the real command, halfway; what it left is invisible, and kept."""
    site.pause = 0.05
    process = subprocess.Popen([sys.executable, str(ROOT / "pipeline.py"), "cache", "pull", site.url, str(back.path)],
                               cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def had() -> int:
        return sum(path.stat().st_size for path in back.path.glob(".part-*"))

    while had() < 300_000:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert back.files() == [] and had() < (store.path / "a.h5").stat().st_size
    site.pause, kept = 0, had()
    assert pull(site.url, back).values["resumed_bytes"] == kept
    assert shared_files(back.path) == shared_files(store.path)


def test_damage_on_the_way_is_caught(site, store, back, cli):
    (back.path).mkdir()
    (back.path / "b.h5").write_bytes((store.path / "b.h5").read_bytes())
    site.damage = 500_000
    done = cli("cache", "pull", site.url, back.path)
    assert done.returncode == 1 and "a.h5 does not have the SHA-256 of its catalogue" in done.stderr
    assert done.stderr.count("\n") == 1
    assert arrived(back) == ["b.h5", "manifest.csv"]
    back.files()[0].check()
    site.damage, site.break_after = None, 1_000_000
    with pytest.raises(TransferError):
        pull(site.url, back)
    site.break_after = None
    with next(back.path.glob(".part-*")).open("r+b") as file:  # what an earlier attempt has left can be damaged, too
        file.write(b"\0\0\0\0")
    with pytest.raises(TransferError, match="SHA-256"):
        pull(site.url, back)
    assert arrived(back) == ["b.h5", "manifest.csv"]
    assert moved(pull(site.url, back)) == ["a.h5"]
    assert shared_files(back.path) == shared_files(store.path)


@pytest.mark.parametrize("change", [lambda data: data + b"more", lambda data: data[:-1000]])
def test_a_file_of_another_length_is_refused_at_once(site, back, change):
    path = site.folder / "a.h5"
    path.write_bytes(change(path.read_bytes()))
    site.pause = 600  # after its first bytes: who fetches the rest has no answer in time
    with pytest.raises(CacheError, match=r"a\.h5 is refused: it has \d+ bytes and its catalogue says \d+"):
        pull(site.url, back)
    assert arrived(back) == ["manifest.csv"]


def test_a_file_without_an_end_is_cut_off(site, store, back):
    site.endless = True
    with pytest.raises(CacheError, match=r"a\.h5 is refused: it has more than the \d+ bytes"):
        pull(site.url, back)
    assert site.sent["a.h5"] < 20 * (store.path / "a.h5").stat().st_size
    assert arrived(back) == ["manifest.csv"]


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
        assert done.returncode == 2 and "no password is sent to a web server" in done.stderr and not site.queries
        assert "sesame" not in done.stderr and "abcdef" not in done.stderr
    assert len(shared_listing(f"{site.url}?token=abcdef").values["files"]) == 2
    assert site.queries == ["token=abcdef"]
    site.status = 403
    done = cli("cache", "ls", f"{site.url}?token=abcdef")
    assert done.returncode == 2 and "no permission" in done.stderr and "abcdef" not in done.stderr


@pytest.mark.parametrize("elsewhere", ["http://localhost:9/x", "ftp://127.0.0.1/x"])
def test_nobody_is_followed_to_another_host(site, cli, elsewhere):
    site.move_to = elsewhere
    done = cli("cache", "ls", site.url)
    assert done.returncode == 2 and "is not followed: if you trust that place, give its own URL" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nX-Long: ", b"HTTP/1.1 200 OK\r\n\r\n"],
                         ids=["nothing", "head", "body"])
def test_a_server_that_is_silent_keeps_nobody(cli, monkeypatch, sent):
    monkeypatch.setattr("twofold.cache.share.places.TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        def trickle() -> None:
            client, _ = server.accept()
            with client, contextlib.suppress(OSError):
                client.recv(65536)
                client.sendall(sent)
                for _ in range(2000):  # a head that trickles is as good as none
                    client.sendall(b"a" if b"Long" in sent else b"")
                    time.sleep(0.05)

        threading.Thread(target=trickle, daemon=True).start()
        done = cli("cache", "ls", f"http://127.0.0.1:{server.getsockname()[1]}/store")
    assert done.returncode == 1 and "no answer in time" in done.stderr
