"""Shards and the finished file made from them, on disks and beside processes that give trouble."""

import errno
import os
import socket
import stat

import numpy as np
import pytest

from tests.cache.conftest import make_recipe
from twofold.cache import shards as shards_module
from twofold.cache.errors import CacheError
from twofold.cache.shards import Rows, assemble, file_state, publish_shard, remove_leftovers, retired_rows
from twofold.cache.store import Store
from twofold.cache.verify import verify
from twofold.data.utils import atomic
from twofold.data.utils.atomic import remove_stale_files, temporary_file, try_lock

KEYS = [f"{number:03d}.jpg" for number in range(600)]
VALUES = np.arange(1200, dtype=np.float16).reshape(600, 2)
HOW = make_recipe()


def publish(store, rows=range(600), *, how=HOW, failures=None, values=VALUES, sha="0"):
    rows = list(rows)
    return publish_shard(store, how, 2, Rows(keys=[KEYS[row] for row in rows], sha256=[sha * 64] * len(rows),
                                            features=values[rows], failures=failures or {}))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path, new=True)


@pytest.fixture
def whole(store):
    """A store of one shard of all rows."""
    publish(store)
    return store


def test_shards_in_any_order_become_one_file_in_manifest_order(store):
    for rows in np.array_split(np.random.default_rng(0).permutation(599), 7):
        publish(store, rows)
    assert not file_state(store, HOW).is_complete(KEYS)
    assert assemble(store, HOW, 2, KEYS) is None
    publish(store, [], failures={"599.jpg": "not an image"})
    file = assemble(store, HOW, 2, KEYS)
    assert file.keys.tolist() == KEYS[:599] and file.failures == {"599.jpg": "not an image"}
    np.testing.assert_array_equal(file.read(dtype=np.float16), VALUES[:599])
    assert file_state(store, HOW).is_complete(KEYS)
    assert not (store.path / ".shards").exists()
    assert file.path.name == f"timm-tiny.original.{HOW.fingerprint[:8]}.h5"


def test_a_sample_taken_out_is_kept_aside_and_comes_back_for_nothing(cli, whole):
    assemble(whole, HOW, 2, KEYS)
    fewer = assemble(whole, HOW, 2, KEYS[100:])
    assert fewer.keys.tolist() == KEYS[100:] and retired_rows(whole, HOW) == 100
    assert file_state(whole, HOW).is_complete(KEYS[100:]) and {*file_state(whole, HOW).rows.place} == {*KEYS}
    listed = cli("cache", "ls", whole.path).stdout
    assert "kept aside: 100 rows" in listed and "unfinished" not in listed
    np.testing.assert_array_equal(assemble(whole, HOW, 2, KEYS).read(dtype=np.float16), VALUES)
    assert retired_rows(whole, HOW) == 0


@pytest.mark.parametrize("damage", [
    lambda content: b"", lambda content: b"<html>",
    lambda content: content.replace(VALUES[300:309].tobytes(), b"\1" * 36)])
def test_a_damaged_shard_is_set_aside_and_its_rows_are_missing(store, caplog, damage):
    publish(store, range(300))
    shard = publish(store, range(300, 600))
    shard.write_bytes(damage(shard.read_bytes()))
    assert list(file_state(store, HOW).rows.place) == KEYS[:300]
    assert "set aside" in caplog.text and shard.with_name(shard.name + ".damaged").exists()


def test_a_shard_of_another_recipe_is_set_aside(store):
    shard = publish(store, how=make_recipe(precision="bf16"))
    store.shard_folder(HOW).mkdir()
    shard.rename(store.shard_folder(HOW) / shard.name)
    assert file_state(store, HOW).rows.place == {}


def test_leftovers_of_dead_processes_go_and_of_living_ones_stay(whole):
    dead = whole.path / f".tmp-{socket.gethostname()}-{'0' * 32}"
    foreign, forgotten = (whole.path / f".tmp-some-other-host-{digit * 32}" for digit in "01")
    for path in (dead, foreign, forgotten):
        path.write_text("half")
    os.utime(forgotten, (0, 0))
    with temporary_file(whole.path) as alive:  # whatever the process ids: a container has others than its neighbour
        assemble(whole, HOW, 2, KEYS)
        assert alive.exists() and not dead.exists() and not forgotten.exists() and foreign.exists()


@pytest.mark.parametrize("remaining", [".", "fingerprint", "fingerprint/temporary"])
@pytest.mark.parametrize("clean", [lambda *found: assemble(*found, 2, KEYS), remove_leftovers])
def test_what_a_kill_between_publishing_and_tidying_up_leaves_goes_with_the_next_run(
        whole, remaining, clean, monkeypatch):
    assemble(whole, HOW, 2, KEYS)
    folder = whole.shard_folder(HOW)
    (folder.parent if remaining == "." else folder).mkdir(parents=True)
    if remaining.endswith("temporary"):
        (folder / f".tmp-{socket.gethostname()}-{'0' * 32}").touch()
    with monkeypatch.context() as patch:  # a store that nobody may write to is read all the same
        patch.setattr(shards_module, "file_lock", lambda path: (path / "read-only").stat())
        clean(whole, HOW)
    assert folder.parent.exists()
    clean(whole, HOW)
    assert not folder.parent.exists() and file_state(whole, HOW).is_complete(KEYS)


def test_a_leftover_goes_while_its_lock_is_held(tmp_path, monkeypatch):
    """Or a writer that has only just created it could lock it in between, and write into what is removed."""
    free = []

    def remove(path):
        with path.open("r+b") as file:
            free.append(try_lock(file.fileno(), unknown=True))
        path.unlink()

    (tmp_path / f".tmp-{socket.gethostname()}-{'0' * 32}").touch()
    monkeypatch.setattr(atomic, "remove", remove)
    assert remove_stale_files(tmp_path) == 1 and free == [False]


def test_a_store_finds_by_name_view_and_fingerprint(store):
    for how in (HOW, make_recipe(view={"name": "flip"}), make_recipe(precision="bf16")):
        publish(store, how=how)
        assemble(store, how, 2, KEYS)
    assert store.find("timm:tiny", "flip").view == "flip" and store.backbones() == ["timm:tiny"]
    assert store.find(f"timm:tiny@{HOW.fingerprint[:6]}").recipe == HOW
    for name, said in (("timm:tiny", "2 files of 'timm:tiny'"), ("resnet18", "has no features of 'resnet18'")):
        with pytest.raises(CacheError, match=said):
            store.find(name)
    with pytest.raises(CacheError, match="no such store"):
        Store(store.path / "nowhere")


def test_shards_that_another_process_assembles_meanwhile_are_not_missed(store, monkeypatch):
    listed, others = shards_module.shard_paths, []
    for rows in np.array_split(np.arange(600), 3):
        publish(store, rows)

    def listed_then_assembled_elsewhere(*where):
        found = listed(*where)
        if not others:
            others.append("busy")
            others.append(assemble(store, HOW, 2, KEYS))
        return found

    monkeypatch.setattr(shards_module, "shard_paths", listed_then_assembled_elsewhere)
    assert {*file_state(store, HOW).rows.place} == {*KEYS}
    assert others[1].rows == 600 and not store.shards()


def test_a_finished_file_that_another_process_replaces_at_once_is_looked_at_again(whole, monkeypatch):
    """Unforced trials of two rechecks had found it: the one who was replaced ended with an error, its work done."""
    replace_finished, others = shards_module.replace_finished, []

    def replaced_then_again_elsewhere(*arguments, **options):
        file = replace_finished(*arguments, **options)
        if not others:
            assert file.rows == 600
            others.append("busy")
            publish(whole, [5], values=VALUES * 0 - 1, sha="f")
            assemble(whole, HOW, 2, KEYS)
        return file

    monkeypatch.setattr(shards_module, "replace_finished", replaced_then_again_elsewhere)
    file = assemble(whole, HOW, 2, KEYS)
    assert file.failures == {} and file.read([KEYS[5]]).tolist() == [[-1, -1]]


def test_a_shard_that_goes_while_a_store_is_verified_is_not_at_fault(whole, monkeypatch):
    listed = Store.shards

    def listed_then_assembled(self):
        files = listed(self)
        assemble(whole, HOW, 2, KEYS)
        return files

    monkeypatch.setattr(Store, "shards", listed_then_assembled)
    assert verify(whole.path).exit_code == 0


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EMFILE, errno.EACCES])
def test_trouble_of_the_machine_sets_nothing_aside(whole, monkeypatch, number):
    assemble(whole, HOW, 2, KEYS)

    def trouble(*arguments):
        raise OSError(number, os.strerror(number))

    for name in ("preadv", "pread"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, trouble)
            with pytest.raises(OSError, match=os.strerror(number)):
                file_state(whole, HOW)
    assert file_state(whole, HOW).is_complete(KEYS) and not list(whole.path.glob("*.damaged"))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EAGAIN])
def test_a_file_system_without_locks_gets_a_note(store, monkeypatch, caplog, number):
    """EAGAIN: flock says for ever that another process holds the file."""
    def flock(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.fcntl, "flock", flock)
    atomic._note_missing_locks.cache_clear()
    publish(store)
    assert assemble(store, HOW, 2, KEYS).rows == 600 and not list(store.path.glob(".tmp-*"))
    assert caplog.text.count("no working locks") == 1


def test_a_file_system_that_cannot_fsync_folders_is_enough(store, monkeypatch):
    real = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    publish(store)
    assert assemble(store, HOW, 2, KEYS).rows == 600
