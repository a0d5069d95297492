"""The loop of extraction and its parts, without the command line."""

import hashlib
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.extract.conftest import SimulatedRunner
from twofold.cache.shards import file_state
from twofold.cache.store import Store
from twofold.data.images.decode import decode
from twofold.data.images.sources import open_images
from twofold.data.utils.errors import InputError
from twofold.data.utils.processes import CONTEXT
from twofold.extract.encoders.encoder import Encoder
from twofold.extract.encoders.preprocessing import Preprocessing
from twofold.extract.encoders.registry import load_encoder
from twofold.extract.engine import loop
from twofold.extract.engine.batches import BatchPool, LoadedSample
from twofold.extract.engine.loop import compute_task, storable
from twofold.extract.engine.progress import Stop
from twofold.extract.engine.task import ComputeTask, Encoders, EncoderSource, FileRows, recipe_of
from twofold.extract.engine.views import VIEWS, apply_view, view_record
from twofold.extract.streams import parse_weights


def test_values_that_cannot_be_stored_fail_their_face():
    features = np.array([[1.0, 2.0], [np.nan, 0.0], [1e6, 0.0], [-np.inf, 0.0]], np.float32)
    stored, faults = storable(features, "float16")
    assert stored.dtype == np.float16 and stored[0].tolist() == [1, 2]
    assert faults == ["", "embedding not finite", "embedding out of the range of float16", "embedding not finite"]
    assert storable(features, "float32")[1][2] == ""


def test_weights_belong_to_a_backbone_and_one_name_stands_for_the_encoders_of_all_folds(tmp_path):
    assert parse_weights(["a=x=y", "b=hub"], ["a", "b"]) == {"a": ["x=y"], "b": ["hub"]}
    out, paths = tmp_path / "of [me].safetensors", [tmp_path / f"of [me].fold{n}of10.safetensors" for n in range(1, 11)]
    assert parse_weights([f"a={out}"], ["a"]) == {"a": [str(out)]}  # nothing of the kind: the file that is asked for
    for few, sentence in ((paths[:2], r"fold3of10.safetensors, .*fold10of10.safetensors are missing"), (paths, "")):
        for path in few:
            path.touch()
        with pytest.raises(InputError, match=sentence) if sentence else nullcontext():
            assert parse_weights([f"a={out}"], ["a"]) == {"a": list(map(str, paths))}
    (tmp_path / "of [me].fold1of2.safetensors").touch()
    with pytest.raises(InputError, match="encoders of 2 and of 10 folds"):
        parse_weights([f"a={out}"], ["a"])


# ------------------------------------------------------------------------------------------------------------ the loop
def encoder_of(name: str, batch_size: int) -> Encoder:
    return load_encoder(name, weights="random:0", device="cpu", precision="fp32", batch_size=batch_size)


@pytest.fixture
def compute(drawn, tmp_path):
    """Compute rows of feature files into a store, given encoder, view and rows of each; returns the statistics and what
    is cached of each file then."""
    def run(*wanted, keys=drawn.table.keys, images=None, fails="", stop=None, **options):
        sources = {EncoderSource(backbone=encoder.name): encoder for encoder, _, _ in wanted}
        files = [FileRows(source=EncoderSource(backbone=encoder.name), rows=np.array(list(rows), int),
                          recipe=recipe_of(encoder, view, dtype="float32")) for encoder, view, rows in wanted]
        task = ComputeTask(files=files, keys=keys, images=images or open_images(drawn.root), store=tmp_path / "s",
                           **options)
        stats, raises = None, pytest.raises(RuntimeError, match=fails) if fails else nullcontext()
        with raises:
            stats = compute_task(task, Encoders("cpu", sources), progress=False, stop=stop)
        return stats, [file_state(Store(tmp_path / "s"), file.recipe).rows for file in files]

    return run


@pytest.mark.parametrize("workers", [1, 4])
def test_every_row_is_that_of_its_face_whatever_each_file_lacks(compute, drawn, workers):
    """Files that lack different faces, views, batches of different sizes, and faces that cannot be read."""
    keys, few = [*drawn.table.keys, "nowhere.png"], [*range(1, 70, 3), 70]
    vit, resnet = encoder_of("timm:test_vit", 5), encoder_of("timm:test_resnet", 16)
    wanted = [(vit, "original", range(71)), (vit, "flip", few), (resnet, "original", range(71)),
              (resnet, "enhanced1", range(71)), (resnet, "enhanced2", [])]
    done, stored = compute(*wanted, keys=keys, workers=workers, shard_rows=20)
    assert done.samples == 71 and done.failed_samples == {"nowhere.png": "missing file"}
    assert sorted(done.rows.values()) == [len(few) - 1, 70, 70, 70] and not stored[4].place
    for (encoder, view, rows), cached in zip(wanted[:4], stored, strict=False):
        lacking = [keys[row] for row in rows][:-1]
        assert sorted(cached.place) == sorted(lacking) and cached.failures == {"nowhere.png": "missing file"}
        for key, row in list(zip(lacking, np.concatenate(list(cached.blocks(lacking))), strict=True))[::10]:
            content = (drawn.root / key).read_bytes()  # one face on its own, by the straight way
            picture = apply_view(view, decode(content), hashlib.sha256(content).hexdigest())
            np.testing.assert_allclose(row, encoder.encode(encoder.preprocessing.prepare(picture)[None])[0], atol=2e-4)


class CountingRunner(SimulatedRunner):
    """Claims never to be done, and checks at each result how many of 18 passes were started meanwhile."""

    def start(self, encoder, pixels):
        inner, number = super().start(encoder, pixels), self.started

        def result():
            assert self.started >= min(number + self.in_flight - 1, 18)
            return inner.result()

        return SimpleNamespace(done=lambda: False, result=result)


def test_the_next_passes_are_started_before_one_is_waited_for(compute, monkeypatch):
    card = CountingRunner()
    monkeypatch.setattr(loop, "runner_for", lambda device: card)
    done, (cached,) = compute((encoder_of("timm:test_vit", 4), "original", range(70)))
    assert (card.started, done.rows.total(), len(cached.place)) == (18, 70, 70)


def test_encoders_that_need_the_same_pixels_share_their_batches(compute, monkeypatch):
    prepared, prepare = [], Preprocessing.prepare
    monkeypatch.setattr(Preprocessing, "prepare", lambda how, image: prepared.append(how) or prepare(how, image))
    encoder = encoder_of("timm:test_vit", 8)
    done, _ = compute((encoder, "original", range(20)), (replace(encoder, name="timm:another"), "original", range(20)))
    assert done.rows.total() == 40 and len(prepared) == 20


def test_a_network_that_breaks_ends_the_run_and_keeps_what_is_published(compute):
    encoder, calls = encoder_of("timm:test_vit", 4), []

    def breaking(pictures):
        calls.append(len(pictures))
        if len(calls) == 9:
            raise RuntimeError("the card is gone")
        return encoder.network(pictures)

    _, (cached,) = compute((replace(encoder, network=breaking), "original", range(70)), shard_rows=8,
                           fails="the card is gone")
    assert 24 <= len(cached.place) <= 32


def test_a_pool_hands_out_a_bounded_number_of_slots():
    pool = BatchPool("original", Preprocessing(size=2, resize=2), np.ones(9, bool), batch_size=4, count=2,
                     pinned=False)
    slots = [pool.slot_for(LoadedSample(row, str(row))) for row in range(6)]
    assert [index for _, index in slots] == [0, 1, 2, 3, 0, 1] and pool.free_slots == 2
    (first,) = pool.mark_decoded(5)
    first.users = 1
    first.release()
    assert pool.free_slots == 6
    slots[4][0].array[:] = 7
    last = pool.pop_partial()
    assert [sample.row for sample in last.samples] == [4] and last.array[1:].max() == 0 and last.array[0].min() == 7


def test_a_run_that_is_told_to_stop_does_not_wait_for_an_image(compute, drawn):
    """One image takes for ever; what was decoded before it is encoded and published."""
    keys, released, images, stop = drawn.table.keys, threading.Event(), open_images(drawn.root), Stop()

    class Slow:
        limits = images.limits

        def read(self, key):
            if key == keys[20]:
                threading.Timer(0.5, stop.set, [15]).start()
                released.wait(60)
            return images.read(key)

    began = time.monotonic()
    try:
        done, (cached,) = compute((encoder_of("timm:test_vit", 4), "original", range(70)), images=Slow(), workers=1,
                                  stop=stop)
    finally:
        released.set()
    assert time.monotonic() - began < 20 and done.stopped_by == 15
    assert list(cached.place) == keys[:done.samples] and 8 <= done.samples <= 20


def test_a_signal_to_stop_reaches_the_processes_of_other_devices():
    shared = CONTEXT.Value("i", 0, lock=False)
    Stop(shared).set(15)
    assert shared.value == 15


# --------------------------------------------------------------------------------------------------------------- views
def test_a_view_depends_on_the_image_alone():
    """The draw is part of the recipe: another NumPy or Pillow must give the same face."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))

    def pixels(name, sha256="ab" * 32):
        return np.asarray(apply_view(name, image, sha256))

    np.testing.assert_array_equal(pixels("original"), np.asarray(image))
    np.testing.assert_array_equal(pixels("flip"), np.asarray(image)[:, ::-1])
    for name, total in (("enhanced1", 393046), ("enhanced2", 527465)):
        first = pixels(name)
        assert (first != pixels(name, "cd" * 32)).any()  # other faces in between change nothing
        np.testing.assert_array_equal(first, pixels(name))
        assert first.shape == (40, 30, 3) and int(first.astype(int).sum()) == total


def test_the_record_of_a_view_holds_its_parameters_and_an_unknown_one_is_named():
    assert [(view_record(name)["name"], "scale" in view_record(name)) for name in VIEWS] == [
        ("original", False), ("flip", False), ("crop_left", False), ("crop_centre", False),
        ("crop_right", False), ("enhanced1", True), ("enhanced2", True)]
    with pytest.raises(InputError, match=r"'mirror'.*original, flip"):
        view_record("mirror")
