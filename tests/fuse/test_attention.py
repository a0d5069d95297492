"""Heads that weigh pieces of a row and frames of a clip: what only they can learn, masks, and runs that come back."""

import json

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch

from tests.fuse.conftest import quick, recipe, write_manifest
from tests.fuse.test_clips import classes, write_clips  # noqa: F401 (a fixture)
from twofold.cache.feature_writer import write_feature_file
from twofold.data.labels import builtin_taxonomy
from twofold.data.utils.errors import InputError
from twofold.fuse.core.settings import Settings
from twofold.fuse.evaluate import evaluate
from twofold.fuse.experiment import prepare
from twofold.fuse.export.export import export
from twofold.fuse.fuse import fuse
from twofold.fuse.heads.attention import GAIN, by_span
from twofold.fuse.heads.head import StandardisedHead, run_on_array
from twofold.fuse.predict import PredictOptions, predict
from twofold.fuse.runs.read import read_run
from twofold.fuse.training.ensemble import Spec, initialise

CLASSES = builtin_taxonomy("cexpr7").classes
SPLITS = ("train", "train", "train", "val", "test")


def write_pieces(folder, values, label, pieces, *, name="net"):
    """A store of rows of pieces (N, D), and the class of each."""
    folder.mkdir(exist_ok=True)
    keys = [f"{row:05d}.png" for row in range(len(values))]
    write_manifest(folder, [(key, SPLITS[row % 5], "", CLASSES[label[row]], "") for row, key in enumerate(keys)])
    how = recipe(name, backbone=f"timm:{name}?layers=all", pieces=tuple(pieces))
    write_feature_file(folder / f"{name}.h5", recipe=how, dim=values.shape[1], keys=keys, failures={},
                       sha256=[f"{row:064x}" for row in range(len(keys))], features=values.astype(np.float16))
    return folder


def head(kind, *, dims=(12,), members=2, seeds=(0, 1), **spec):
    made = StandardisedHead(Spec(kind=kind, dims=dims, classes=CLASSES, members=members, hidden=16, **spec))
    initialise(made.body, seeds)
    return made.eval()


def accuracy(fusion):
    return fusion.figures[-1].of["accuracy"].value


def test_pooling_is_attention_with_values_projected_before_it():
    """Against the textbook: each query's softmax over the scores of all tokens, then its share of their values."""
    body = head("attentive", pieces=((4, 4, 4),), seeds=(3, 4)).body
    pool, x = body.pools[0], torch.randn(2, 5, 12)
    with torch.no_grad():
        pool.place.normal_(std=0.1)
        pooled, weights = pool(x, None)
    for member in range(2):
        tokens = x[member].reshape(5, 3, 4)
        scores = tokens @ pool.content.weight[member] + pool.content.bias[member] + GAIN * pool.place[member]
        share = scores.softmax(dim=1)  # (5, 3, Q)
        values = (tokens @ pool.value.weight[member]).reshape(5, 3, 8, 2)
        expected = torch.einsum("btq,btqv->bqv", share, values).reshape(5, 16) + pool.value.bias[member]
        assert torch.allclose(pooled[member], expected, atol=1e-5)
        assert torch.allclose(weights[member], share.mean(-1), atol=1e-6)


@pytest.mark.parametrize("kind", ["attentive", "temporal"])
def test_a_padded_clip_is_answered_as_alone_bit_for_bit(kind):
    made = head(kind, dims=(4, 3), frames=True)
    made.mean.normal_()
    made.std.uniform_(0.5, 2)
    generator = np.random.default_rng(0)
    clips = [generator.normal(size=(length, 7)).astype(np.float32) for length in (1, 3, 20, 37)]
    padded = np.full((4, 50, 7), np.nan, np.float32)
    for row, clip in zip(padded, clips, strict=True):
        row[:len(clip)] = clip
    together = run_on_array(made, padded.reshape(4, -1)).probabilities
    masked = made(torch.from_numpy(padded.reshape(4, -1))).logits.softmax(-1)  # as in training, all at once
    for number, clip in enumerate(clips):
        alone = run_on_array(made, clip.reshape(1, -1)).probabilities
        assert (alone[:, 0] == together[:, number]).all()
        assert masked[:, number].detach().numpy() == pytest.approx(alone[:, 0], abs=1e-6)


def test_the_weight_of_a_clip_is_summed_up_by_tenths_of_its_time():
    made = head("attentive", frames=True)
    weights = run_on_array(made, np.zeros((1, 20 * 12), np.float32)).weights
    assert weights.shape == (2, 1, 10) and weights == pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize("widths", [(6, 6, 6, 6), (3, 6, 9, 6)])
def test_layers_gives_the_layer_with_the_signal_its_weight_and_a_run_comes_back(tmp_path, widths):
    generator, label = np.random.default_rng(0), np.arange(840) % 7
    parts = [3 * generator.normal(size=(840, width)) for width in widths]
    parts[3] = np.random.default_rng(9).normal(size=(7, 6))[label] * 2 + 0.7 * generator.normal(size=(840, 6))
    pieces = [(f"layer{number}", width) for number, width in enumerate(widths)]
    store = write_pieces(tmp_path / "s", np.hstack(parts), label, pieces)
    done = fuse([store], quick(head="layers", epochs=30), out=tmp_path / "run")
    weights = done.figures[-1].system.stream_weights
    assert list(weights) == [f"timm:net?layers=all layer{number}" for number in range(4)]
    assert sum(weights.values()) == pytest.approx(1, abs=1e-5) and weights["timm:net?layers=all layer3"] > 0.5
    assert accuracy(done) > 0.8
    run = read_run(tmp_path / "run")
    assert json.loads((tmp_path / "run/metrics.json").read_text())["systems"][-1]["contributions"] == weights
    assert evaluate(run.path, store).figures.system.stream_weights == pytest.approx(weights, abs=1e-6)
    x = prepare([store], run.settings).features.matrix[:50]
    export(run, tmp_path / "onnx", licences={})
    session = onnxruntime.InferenceSession(tmp_path / "onnx/head.onnx")
    assert session.run(None, {"features": x})[0] == pytest.approx(run.probabilities(x)[0], abs=1e-5)


def _tokens(count, label, where, generator, dim=8):
    """(N, T, D) noise; the token at `where` (N,) shows the class, and in its first number that it does."""
    tokens = generator.normal(size=(len(label), count, dim))
    tokens[..., 0] = -1
    centres = np.random.default_rng(9).normal(size=(7, dim - 1))
    centres *= 2.5 / np.linalg.norm(centres, axis=1, keepdims=True)
    tokens[np.arange(len(label)), where, 1:] = centres[label] + 0.5 * generator.normal(size=(len(label), dim - 1))
    tokens[np.arange(len(label)), where, 0] = 1
    return tokens


@pytest.mark.parametrize("corner", [True, False])
def test_attentive_finds_the_token_that_shows_the_class(tmp_path, corner):
    """In one corner: a linear probe on the mean of the tokens is near chance. Anywhere: one on all tokens is, too."""
    generator, label = np.random.default_rng(1), np.arange(1400) % 7
    where = np.full(1400, 15) if corner else generator.integers(0, 16, 1400)
    tokens = _tokens(16, label, where, generator)
    if corner:
        tokens[..., 0] = 0  # nothing but the place tells
    pieces = [(f"token{number}", 8) for number in range(16)]
    store = write_pieces(tmp_path / "s", tokens.reshape(1400, -1), label, pieces)
    mean = write_pieces(tmp_path / "mean", tokens.mean(axis=1), label, [("mean", 8)])
    options = quick(head="attentive", epochs=60, compound_mixup=0.0, lr=5e-3)
    found = fuse([store], options, out=None)
    linear = [accuracy(fuse([each], quick(head="logreg"), out=None)) for each in (mean, store)]
    assert accuracy(found) > 0.8 and linear[0] < 0.45, (accuracy(found), linear)
    if corner:
        weights = found.figures[-1].system.stream_weights
        assert max(weights, key=weights.get) == "timm:net?layers=all token15"
    else:
        assert linear[1] < 0.45


def sequences(**given):
    return quick(classes="basic3.toml", unit="source", folds=5, compound_mixup=0.0, **{
        "pool": ("sequence",), "epochs": 40, "lr": 3e-3, "seeds": 2} | given)


@pytest.mark.usefixtures("classes")
def test_the_order_of_frames_is_learned_by_temporal_alone(tmp_path):
    store, frames = write_clips(tmp_path / "s", clips=240, order_only=True)
    features = prepare([store], sequences(head="temporal")).features
    assert features.matrix.shape == (240, 6 * max(map(len, frames)))
    assert np.array_equal(features.read(np.array([7]), [0])[0, :frames[7].size], frames[7].astype(np.float32).ravel())
    reached = {head: fuse([store], sequences(head=head), out=tmp_path / head) for head in ("attentive", "temporal")}
    assert accuracy(reached["attentive"]) < 0.5 and accuracy(reached["temporal"]) > 0.95
    assert next(iter(reached["temporal"].figures[-1].system.stream_weights)) == "timm:net 0 to 10 %"
    run = read_run(tmp_path / "temporal")
    predict(run, store, PredictOptions(), out=tmp_path / "p.csv")
    table = pd.read_csv(tmp_path / "p.csv")
    scores = run.probabilities(features.matrix.reshape(240, -1, 6))[0]
    assert table["key"].tolist() == features.keys.tolist()
    assert table[list(run.task.outputs)].to_numpy() == pytest.approx(scores, abs=2e-6)
    export(run, tmp_path / "onnx", licences={})
    session = onnxruntime.InferenceSession(tmp_path / "onnx/head.onnx")
    short = features.matrix[frames_of(frames) == 5].reshape(-1, features.most_frames, 6)[:, :5]
    assert session.run(None, {"features": short})[0] == pytest.approx(run.probabilities(short)[0], abs=1e-5)
    broken = short.copy()
    broken[0, 0] = np.nan
    with pytest.raises(InputError, match="not finite"):
        run.probabilities(broken)
    with pytest.raises(InputError, match=r"\(N, T, 6\) is needed"):
        run.probabilities(features.matrix)


def frames_of(frames):
    return np.array([len(each) for each in frames])


@pytest.mark.usefixtures("classes")
def test_what_is_in_the_mean_is_learned_too_and_streamed_as_resident(tmp_path):
    store, _ = write_clips(tmp_path / "s", clips=180)
    for head, memory in (("attentive", 1e-9), ("temporal", 0)):
        assert accuracy(fuse([store], sequences(head=head, memory_gb=memory, batch_size=16), out=None)) > 0.9
    resident, streamed = (prepare([store], sequences(head="temporal", memory_gb=size)).features for size in (0, 1e-9))
    assert streamed.matrix is None
    rows = np.array([5, 80, 3])
    block = streamed.read(rows)
    assert np.array_equal(block, resident.matrix[rows][:, :block.shape[1]], equal_nan=True)


def test_weights_are_summed_over_the_spans_that_a_frame_reaches_over():
    weights = torch.tensor([[[1, 0, 0, 0], [0.2, 0.3, 0.5, 0], [0.1, 0.2, 0.3, 0.4]]])
    present = torch.tensor([[[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]]).bool()
    fine = torch.stack([torch.tensor([1.0]).repeat(60) / 60, torch.tensor([0.2, 0.3, 0.5]).repeat_interleave(20) / 20,
                        torch.tensor([0.1, 0.2, 0.3, 0.4]).repeat_interleave(15) / 15])
    torch.testing.assert_close(by_span(weights, present)[0], fine.reshape(3, 10, 6).sum(dim=-1))


@pytest.mark.usefixtures("classes")
def test_of_too_many_frames_the_means_of_spans_are_kept(tmp_path):
    store, frames = write_clips(tmp_path / "s")
    matrix = prepare([store], sequences(head="temporal", pool=("sequence4",))).features.matrix
    long = next(row for row, each in enumerate(frames) if len(each) == 8)
    assert matrix[long] == pytest.approx(frames[long].astype(np.float32).reshape(4, 2, 6).mean(1).ravel(), abs=1e-6)


@pytest.mark.usefixtures("classes")
def test_heads_say_which_samples_they_need(tmp_path):
    store, _ = write_clips(tmp_path / "s")
    for options, message in [
            (sequences(head="mlp"), "head mlp cannot read the frames of a sequence: attentive, temporal can"),
            (sequences(head="layers", pool=("mean",)), "head layers needs a stream of several pieces"),
            (sequences(head="temporal", pool=("mean",)), "head temporal needs the frames of clips"),
            (sequences(head="attentive", pool=("mean",)), r"several pieces .* or the frames of clips")]:
        with pytest.raises(InputError, match=message):
            prepare([store], options)
    with pytest.raises(InputError, match="alone"):
        Settings(unit="source", pool=("sequence", "mean"))
