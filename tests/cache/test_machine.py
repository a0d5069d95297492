"""A store as a state machine: writers that are killed or interleaved at any moment, and what must hold after each step.

The disk is the real one; the modules that write get an `os` of ours, which asks before and after each new file, write,
rename, sync, removal and new folder what is to happen: go on, let another writer go first, or die. TWOFOLD_STEPS=10000
runs it long; the figures of a long run are in cache/MEASURED.md.
"""

import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.cache.conftest import make_recipe
from twofold.cache import feature_writer
from twofold.cache import shards as shards_module
from twofold.cache.merge import merge
from twofold.cache.shards import FileState, Rows, assemble, file_state, publish_shard
from twofold.cache.store import Store
from twofold.cache.verify import verify
from twofold.data.utils import atomic

MOMENTS = ("open", "posix_fallocate", "pwrite", "replace", "fsync", "unlink", "mkdir", "rmdir")
RECIPE = make_recipe()
KEYS = [f"{letter}.png" for letter in "abcdef"]
STEPS = int(os.environ.get("TWOFOLD_STEPS", "150"))
BAD = 3  #: every so many versions of an image cannot be decoded
JOBS = {  # options of a run of `extract`; None: another store is merged in
    "extract": {}, "recheck": {"recheck": True}, "retry": {"retry": True}, "fewer": {"first": 1}, "merge": None,
    "even": {"recheck": True, "pieces": 1, "shards": 2}, "odd": {"recheck": True, "pieces": 1, "shard": 1, "shards": 2}}
FAST = Path("/dev/shm") if Path("/dev/shm").is_dir() else None


class Killed(BaseException):
    """Stands for `kill -9`: what a writer had begun stays as it is, and its locks are released."""


def interleaved(writers: list[Callable[[], None]], order: Callable[[int], int] = lambda count: 0, *,
                deaths: dict[int, int] | None = None) -> list[int]:
    """Run writers in threads of which one goes at a time; at each moment `order(n)` says which of n goes on.

    deaths: number of a writer to the moment at which it dies. Returns the moments of each writer.
    """
    alive, counts, dead = list(range(len(writers))), [0] * len(writers), [False] * len(writers)
    turn, changed, own = [order(len(alive))], threading.Condition(), threading.local()

    def next_turn() -> None:
        turn[0] = alive[order(len(alive)) % len(alive)] if alive else -1
        changed.notify_all()

    def moment(*_: object) -> None:
        counts[own.number] += 1
        if dead[own.number] or counts[own.number] == (deaths or {}).get(own.number):
            dead[own.number] = True  # a dead process does nothing more: not even removes its temporary files
            raise Killed
        with changed:
            next_turn()
            changed.wait_for(lambda: turn[0] == own.number)

    class Stops:
        """An `os` that comes to a moment before and after each thing that changes a file or folder or makes it last."""

        def __getattr__(self, name: str):
            real = getattr(os, name)

            def stopped(*arguments):
                if name == "open" and not arguments[1] & os.O_CREAT:
                    return real(*arguments)
                moment()
                result = real(*arguments)
                moment()
                return result
            return stopped if name in MOMENTS else real

    def run(number: int) -> None:
        own.number = number
        try:
            with changed:
                changed.wait_for(lambda: turn[0] == number)
            writers[number]()
        except Killed:
            pass
        finally:
            with changed:
                alive.remove(number)
                next_turn()

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(len(writers)) as pool:
        for module in (atomic, feature_writer):
            patch.setattr(module, "os", Stops())
        patch.setattr(atomic, "time", SimpleNamespace(sleep=moment, time=time.time, monotonic=time.monotonic))
        list(pool.map(run, range(len(writers))))
    return counts


def sha256(key, version):
    return f"{KEYS.index(key):032x}{version:032x}"


def value(key, version):
    return [KEYS.index(key) + version / 64, version]


def rows_of(images):
    """What an encoder gives of these images: (key, version) each."""
    good = [(key, version) for key, version in images if version % BAD != BAD - 1]
    return Rows(keys=[key for key, _ in good], sha256=[sha256(*image) for image in good],
                features=np.array([value(*image) for image in good], np.float16).reshape(len(good), 2),
                failures={key: f"version {version}" for key, version in images if version % BAD == BAD - 1})


def publish(store, *images):
    publish_shard(store, RECIPE, 2, rows_of(images))


def versions(state: FileState):
    """Of each key that is cached, the version of the image that its row or failure comes of; every value is checked."""
    seen = {key: int(reason.split()[1]) for key, reason in state.rows.failures.items()}
    for key in state.rows.place:
        seen[key] = int(state.rows.sha256(key)[32:], 16)
        assert state.rows.sha256(key)[:32] == sha256(key, 0)[:32]
        np.testing.assert_array_equal(next(state.rows.blocks([key]))[0], np.float16(value(key, seen[key])))
    return seen


class StoreMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=FAST))
        self.store = Store(self.folder / "store", new=True)
        self.store.path.mkdir()
        self.images = dict.fromkeys(KEYS, 0)  # key to the version of its image
        self.manifest = KEYS[:4]
        self.published: dict[str, int] = {}  # key to the version that is cached for certain

    def teardown(self):
        shutil.rmtree(self.folder)

    def extract(self, keys, *, recheck=False, retry=False, pieces=2, shard=0, shards=1):
        state = file_state(self.store, RECIPE)
        wanted = [key for key in keys if (key not in state.rows.place and (retry or key not in state.rows.failures))
                  or (recheck and key in state.rows.place
                      and state.rows.sha256(key) != sha256(key, self.images[key]))][shard::shards]
        for piece in range(pieces):
            if images := [(key, self.images[key]) for key in wanted[piece::pieces]]:
                publish(self.store, *images)
                self.published |= dict(images)
        assemble(self.store, RECIPE, 2, keys)

    def job(self, name):
        if JOBS[name] is not None:
            options = dict(JOBS[name])
            return self.extract(self.manifest[options.pop("first", 0):], **options)
        other = Store(Path(tempfile.mkdtemp(dir=self.folder)), new=True)
        images = {key: self.images[key] for key in self.manifest[::2]
                  if self.published.get(key, self.images[key]) == self.images[key]}
        if good := rows_of(images.items()).keys:
            publish(other, *images.items())
            merge([other], self.store, self.manifest)
            self.published |= {key: images[key] for key in good}

    @rule(keys=st.permutations(KEYS), count=st.integers(1, len(KEYS)))
    def change_manifest(self, keys, count):
        self.manifest = keys[:count]

    @rule(key=st.sampled_from(KEYS), steps=st.integers(1, 2))
    def change_image(self, key, steps):
        self.images[key] += steps

    @rule(name=st.sampled_from([*JOBS]), death=st.none() | st.integers(1, 90))
    def alone(self, name, death):
        interleaved([partial(self.job, name)], deaths={0: death} if death else None)

    @rule(names=st.lists(st.sampled_from([*JOBS]), min_size=2, max_size=3) | st.sampled_from(
        [["even", "odd"], ["even", "odd", "merge"], ["even", "fewer", "odd"]]), changed=st.booleans(),
        seed=st.integers(0, 2 ** 32), death=st.none() | st.integers(1, 90))
    def together(self, names, changed, seed, death):
        if changed:
            self.images = {key: version + 1 for key, version in self.images.items()}
        interleaved([partial(self.job, name) for name in names], random.Random(seed).randrange,
                    deaths={0: death} if death else None)

    @precondition(lambda self: self.manifest)
    @rule()
    def come_to_an_end(self):
        """A run that looks at every image, and tries failures again, gives what a fresh run gives."""
        self.extract(self.manifest, recheck=True, retry=True)
        (file,) = self.store.files()
        good = [key for key in self.manifest if self.images[key] % BAD != BAD - 1]
        cached = versions(file_state(self.store, RECIPE))
        assert file.keys.tolist() == [key for key in self.manifest if key not in file.failures]
        assert {key: cached[key] for key in good} == {key: self.images[key] for key in good}

    @invariant()
    def nothing_is_lost_and_nothing_stale_is_believed(self):
        cached = versions(file_state(self.store, RECIPE))
        for key, version in self.published.items():
            assert key in cached, f"the row of {key} is lost"
            assert cached[key] >= version, f"{key} is believed to be of version {cached[key]}, not {version}"
        self.published = cached  # with what a killed writer had published before it could tell
        assert verify(self.store.path).exit_code == 0, verify(self.store.path).text()


StoreMachine.TestCase.settings = settings(max_examples=max(1, STEPS // 25), stateful_step_count=25, deadline=None,
                                          suppress_health_check=list(HealthCheck))
test_the_store_as_a_state_machine = StoreMachine.TestCase


@pytest.fixture
def new_store():
    """Make a store of all keys, in memory where that can be had: no test asks the disk."""
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        def make() -> Store:
            store = Store(tempfile.mkdtemp(dir=folder))
            publish(store, *((key, 0) for key in KEYS))
            assemble(store, RECIPE, 2, KEYS)
            return store

        yield make


def test_no_interleaving_loses_an_update_and_without_the_fix_one_does(new_store, monkeypatch):
    """Two runs that each find another image changed, interleaved by each seed."""
    def loses_an_update(seed):
        def run(key):
            publish(store, (key, 1))
            assemble(store, RECIPE, 2, KEYS)

        store = new_store()
        interleaved([partial(run, key) for key in KEYS[:2]], random.Random(seed).randrange)
        cached = versions(file_state(store, RECIPE))
        return cached["a.png"] != 1 or cached["b.png"] != 1

    assert not any(map(loses_an_update, range(30)))
    monkeypatch.setattr(shards_module.FileState, "is_current", lambda state, store, recipe: True)
    assert any(map(loses_an_update, range(200)))


def test_killed_at_each_moment_of_a_run_the_next_one_ends_it(new_store):
    """Not at random: one run of everything, killed before its first, second, ... change until it gets through. After
    a change is as before the next one, so that every other moment is enough."""
    def run():
        for key in KEYS[:2]:
            publish(store, (key, 1))
        assemble(store, RECIPE, 2, KEYS[1:])

    number, count = -1, 0
    while count >= number:
        number, store = number + 2, new_store()
        (count,) = interleaved([run], deaths={0: number})
        assert set(versions(file_state(store, RECIPE))) == set(KEYS)
        assert verify(store.path).exit_code == 0
        publish(store, ("a.png", 3))
        file = assemble(store, RECIPE, 2, KEYS)
        assert file.keys.tolist() == KEYS and file.read(["a.png"]).tolist() == [value("a.png", 3)]
        assert not list(store.path.glob(".tmp-*"))
    assert number > 20
