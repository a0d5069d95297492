"""Sharing through folders, memory, a real OpenSSH server and a web server: what is sent, what is refused, what is said.

TRIALS=1000 runs the pushes at once long.
"""

import fcntl
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.cache.conftest import moved, shared_files
from tests.cache.servers import free_port
from twofold.cache.errors import CacheError, TransferError
from twofold.cache.share.catalogue import CATALOGUE, ENTRIES, Entry
from twofold.cache.share.places import Address, Place, open_place, translate_errors
from twofold.cache.share.transfer import FORGOTTEN_SECONDS, pull, push, shared_listing
from twofold.cache.store import Store

ROOT = Path(__file__).resolve().parents[2]
TRIALS = int(os.environ.get("TRIALS", "20"))


def test_only_what_is_lacking_is_moved(url, store, back, write):
    assert moved(push(store, url)) == ["manifest.csv", "a.h5", "b.h5"]
    assert moved(pull(url, back, backbones=["timm:other"])) == ["manifest.csv", "b.h5"]
    write(store.path / "c.h5", backbone="timm:third")
    sent = push(store, url)
    assert moved(sent) == ["c.h5"] and moved(sent, "already_there") == ["manifest.csv", "a.h5", "b.h5"]
    assert moved(pull(url, back)) == ["a.h5", "c.h5"]
    assert shared_files(back.path) == shared_files(store.path)
    assert moved(pull(url, back)) == moved(push(back, url)) == []


@pytest.mark.parametrize("name", ["a.h5", "manifest.csv"])
def test_other_contents_are_refused_before_anything_moves(url, store, back, write, name):
    push(store, url)
    pull(url, back)
    there = shared_listing(url)
    if name == "a.h5":
        write(store.path / "a.h5", seed=1)
    else:
        (store.path / name).write_text("key\nother.jpg\n")
    write(store.path / "c.h5", backbone="timm:third")
    with pytest.raises(CacheError, match=rf"{name} is not the same in .*--replace.*cache merge.*nothing was transf"):
        push(store, url)
    assert shared_listing(url) == there
    assert moved(push(store, url, replace=True)) == [name, "c.h5"]
    (back.path / "b.h5").unlink()
    before = shared_files(back.path)
    with pytest.raises(CacheError, match=rf"{name} is not the same in .*--replace"):
        pull(url, back)
    assert shared_files(back.path) == before
    assert sorted(moved(pull(url, back, replace=True))) == sorted([name, "b.h5", "c.h5"])
    assert shared_files(back.path) == shared_files(store.path)


def test_a_file_that_no_catalogue_lists_is_never_overwritten_unasked(store, there):
    there.mkdir()
    (there / "a.h5").write_bytes(b"somebody's")
    with pytest.raises(CacheError, match=r"a\.h5 is not the same"):
        push(store, str(there))
    assert (there / "a.h5").read_bytes() == b"somebody's" and os.listdir(there) == ["a.h5"]


def test_what_is_there_already_is_not_sent_twice_and_what_was_cut_off_is(store, there):
    push(store, str(there))
    (there / CATALOGUE).unlink()  # a push without its end: what is read back equal is not sent
    assert moved(push(store, str(there))) == []
    assert len(shared_listing(f"file://{there}").values["files"]) == 2
    os.truncate(there / "a.h5", 1000)
    assert moved(push(store, str(there))) == ["a.h5"]
    assert shared_files(there) == shared_files(store.path)


class DamagedDisk(Place):
    """A folder whose disk changes a byte of what is written."""

    def __init__(self, place: Place):
        super().__init__(place.address, place.files, place.root)

    def write(self, name, chunks, start=0):
        super().write(name, (bytes([chunk[0] ^ 1]) + chunk[1:] for chunk in chunks), start)


def test_damage_of_what_was_sent_is_caught(url, store, monkeypatch):
    monkeypatch.setattr("twofold.cache.share.transfer.open_place", lambda where, **_: DamagedDisk(open_place(where)))
    with pytest.raises(TransferError, match=r"manifest\.csv does not have the SHA-256"):
        push(store, url)
    target = open_place(url)
    assert target.files.find(target.root) == [], "neither the file nor its temporary is left"


def test_a_folder_may_have_any_name_and_places_are_not_chained(store, tmp_path, cli):
    push(store, str(tmp_path / "a::b"))
    assert (tmp_path / "a::b" / "store.json").is_file() and not (tmp_path / "a").exists()
    done = cli("cache", "push", store.path, f"simplecache::file://{tmp_path}/c")
    assert done.returncode == 2 and "give one place" in done.stderr and not (tmp_path / "c").exists()


@pytest.mark.parametrize("length", [1_000_000, 4_000_000])
def test_an_earlier_attempt_is_gone_on_with_unless_it_is_longer_than_the_file(url, store, back, length):
    content, part = (store.path / "a.h5").read_bytes(), f".part-{Entry.of(store.path / 'a.h5').sha256}"
    left, target = (2 * content)[:length], open_place(url)
    had = length if length < len(content) else 0
    target.make()
    target.write(part, [left])
    assert push(store, url).values["resumed_bytes"] == (had if target.resumes else 0)
    back.path.mkdir()
    (back.path / part).write_bytes(left)
    assert pull(url, back).values["resumed_bytes"] == had
    assert shared_files(back.path) == shared_files(store.path)


def test_shards_of_unfinished_work_are_not_shared_and_said(store, there, write, cli):
    shards = store.path / ".shards" / "0123456789abcdef"
    shards.mkdir(parents=True)
    write(shards / "p1.h5", rows=5)
    done = cli("cache", "push", store.path, there)
    assert done.returncode == 0 and "not shared: unfinished work (parts: 1;" in done.stdout
    assert sorted(os.listdir(there)) == [ENTRIES, ".lock", "a.h5", "b.h5", "manifest.csv", CATALOGUE]


def test_the_reports_of_a_program(store, back, there, cli):
    sent = json.loads(cli("cache", "push", store.path, there, "--json").stdout)
    assert [entry["file"] for entry in sent["moved"]] == ["manifest.csv", "a.h5", "b.h5"]
    got = json.loads(cli("cache", "pull", there, back.path, "--backbones", "timm:tiny", "--json").stdout)
    assert got["bytes"] == sum(path.stat().st_size for path in back.path.iterdir()) and got["pushed"] is False
    listed = json.loads(cli("cache", "ls", f"file://{there}", "--json").stdout)
    here = json.loads(cli("cache", "ls", store.path, "--json").stdout)
    assert [{name: file[name] for name in file if name != "sha256"} for file in listed["files"]] == here["files"]


@pytest.mark.parametrize(("where", "said"), [
    ("nosuch://host/x", "nosuch:// is no kind of place that fsspec knows"), ("/dev/null/x", ""),
    ("http://127.0.0.1:9/x", "a web server can only be read"), ("ssh://127.0.0.1:x/y", "is not a URL"),
    ("ssh://127.0.0.1", "say which folder of which host"), ("sftp://127.0.0.1/", "say which folder of which host"),
    ("ssh:///folder", "say which folder of which host"), ("ssh://127.0.0.1/a#b", "say which folder of which host")])
def test_places_that_cannot_be_used(store, cli, where, said):
    if where.startswith("s"):
        pytest.importorskip("sshfs")
    done = cli("cache", "push", store.path, where)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize(("absent", "where", "line"), [
    ("sshfs", "ssh://127.0.0.1/x", "pip install fsspec sshfs"), ("fsspec", "sftp://h/x", "pip install fsspec sshfs"),
    ("fsspec", "there", "pip install fsspec"), ("s3fs", "s3://bucket/x", "pip install fsspec s3fs"),
    ("huggingface_hub", "hf://a/b", "pip install fsspec huggingface-hub")])
def test_a_missing_driver_is_named_with_the_line_that_installs_it(store, cli, monkeypatch, absent, where, line):
    monkeypatch.setitem(sys.modules, absent, None)
    done = cli("cache", "push", store.path, where)
    assert done.returncode == 2 and line in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_damaged_or_empty_store_is_not_shared(store, tmp_path, there, cli):
    os.truncate(store.path / "b.h5", 3000)
    done = cli("cache", "push", store.path, there)
    assert done.returncode == 2 and "b.h5" in done.stderr and not there.exists()
    (tmp_path / "empty").mkdir()
    assert "no feature files to share" in cli("cache", "push", tmp_path / "empty", there).stderr
    assert "no such store" in cli("cache", "push", tmp_path / "nothing", there).stderr


def test_two_pulls_at_once_do_no_harm(store, back, there, write):
    write(store.path / "large.h5", rows=8000, dim=512, backbone="timm:large")
    push(store, str(there))
    command = [sys.executable, "pipeline.py", "cache", "pull", str(there), str(back.path)]
    running = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in running:
        said = process.communicate(timeout=240)[1]
        assert process.returncode == 0 or (process.returncode == 1 and "another process" in said), said
    assert 0 in [process.returncode for process in running]
    assert shared_files(back.path) == shared_files(store.path)


def test_pushes_at_once_lose_no_entry_of_the_catalogue(tmp_path, write):
    """Two processes push different backbones into one shared folder at the same moment."""
    stores = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / f"{name}.h5", rows=20, backbone=f"timm:{name}")
        (tmp_path / name / "manifest.csv").write_text("key\nx.jpg\n")
        stores.append(Store(tmp_path / name))
        push(stores[-1], str(tmp_path / f"warm-{name}"))  # all is imported before the processes start
    chance, outcomes = random.Random(0), Counter()
    for trial in range(TRIALS):
        there = tmp_path / f"there{trial}"
        reading, writing = os.pipe()
        children = []
        for store in stores:
            delay, child = chance.uniform(0, 0.005), os.fork()
            if not child:
                try:
                    os.close(writing)
                    os.read(reading, 1)  # until the last end is closed
                    time.sleep(delay)
                    push(store, str(there))
                    os._exit(0)
                finally:
                    os._exit(1)
            children.append(child)
        os.close(reading)
        os.close(writing)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        listed = {file["file"] for file in shared_listing(str(there)).values["files"]}
        outcomes.update(lost=listed != {"a.h5", "b.h5"}, failed=codes != [0, 0], left=len(list(there.glob(".part-*"))))
    assert outcomes == Counter(lost=0, failed=0, left=0), outcomes


def test_a_file_that_another_process_is_fetching_is_left_to_it(store, back, there):
    push(store, str(there))
    back.path.mkdir()
    partial = back.path / f".part-{Entry.of(store.path / 'a.h5').sha256}"
    with partial.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(TransferError, match="another process is writing the same file"):
            pull(str(there), back)
    assert moved(pull(str(there), back)) == ["a.h5", "b.h5"]


def test_attempts_that_nobody_goes_on_with_are_removed_in_time(store, back, there):
    push(store, str(there))
    pull(str(there), back)
    old, new = (back.path / f".part-{digit * 64}" for digit in "01")
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, os.stat(new).st_mtime - FORGOTTEN_SECONDS - 1))
    pull(str(there), back)
    assert not old.exists() and new.exists()


@pytest.mark.parametrize(("url", "shown"), [
    ("ssh://me:pass@host:2222/x", "ssh://me@host:2222/x"), ("https://h/x/?token=abc", "https://h/x"),
    ("/a/folder", "/a/folder"), ("s3://bucket/x", "s3://bucket/x"), ("sftp://host/x/", "sftp://host/x"),
    ("ssh://me:pass@[::1]:2222/x", "ssh://me@[::1]:2222/x"), ("hf://datasets/a/b@main/x", "hf://datasets/a/b@main/x")])
def test_an_address_is_shown_without_its_secrets(url, shown):
    assert Address(url).shown == shown
    with pytest.raises(TransferError, match=r"GET /x\?\*\*\* failed"), translate_errors(Address("https://h/x?token=abc")):
        raise ValueError("GET /x?token=abc failed")
    assert (Address("ssh://[fe80::1%25eth0]:22/x").host, Address("ssh://h/x").host) == ("fe80::1%eth0", "h")


@pytest.mark.parametrize("url", [
    "http://host:x/y?token=abcdef", "https://me:abcdef@host:99999999/y", "http://[::1/x?abcdef", "ssh://a@abcdef@b:z/c",
    "://me:abcdef@x"])
def test_what_is_not_a_url_is_refused_without_its_secrets(url):
    with pytest.raises(CacheError, match="is not a URL") as caught:
        open_place(url)
    assert "abcdef" not in str(caught.value)


@pytest.mark.parametrize("how", ["symlink", "link", "ssh"])
def test_nothing_is_written_through_a_planted_link(store, there, tmp_path, how, request):
    url = request.getfixturevalue("host").url(there) if how == "ssh" else str(there)
    there.mkdir()
    precious, planted = tmp_path / "precious", there / f".part-{Entry.of(store.path / 'a.h5').sha256}"
    precious.write_bytes(b"mine")
    (os.link if how == "link" else os.symlink)(precious, planted)
    push(store, url)
    assert precious.read_bytes() == b"mine" and not planted.is_symlink() and not (there / "a.h5").is_symlink()
    assert shared_files(there) == shared_files(store.path)


def test_the_folder_of_entries_is_no_link(store, there, tmp_path):
    there.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (there / ENTRIES).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CacheError, match=r"\.catalogue is a link"):
        push(store, str(there))
    assert os.listdir(tmp_path / "elsewhere") == []


def test_a_pull_that_breaks_off_goes_on_where_it_was(site, store, back):
    site.break_after = 1_900_000
    with pytest.raises(TransferError, match=r"broke off: .* again, it goes on from [01]\.\d MB of the .* of a\.h5"):
        pull(site.url, back)
    assert not (back.path / "a.h5").exists() and (back.path / "manifest.csv").exists()
    had = next(back.path.glob(".part-*")).stat().st_size
    assert 500_000 < had <= 1_900_000
    site.break_after = None
    site.sent.clear()
    assert pull(site.url, back).values["resumed_bytes"] == had
    assert site.sent["a.h5"] == os.stat(store.path / "a.h5").st_size - had, "only the rest comes over the wire"
    assert shared_files(back.path) == shared_files(store.path)


def test_nobody_there(back, host, there):
    for url in ("http://127.0.0.1:9/x", host.url(there, free_port())):
        with pytest.raises(TransferError, match=r"nothing answers there \(connection refused\)"):
            pull(url, back)
        assert not back.path.exists()
