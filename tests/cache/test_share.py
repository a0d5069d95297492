"""Sharing through folders and memory: what is sent, what is refused, what is said."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.cache.conftest import shared_files
from twofold.cache.errors import CacheError, TransferError
from twofold.cache.share.catalogue import CATALOGUE, ENTRIES, Entry
from twofold.cache.share.places import Address, Place, open_place
from twofold.cache.share.transfer import FORGOTTEN_SECONDS, pull, push, shared_listing
from twofold.cache.store import Store

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["folder", "file", "memory"])
def url(request, tmp_path):
    yield {"folder": str(tmp_path / "there" / "deep"), "file": f"file://{tmp_path}/there/deep",
           "memory": f"memory://{uuid.uuid4().hex}/deep"}[request.param]


def names(entries) -> list[str]:
    return [entry.name for entry in entries]


def test_only_what_is_lacking_is_moved(url, store, back, write):
    assert names(push(store, url).moved) == ["manifest.csv", "a.h5", "b.h5"]
    assert names(pull(url, back, backbones=["timm:other"]).moved) == ["manifest.csv", "b.h5"]
    write(store.path / "c.h5", backbone="timm:third")
    sent = push(store, url)
    assert names(sent.moved) == ["c.h5"] and names(sent.present) == ["manifest.csv", "a.h5", "b.h5"]
    assert names(pull(url, back).moved) == ["a.h5", "c.h5"]
    assert shared_files(back.path) == shared_files(store.path)
    assert pull(url, back).moved == push(back, url).moved == ()


def test_a_store_that_holds_less_takes_nothing_away(url, store, back, tmp_path, write):
    push(store, url)
    (tmp_path / "more").mkdir()
    write(tmp_path / "more" / "z.h5", backbone="timm:third")
    push(Store(tmp_path / "more"), url)
    assert [file.name for file in shared_listing(url).catalogue.files] == ["a.h5", "b.h5", "z.h5"]
    assert len(pull(url, back).moved) == 4


@pytest.mark.parametrize("name", ["a.h5", "manifest.csv"])
def test_other_contents_are_refused_before_anything_moves(url, store, back, write, name):
    push(store, url)
    pull(url, back)
    there = shared_listing(url).catalogue
    if name == "a.h5":
        write(store.path / "a.h5", seed=1)
    else:
        (store.path / name).write_text("key\nother.jpg\n")
    write(store.path / "c.h5", backbone="timm:third")
    with pytest.raises(CacheError, match=rf"{name} is not the same in .*--replace.*cache merge.*nothing was transf"):
        push(store, url)
    assert shared_listing(url).catalogue == there
    assert names(push(store, url, replace=True).moved) == [name, "c.h5"]
    (back.path / "b.h5").unlink()
    before = shared_files(back.path)
    with pytest.raises(CacheError, match=rf"{name} is not the same in .*--replace"):
        pull(url, back)
    assert shared_files(back.path) == before
    assert sorted(names(pull(url, back, replace=True).moved)) == sorted([name, "b.h5", "c.h5"])
    assert shared_files(back.path) == shared_files(store.path)


def test_a_file_that_no_catalogue_lists_is_never_overwritten_unasked(store, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a.h5").write_bytes(b"somebody's")
    with pytest.raises(CacheError, match=r"a\.h5 is not the same"):
        push(store, str(tmp_path / "there"))
    assert (tmp_path / "there" / "a.h5").read_bytes() == b"somebody's"
    assert os.listdir(tmp_path / "there") == ["a.h5"]


def test_a_push_without_its_end_is_not_sent_twice(store, tmp_path):
    """All files are there, the catalogue is not: what is read back equal is not sent."""
    push(store, str(tmp_path / "there"))
    (tmp_path / "there" / CATALOGUE).unlink()
    assert push(store, str(tmp_path / "there")).moved == ()
    assert len(shared_listing(f"file://{tmp_path}/there").catalogue.files) == 2


def test_a_file_that_was_cut_off_there_is_sent_again(store, tmp_path):
    push(store, str(tmp_path / "there"))
    os.truncate(tmp_path / "there" / "a.h5", 1000)
    assert names(push(store, str(tmp_path / "there")).moved) == ["a.h5"]
    assert shared_files(tmp_path / "there") == shared_files(store.path)


class DamagedDisk(Place):
    """A folder whose disk changes a byte of what is written."""

    def __init__(self, place: Place):
        super().__init__(place.address, place.files, place.root)

    def write(self, name, chunks, start=0):
        super().write(name, (bytes([chunk[0] ^ 1]) + chunk[1:] for chunk in chunks), start)


def test_damage_of_what_was_sent_is_caught(url, store, monkeypatch):
    monkeypatch.setattr("twofold.cache.share.transfer.open_place",
                        lambda where, **_: DamagedDisk(open_place(where)))
    with pytest.raises(TransferError, match=r"manifest\.csv arrived with another SHA-256"):
        push(store, url)
    monkeypatch.undo()
    target = open_place(url)
    assert target.files.find(target.root) == [], "neither the file nor its temporary is left"
    assert len(push(store, url).moved) == 3


def test_a_folder_may_have_any_name_and_places_are_not_chained(store, tmp_path, cli):
    push(store, str(tmp_path / "a::b"))
    assert (tmp_path / "a::b" / "store.json").is_file() and not (tmp_path / "a").exists()
    done = cli("cache", "push", store.path, f"simplecache::file://{tmp_path}/c")
    assert done.returncode == 2 and "give one place" in done.stderr and not (tmp_path / "c").exists()


def test_what_is_left_there_longer_than_the_file_is_started_again(url, store):
    target = open_place(url)
    target.make()
    target.write(f".push-{Entry.of(store.path / 'a.h5').sha256}", [b"x" * 4_000_000])
    assert push(store, url).resumed == 0
    listed = {(file.name, file.sha256) for file in shared_listing(url).catalogue.files}
    assert shared_files(store.path).items() >= listed


def test_parts_of_unfinished_work_are_not_shared_and_said(store, tmp_path, write, cli):
    parts = store.path / ".shards" / "0123456789abcdef"
    parts.mkdir(parents=True)
    write(parts / "p1.h5", rows=5)
    done = cli("cache", "push", store.path, tmp_path / "there")
    assert done.returncode == 0 and "not shared: unfinished work (parts: 1;" in done.stdout
    assert sorted(os.listdir(tmp_path / "there")) == [ENTRIES, "a.h5", "b.h5", "manifest.csv", CATALOGUE]


def test_the_reports_of_a_program(store, back, tmp_path, cli):
    sent = json.loads(cli("cache", "push", store.path, tmp_path / "there", "--json").stdout)
    assert [entry["file"] for entry in sent["moved"]] == ["manifest.csv", "a.h5", "b.h5"]
    got = json.loads(cli("cache", "pull", tmp_path / "there", back.path, "--backbones", "timm:tiny", "--json").stdout)
    assert got["bytes"] == sum(path.stat().st_size for path in back.path.iterdir()) and got["pushed"] is False
    listed = json.loads(cli("cache", "ls", f"file://{tmp_path}/there", "--json").stdout)
    here = json.loads(cli("cache", "ls", store.path, "--json").stdout)
    assert [{name: file[name] for name in file if name != "sha256"} for file in listed["files"]] == here["files"]


@pytest.mark.parametrize(("where", "code", "said"), [
    ("nosuch://host/x", 2, "nosuch:// is no kind of place that fsspec knows"),
    ("http://127.0.0.1:9/x", 2, "a web server can only be read"), ("ssh://127.0.0.1:x/y", 2, "is not a URL"),
    ("/dev/null/x", 2, "")])
def test_places_that_cannot_be_used(store, cli, where, code, said):
    done = cli("cache", "push", store.path, where)
    assert done.returncode == code and said in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize(("absent", "where", "line"), [
    ("sshfs", "ssh://127.0.0.1/x", "pip install fsspec sshfs"), ("fsspec", "sftp://h/x", "pip install fsspec sshfs"),
    ("fsspec", "there", "pip install fsspec"), ("s3fs", "s3://bucket/x", "pip install fsspec s3fs"),
    ("huggingface_hub", "hf://a/b", "pip install fsspec huggingface-hub")])
def test_a_missing_driver_is_named_with_the_line_that_installs_it(store, absent, where, line):
    code = (f"import sys\nsys.modules[{absent!r}] = None\nfrom twofold import pipeline\n"
            f"sys.exit(pipeline.main(['cache', 'push', {str(store.path)!r}, {where!r}]))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 2 and line in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_damaged_or_empty_store_is_not_shared(store, tmp_path, cli):
    os.truncate(store.path / "b.h5", 3000)
    done = cli("cache", "push", store.path, tmp_path / "there")
    assert done.returncode == 2 and "b.h5" in done.stderr and not (tmp_path / "there").exists()
    (tmp_path / "empty").mkdir()
    assert "no feature files to share" in cli("cache", "push", tmp_path / "empty", tmp_path / "there").stderr
    assert "no such store" in cli("cache", "push", tmp_path / "nothing", tmp_path / "there").stderr


def test_two_pulls_at_once_do_no_harm(store, back, tmp_path, write):
    write(store.path / "large.h5", rows=8000, dim=512, backbone="timm:large")
    push(store, str(tmp_path / "there"))
    command = [sys.executable, "pipeline.py", "cache", "pull", str(tmp_path / "there"), str(back.path)]
    running = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for process in running:
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 0 or (process.returncode == 1 and "another process" in said), said
    assert 0 in [process.returncode for process in running]
    assert shared_files(back.path) == shared_files(store.path)


def test_a_file_that_another_process_is_fetching_is_left_to_it(store, back, tmp_path):
    push(store, str(tmp_path / "there"))
    back.path.mkdir()
    partial = back.path / f".pull-{Entry.of(store.path / 'b.h5').sha256}"
    with partial.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(TransferError, match="another process is fetching the same file"):
            pull(str(tmp_path / "there"), back)
    assert names(pull(str(tmp_path / "there"), back).moved) == ["b.h5"]


def test_attempts_that_nobody_goes_on_with_are_removed_in_time(store, back, tmp_path):
    push(store, str(tmp_path / "there"))
    pull(str(tmp_path / "there"), back)
    old, new = (back.path / f".pull-{digit * 64}" for digit in "01")
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, os.stat(new).st_mtime - FORGOTTEN_SECONDS - 1))
    pull(str(tmp_path / "there"), back)
    assert not old.exists() and new.exists()


@pytest.mark.parametrize(("url", "shown"), [
    ("ssh://me:pass@host:2222/x", "ssh://me@host:2222/x"), ("https://h/x/?token=abc", "https://h/x"),
    ("/a/folder", "/a/folder"), ("s3://bucket/x", "s3://bucket/x"), ("sftp://host/x/", "sftp://host/x"),
    ("ssh://me:pass@[::1]:2222/x", "ssh://me@[::1]:2222/x"), ("hf://datasets/a/b@main/x", "hf://datasets/a/b@main/x")])
def test_an_address_is_shown_without_its_secrets(url, shown):
    assert Address.parse(url).shown == shown
    assert "abc" not in Address.parse("https://h/x?token=abc").without_secrets("GET /x?token=abc failed")


@pytest.mark.parametrize("url", [
    "http://host:x/y?token=abcdef", "https://me:abcdef@host:99999999/y", "http://[::1/x?abcdef", "ssh://a@abcdef@b:z/c"])
def test_what_is_not_a_url_is_refused_without_its_secrets(url):
    with pytest.raises(CacheError, match="is not a URL") as caught:
        open_place(url)
    assert "abcdef" not in str(caught.value)


@pytest.mark.parametrize("how", ["symlink", "link"])
def test_nothing_is_written_through_a_planted_link(store, tmp_path, how):
    there, precious = tmp_path / "there", tmp_path / "precious"
    there.mkdir()
    precious.write_bytes(b"mine")
    planted = there / f".push-{Entry.of(store.path / 'a.h5').sha256}"
    getattr(os, how)(precious, planted)
    push(store, str(there))
    assert precious.read_bytes() == b"mine" and not planted.is_symlink() and not (there / "a.h5").is_symlink()
    assert shared_files(there) == shared_files(store.path)


def test_the_folder_of_entries_is_no_link(store, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "there" / ENTRIES).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CacheError, match=r"\.catalogue is a link"):
        push(store, str(tmp_path / "there"))
    assert os.listdir(tmp_path / "elsewhere") == []


def test_a_disk_without_hard_links_is_shared_to(store, tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    push(store, str(tmp_path / "there"))
    assert shared_files(tmp_path / "there") == shared_files(store.path)
