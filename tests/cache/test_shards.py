import errno
import os
import socket
import stat

import numpy as np
import pytest

from twofold.cache import shards as shards_module
from twofold.cache.errors import CacheError
from twofold.cache.feature_file import FeatureFile
from twofold.cache.shards import Rows, assemble, file_state, publish_shard, remove_leftovers, retired_rows
from twofold.cache.store import Store
from twofold.cache.verify import verify
from twofold.data.utils import atomic
from twofold.data.utils.atomic import remove_stale_files, temporary_file, try_lock

KEYS = [f"{number:03d}.jpg" for number in range(600)]
VALUES = np.arange(1200, dtype=np.float16).reshape(600, 2)


def publish(store, how, rows, *, failures=None, values=VALUES, sha="0"):
    return publish_shard(store, how, 2, Rows(keys=[KEYS[row] for row in rows], sha256=[sha * 64] * len(rows),
                                            features=values[rows], failures=failures or {}))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path, new=True)


def test_shards_in_any_order_become_one_file_in_manifest_order(store, recipe):
    how = recipe()
    for rows in np.array_split(np.random.default_rng(0).permutation(599), 7):
        publish(store, how, rows)
    assert not file_state(store, how).is_complete(KEYS)
    assert assemble(store, how, 2, KEYS) is None
    publish(store, how, [], failures={"599.jpg": "not an image"})
    file = assemble(store, how, 2, KEYS)
    assert file.keys.tolist() == KEYS[:599] and file.failures == {"599.jpg": "not an image"}
    np.testing.assert_array_equal(file.read(dtype=np.float16), VALUES[:599])
    assert file_state(store, how).is_complete(KEYS)
    assert not (store.path / ".shards").exists()
    assert file.path.name == f"timm-tiny.original.{how.fingerprint[:8]}.h5"


def test_a_sample_taken_out_is_kept_aside_and_comes_back_for_nothing(cli, store, recipe):
    how = recipe()
    publish(store, how, np.arange(600))
    assemble(store, how, 2, KEYS)
    fewer = assemble(store, how, 2, KEYS[100:])
    assert fewer.keys.tolist() == KEYS[100:] and retired_rows(store, how) == 100
    assert file_state(store, how).is_complete(KEYS[100:]) and {*file_state(store, how).rows.place} == {*KEYS}
    listed = cli("cache", "ls", store.path).stdout
    assert "kept aside: 100 rows" in listed and "unfinished" not in listed
    whole = assemble(store, how, 2, KEYS)
    np.testing.assert_array_equal(whole.read(dtype=np.float16), VALUES)
    assert retired_rows(store, how) == 0


@pytest.mark.parametrize("damage", [b"", b"<html>", None])
def test_a_damaged_shard_is_set_aside_and_its_rows_are_missing(store, recipe, caplog, damage):
    how = recipe()
    publish(store, how, np.arange(300))
    shard = publish(store, how, np.arange(300, 600))
    content = shard.read_bytes()
    values = VALUES[300:].tobytes()
    place = content.index(values[:64])
    shard.write_bytes(damage if damage is not None else content[:place] + b"\1" + content[place + 1:])
    assert list(file_state(store, how).rows.place) == KEYS[:300]
    assert "set aside" in caplog.text and shard.with_name(shard.name + ".damaged").exists()


def test_a_shard_of_another_recipe_is_set_aside(store, recipe):
    shard = publish(store, recipe(precision="bf16"), np.arange(600))
    store.shard_folder(recipe()).mkdir()
    shard.rename(store.shard_folder(recipe()) / shard.name)
    assert file_state(store, recipe()).rows.place == {}


def test_leftovers_of_dead_processes_go_and_of_living_ones_stay(store, recipe):
    how = recipe()
    publish(store, how, np.arange(600))
    dead = store.path / f".tmp-{socket.gethostname()}-{'0' * 32}"
    foreign = store.path / f".tmp-some-other-host-{'0' * 32}"
    forgotten = store.path / f".tmp-some-other-host-{'1' * 32}"
    for path in (dead, foreign, forgotten):
        path.write_text("half")
    os.utime(forgotten, (0, 0))
    with temporary_file(store.path) as alive:  # whatever the process ids: a container has others than its neighbour
        assemble(store, how, 2, KEYS)
        assert alive.exists() and not dead.exists() and not forgotten.exists() and foreign.exists()


@pytest.mark.parametrize("remaining", [".", "fingerprint", "fingerprint/temporary"])
@pytest.mark.parametrize("clean", [lambda *found: assemble(*found, 2, KEYS), remove_leftovers])
def test_what_a_kill_between_publishing_and_tidying_up_leaves_goes_with_the_next_run(
        store, recipe, remaining, clean, monkeypatch):
    publish(store, recipe(), np.arange(600))
    assemble(store, recipe(), 2, KEYS)
    folder = store.shard_folder(recipe())
    folder.parent.mkdir()
    if remaining != ".":
        folder.mkdir()
    if remaining.endswith("temporary"):
        (folder / f".tmp-{socket.gethostname()}-{'0' * 32}").touch()
    with monkeypatch.context() as patch:  # a store that nobody may write to is read all the same
        patch.setattr(shards_module, "file_lock", lambda path: (path / "read-only").stat())
        clean(store, recipe())
    assert folder.parent.exists()
    clean(store, recipe())
    assert not folder.parent.exists() and file_state(store, recipe()).is_complete(KEYS)


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


def test_a_store_finds_by_name_view_and_fingerprint(store, recipe):
    for how in (recipe(), recipe(view={"name": "flip"}), recipe(precision="bf16")):
        publish(store, how, np.arange(600))
        assemble(store, how, 2, KEYS)
    assert store.find("timm:tiny", "flip").view == "flip"
    with pytest.raises(CacheError, match="2 files of 'timm:tiny'"):
        store.find("timm:tiny")
    digits = recipe().fingerprint[:6]
    assert store.find(f"timm:tiny@{digits}").recipe == recipe()
    with pytest.raises(CacheError, match="has no features of 'resnet18'"):
        store.find("resnet18")
    assert store.backbones() == ["timm:tiny"]
    with pytest.raises(CacheError, match="no such store"):
        Store(store.path / "nowhere")
    assert isinstance(store.files()[0], FeatureFile)


def test_shards_that_another_process_assembles_meanwhile_are_not_missed(store, recipe, monkeypatch):
    how, listed, others = recipe(), shards_module.shard_paths, []
    for rows in np.array_split(np.arange(600), 3):
        publish(store, how, rows)

    def listed_then_assembled_elsewhere(*where):
        found = listed(*where)
        if not others:
            others.append("busy")
            others.append(assemble(store, how, 2, KEYS))
        return found

    monkeypatch.setattr(shards_module, "shard_paths", listed_then_assembled_elsewhere)
    assert {*file_state(store, how).rows.place} == {*KEYS}
    assert others[1].rows == 600 and not store.shards()


def test_a_finished_file_that_another_process_replaces_at_once_is_looked_at_again(store, recipe, monkeypatch):
    """Unforced trials of two rechecks had found it: the one who was replaced ended with an error, its work done."""
    how, replace_finished, others = recipe(), shards_module.replace_finished, []
    publish(store, how, np.arange(600))

    def replaced_then_again_elsewhere(*arguments, **options):
        file = replace_finished(*arguments, **options)
        if not others:
            assert file.rows == 600
            others.append("busy")
            publish(store, how, [5], values=VALUES * 0 - 1, sha="f")
            assemble(store, how, 2, KEYS)
        return file

    monkeypatch.setattr(shards_module, "replace_finished", replaced_then_again_elsewhere)
    file = assemble(store, how, 2, KEYS)
    assert file.failures == {} and file.read([KEYS[5]]).tolist() == [[-1, -1]]


def test_a_shard_that_goes_while_a_store_is_verified_is_not_at_fault(store, recipe, monkeypatch):
    how = recipe()
    publish(store, how, np.arange(600))
    listed = Store.shards

    def listed_then_assembled(self):
        files = listed(self)
        assemble(store, how, 2, KEYS)
        return files

    monkeypatch.setattr(Store, "shards", listed_then_assembled)
    assert verify(store.path).exit_code == 0


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EMFILE, errno.EACCES])
def test_trouble_of_the_machine_sets_nothing_aside(store, recipe, monkeypatch, number):
    how = recipe()
    publish(store, how, np.arange(600))
    path = assemble(store, how, 2, KEYS).path

    def trouble(*arguments):
        raise OSError(number, os.strerror(number), str(path))

    for name in ("preadv", "pread"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, trouble)
            with pytest.raises(OSError, match=os.strerror(number)):
                file_state(store, how)
    assert file_state(store, how).is_complete(KEYS) and [p.name for p in store.path.glob("*.damaged")] == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EAGAIN])
def test_a_file_system_without_locks_gets_a_note(store, recipe, monkeypatch, caplog, number):
    """EAGAIN: flock says for ever that another process holds the file."""
    def flock(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.fcntl, "flock", flock)
    atomic._note_missing_locks.cache_clear()
    publish(store, recipe(), np.arange(600))
    assert assemble(store, recipe(), 2, KEYS).rows == 600 and not list(store.path.glob(".tmp-*"))
    assert caplog.text.count("no working locks") == 1


def test_a_file_system_that_cannot_fsync_folders_is_enough(store, recipe, monkeypatch):
    real = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    publish(store, recipe(), np.arange(600))
    assert assemble(store, recipe(), 2, KEYS).rows == 600
