"""A store as a state machine: writers that are killed or interleaved at any moment, and what must hold after each step.

TWOFOLD_STEPS=10000 runs it long; the figures of a long run are in cache/MEASURED.md.
"""

import os
import random
import shutil
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.cache.conftest import make_recipe
from tests.cache.machine import dying_at, interleaved
from twofold.cache import shards as shards_module
from twofold.cache.merge import merge
from twofold.cache.shards import FileState, Rows, assemble, file_state, publish_shard
from twofold.cache.store import Store
from twofold.cache.verify import verify

RECIPE = make_recipe()
KEYS = [f"{letter}.png" for letter in "abcdef"]
STEPS = int(os.environ.get("TWOFOLD_STEPS", "150"))
BAD = 3  #: every so many versions of an image cannot be decoded
JOBS = ("extract", "recheck", "retry", "fewer", "merge", "even", "odd")
FAST = Path("/dev/shm") if Path("/dev/shm").is_dir() else None


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

    # ------------------------------------------------------------------------------------------ what a writer does
    def extract(self, keys, *, recheck=False, retry=False, pieces=2, shard=0, shards=1):
        state = file_state(self.store, RECIPE)
        wanted = [key for key in keys if (key not in state.rows.place and (retry or key not in state.rows.failures))
                  or (recheck and key in state.rows.place
                      and state.rows.sha256(key) != sha256(key, self.images[key]))][shard::shards]
        for piece in range(pieces):
            images = [(key, self.images[key]) for key in wanted[piece::pieces]]
            if images:
                publish_shard(self.store, RECIPE, 2, rows_of(images))
                self.published |= dict(images)
        assemble(self.store, RECIPE, 2, keys)

    def merge_in(self, keys):
        """Another store, of the same images, into this one."""
        other = Store(Path(tempfile.mkdtemp(dir=self.folder)), new=True)
        cached = self.published
        images = [(key, self.images[key]) for key in keys if cached.get(key, self.images[key]) == self.images[key]]
        rows = rows_of(images)
        if rows.keys:
            publish_shard(other, RECIPE, 2, rows)
            merge([other], self.store, self.manifest)
            self.published |= {key: self.images[key] for key in rows.keys}

    def jobs(self):
        return {"extract": partial(self.extract, self.manifest), "recheck": partial(
            self.extract, self.manifest, recheck=True), "retry": partial(self.extract, self.manifest, retry=True),
            "fewer": partial(self.extract, self.manifest[1:]), "merge": partial(self.merge_in, self.manifest[::2]),
            "even": partial(self.extract, self.manifest, recheck=True, pieces=1, shards=2),
            "odd": partial(self.extract, self.manifest, recheck=True, pieces=1, shard=1, shards=2)}

    # -------------------------------------------------------------------------------------------------------- rules
    @rule(keys=st.permutations(KEYS), count=st.integers(1, len(KEYS)))
    def change_manifest(self, keys, count):
        self.manifest = keys[:count]

    @rule(key=st.sampled_from(KEYS), steps=st.integers(1, 2))
    def change_image(self, key, steps):
        self.images[key] += steps

    @rule(job=st.sampled_from(JOBS))
    def alone(self, job):
        self.jobs()[job]()

    @rule(job=st.sampled_from(JOBS), number=st.integers(1, 90))
    def killed(self, job, number):
        with dying_at(number):
            self.jobs()[job]()

    @rule(names=st.lists(st.sampled_from(JOBS), min_size=2, max_size=3) | st.sampled_from(
        [["even", "odd"], ["even", "odd", "merge"], ["even", "fewer", "odd"]]), changed=st.booleans(),
        seed=st.integers(0, 2 ** 32), death=st.none() | st.integers(1, 90))
    def together(self, names, changed, seed, death):
        if changed:
            self.images = {key: version + 1 for key, version in self.images.items()}
        order = random.Random(seed)
        interleaved([self.jobs()[name] for name in names], order.randrange, deaths={0: death} if death else None)

    @precondition(lambda self: self.manifest)
    @rule()
    def come_to_an_end(self):
        """A run that looks at every image, and tries failures again, gives what a fresh run gives."""
        self.extract(self.manifest, recheck=True, retry=True)
        (file,) = self.store.files()
        good = [key for key in self.manifest if self.images[key] % BAD != BAD - 1]
        cached = versions(file_state(self.store, RECIPE))
        failed_since = [key for key in self.manifest if key in file.failures]
        assert file.keys.tolist() == [key for key in self.manifest if key not in failed_since]
        assert {key: cached[key] for key in good} == {key: self.images[key] for key in good}

    # --------------------------------------------------------------------------------------------------- invariants
    @invariant()
    def nothing_is_lost_and_nothing_stale_is_believed(self):
        cached = versions(file_state(self.store, RECIPE))
        for key, version in self.published.items():
            assert key in cached, f"the row of {key} is lost"
            assert cached[key] >= version, f"{key} is believed to be of version {cached[key]}, not {version}"
        self.published = cached  # with what a killed writer had published before it could tell

    @invariant()
    def everything_is_sound(self):
        assert verify(self.store.path).exit_code == 0, verify(self.store.path).text()


StoreMachine.TestCase.settings = settings(max_examples=max(1, STEPS // 25), stateful_step_count=25, deadline=None,
                                          suppress_health_check=list(HealthCheck))
test_the_store_as_a_state_machine = StoreMachine.TestCase


@pytest.fixture
def folder():
    """In memory where that can be had: thousands of small files are brought to the disk, and no test asks the disk."""
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        yield Path(folder)


def lose_an_update(folder, seeds):
    """Two runs that each find another image changed, interleaved by each seed; True once a computed row is lost."""
    for seed in seeds:
        store = Store(folder / str(seed), new=True)
        store.path.mkdir(parents=True)
        publish_shard(store, RECIPE, 2, rows_of([(key, 0) for key in KEYS]))
        assemble(store, RECIPE, 2, KEYS)

        def run(key, store=store):
            publish_shard(store, RECIPE, 2, rows_of([(key, 1)]))
            assemble(store, RECIPE, 2, KEYS)

        interleaved([partial(run, key) for key in KEYS[:2]], random.Random(seed).randrange)
        cached = versions(file_state(store, RECIPE))
        if cached["a.png"] != 1 or cached["b.png"] != 1:
            return True
    return False


def test_no_interleaving_loses_an_update_and_without_the_fix_one_does(folder, monkeypatch):
    assert not lose_an_update(folder / "fixed", range(30))
    monkeypatch.setattr(shards_module.FileState, "is_current", lambda state, store, recipe: True)
    assert lose_an_update(folder / "broken", range(200))


def test_killed_at_each_moment_of_a_run_the_next_one_ends_it(folder):
    """Not at random: one run of everything, killed at its first, second, ... moment until it gets through."""
    number, count = 1, [1]
    while count[0] >= number - 1:
        store = Store(folder / str(number), new=True)
        store.path.mkdir(parents=True)
        publish_shard(store, RECIPE, 2, rows_of([(key, 0) for key in KEYS]))
        assemble(store, RECIPE, 2, KEYS)
        with dying_at(number) as count:
            publish_shard(store, RECIPE, 2, rows_of([("a.png", 1)]))
            publish_shard(store, RECIPE, 2, rows_of([("b.png", 1)]))
            assemble(store, RECIPE, 2, KEYS[1:])
        assert set(versions(file_state(store, RECIPE))) == set(KEYS)
        assert verify(store.path).exit_code == 0
        publish_shard(store, RECIPE, 2, rows_of([("a.png", 3)]))
        file = assemble(store, RECIPE, 2, KEYS)
        assert file.keys.tolist() == KEYS and file.read(["a.png"]).tolist() == [value("a.png", 3)]
        assert not list(store.path.glob(".tmp-*"))
        number += 1
    assert number > 20
