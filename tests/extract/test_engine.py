"""The loop of extraction and its parts, without the command line."""

import hashlib
import threading
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from tests.extract.simulated import SimulatedRunner
from twofold.cache.shards import file_state, publish_shard
from twofold.cache.store import Store
from twofold.data.images.decode import decode
from twofold.data.images.sources import open_images
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.encoder import Encoder
from twofold.extract.encoders.preprocessing import Preprocessing
from twofold.extract.encoders.registry import load_encoder
from twofold.extract.engine.batches import BatchPool, LoadedSample
from twofold.extract.engine.loop import run_jobs
from twofold.extract.engine.progress import Stop
from twofold.extract.engine.writer import storable
from twofold.extract.plan import ExtractOptions, Job, parse_shard, recipe_of
from twofold.extract.streams import parse_weights
from twofold.extract.views import view


def test_values_that_cannot_be_stored_fail_their_face():
    features = np.array([[1.0, 2.0], [np.nan, 0.0], [1e6, 0.0], [-np.inf, 0.0]], np.float32)
    stored, faults = storable(features, "float16")
    assert stored.dtype == np.float16 and stored[0].tolist() == [1, 2]
    assert faults == ["", "embedding not finite", "embedding out of the range of float16", "embedding not finite"]
    assert storable(features, "float32")[1][2] == ""


def test_shards_partition_the_rows():
    assert parse_shard("") == (0, 1) and parse_shard("2/5") == (2, 5)
    for text in ("5/5", "a/2", "1", "-1/2", "1/0"):
        with pytest.raises(InputError, match="i/n"):
            parse_shard(text)


def test_weights_belong_to_a_backbone():
    assert parse_weights(["a=x=y", "b=hub"], ["a", "b"]) == {"a": ["x=y"], "b": ["hub"]}
    for text in ("a", "a=", "c=x"):
        with pytest.raises(InputError):
            parse_weights([text], ["a", "b"])


def test_the_out_of_a_fine_tuning_by_folds_names_every_folds_file(tmp_path):
    out = tmp_path / "of [me].safetensors"
    weights = [f"a={out}"]
    assert parse_weights(weights, ["a"]) == {"a": [str(out)]}  # nothing of the kind: the file that is asked for
    for fold in (1, 2, 10):
        (tmp_path / f"of [me].fold{fold}of10.safetensors").touch()
    with pytest.raises(InputError, match=r"fold3of10.safetensors, .*fold9of10.safetensors are missing"):
        parse_weights(weights, ["a"])
    paths = [tmp_path / f"of [me].fold{fold}of10.safetensors" for fold in range(1, 11)]
    for path in paths:
        path.touch()
    assert parse_weights(weights, ["a"]) == {"a": [str(path) for path in paths]}
    (tmp_path / "of [me].fold1of2.safetensors").touch()
    with pytest.raises(InputError, match="encoders of 2 and of 10 folds"):
        parse_weights(weights, ["a"])
    out.touch()
    assert parse_weights(weights, ["a"]) == {"a": [str(out)]}


# ------------------------------------------------------------------------------------------------------------ the loop
def encoder_of(name: str, batch_size: int) -> Encoder:
    return load_encoder(name, weights="random:0", device="cpu", precision="fp32", batch_size=batch_size)


def job_of(encoder: Encoder, view_name: str, missing: np.ndarray) -> Job:
    seen = view(view_name)
    return Job(encoder, seen, recipe_of(encoder, seen, dtype="float32"), missing)


def expected(encoder: Encoder, view_name: str, root, key: str) -> np.ndarray:
    """One face on its own, by the straight way."""
    content = (root / key).read_bytes()
    picture = view(view_name).apply(decode(content), hashlib.sha256(content).hexdigest())
    return encoder.encode(encoder.preprocessing.prepare(picture)[None])[0]


@pytest.mark.parametrize("workers", [1, 4])
def test_every_row_is_that_of_its_face_whatever_each_file_lacks(drawn, tmp_path, workers):
    """Files that lack different faces, views, batches of different sizes, and faces that cannot be read."""
    keys, store = [*drawn.table.keys, "nowhere.png"], Store(tmp_path / "s", new=True)
    few = np.arange(len(keys)) % 3 == 1
    few[-1] = True
    everything = np.ones(len(keys), bool)
    vit, resnet = encoder_of("timm:test_vit", 5), encoder_of("timm:test_resnet", 16)
    jobs = [job_of(vit, "original", everything), job_of(vit, "flip", few), job_of(resnet, "original", everything),
            job_of(resnet, "enhanced1", everything), job_of(resnet, "enhanced1", ~everything)]
    done = run_jobs(jobs, keys, open_images(drawn.root), partial(publish_shard, store),
                   options=ExtractOptions(workers=workers, shard_rows=20), progress=False)
    assert done.samples == 71 and done.failed_samples == {"nowhere.png": "missing file"}
    assert [done.rows[job.recipe.fingerprint] for job in jobs[:4]] == [70, int(few[:-1].sum()), 70, 70]
    for job in jobs[:4]:
        cached = file_state(store, job.recipe).rows
        wanted = [key for key, lacking in zip(keys, job.missing, strict=True) if lacking][:-1]
        assert sorted(cached.place) == sorted(wanted) and cached.failures == {"nowhere.png": "missing file"}
        for key, row in zip(wanted, np.concatenate(list(cached.blocks(wanted))), strict=True):
            if wanted.index(key) % 10 == 0:
                np.testing.assert_allclose(row, expected(job.encoder, job.view.name, drawn.root, key), atol=2e-4)


class CountingRunner(SimulatedRunner):
    """Claims never to be done, and checks at each result how many passes were started meanwhile."""

    def __init__(self, total: int):
        super().__init__(rate=1e9)
        self.total, self.started = total, 0

    def start(self, encoder, pixels):
        self.started += 1
        card, number, inner = self, self.started, super().start(encoder, pixels)

        class Counted:
            def done(self):
                return False

            def result(self):
                assert card.started >= min(number + card.in_flight - 1, card.total)
                return inner.result()

        return Counted()


def test_the_next_passes_are_started_before_one_is_waited_for(drawn, tmp_path):
    encoder, keys = encoder_of("timm:test_vit", 4), list(drawn.table.keys)
    job, store = job_of(encoder, "original", np.ones(len(keys), bool)), Store(tmp_path / "s", new=True)
    card = CountingRunner(total=18)
    done = run_jobs([job], keys, open_images(drawn.root), partial(publish_shard, store), options=ExtractOptions(),
                    progress=False, runner=card)
    assert (card.started, done.rows.total()) == (18, 70)
    assert len(file_state(store, job.recipe).rows.place) == 70


def test_encoders_that_need_the_same_pixels_share_their_batches(drawn, tmp_path, monkeypatch):
    prepared = []
    prepare = Preprocessing.prepare
    monkeypatch.setattr(Preprocessing, "prepare", lambda how, image: prepared.append(how) or prepare(how, image))
    encoder, keys = encoder_of("timm:test_vit", 8), list(drawn.table.keys)[:20]
    jobs = [job_of(encoder, "original", np.ones(20, bool)),
            job_of(replace(encoder, name="timm:another"), "original", np.ones(20, bool))]
    done = run_jobs(jobs, keys, open_images(drawn.root), partial(publish_shard, Store(tmp_path / "s", new=True)),
                   options=ExtractOptions(), progress=False)
    assert done.rows.total() == 40 and len(prepared) == 20


def test_a_network_that_breaks_ends_the_run_and_keeps_what_is_published(drawn, tmp_path):
    encoder, keys, calls = encoder_of("timm:test_vit", 4), list(drawn.table.keys), []

    def breaking(pictures):
        calls.append(len(pictures))
        if len(calls) == 9:
            raise RuntimeError("the card is gone")
        return encoder.network(pictures)

    job = job_of(replace(encoder, network=breaking), "original", np.ones(len(keys), bool))
    store = Store(tmp_path / "s", new=True)
    with pytest.raises(RuntimeError, match="the card is gone"):
        run_jobs([job], keys, open_images(drawn.root), partial(publish_shard, store),
                 options=ExtractOptions(shard_rows=8), progress=False)
    assert 24 <= len(file_state(store, job.recipe).rows.place) <= 32


def test_a_pool_hands_out_a_bounded_number_of_slots():
    pool = BatchPool(view("original"), Preprocessing(size=2, resize=2), np.ones(9, bool), batch_size=4, count=2,
                     pinned=False)
    samples = [LoadedSample(row, str(row), sha256="x") for row in range(9)]
    assert pool.free_slots == 8
    slots = [pool.slot_for(sample) for sample in samples[:6]]
    assert [slot.index for slot in slots] == [0, 1, 2, 3, 0, 1] and pool.free_slots == 2
    assert pool.mark_decoded(3) == []
    (first,) = pool.mark_decoded(2)
    assert [sample.row for sample in first.samples] == [0, 1, 2, 3] and pool.free_slots == 2
    first.users = 2
    pool.release(first)
    assert pool.free_slots == 2
    pool.release(first)
    assert pool.free_slots == 6
    slots[4].batch.array[:] = 7
    last = pool.pop_partial()
    assert [sample.row for sample in last.samples] == [4] and last.array[1:].max() == 0 and last.array[0].min() == 7
    assert pool.pop_partial() is None


def test_a_run_that_is_told_to_stop_does_not_wait_for_an_image(drawn, tmp_path):
    """One image takes for ever; what was decoded before it is encoded and published."""
    encoder, keys, released = encoder_of("timm:test_vit", 4), list(drawn.table.keys), threading.Event()
    images, stop = open_images(drawn.root), Stop()

    class Slow:
        limits = images.limits

        def read(self, key):
            if key == keys[20]:
                threading.Timer(0.5, stop.set, [15]).start()
                released.wait(60)
            return images.read(key)

    job, store = job_of(encoder, "original", np.ones(len(keys), bool)), Store(tmp_path / "s", new=True)
    began = time.monotonic()
    try:
        done = run_jobs([job], keys, Slow(), partial(publish_shard, store), options=ExtractOptions(workers=1),
                        progress=False, stop=stop)
    finally:
        released.set()
    assert time.monotonic() - began < 20 and done.stopped_by == 15
    assert list(file_state(store, job.recipe).rows.place) == keys[:done.samples] and 8 <= done.samples <= 20
