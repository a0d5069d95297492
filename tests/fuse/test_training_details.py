"""Details of training that went wrong in silence until issue 11, each with what it must be."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.fuse.test_training import CLASSES, CPU, QUICK, _batch, _examples, _train
from twofold.data.labels import BASIC, basic_pair
from twofold.data.utils.errors import InputError
from twofold.fuse.core.kinds import one_hot
from twofold.fuse.core.settings import PRESETS, resolve
from twofold.fuse.experiment import prepare
from twofold.fuse.fuse import fuse
from twofold.fuse.heads.zeroshot import pair_scores
from twofold.fuse.metrics import scores as metrics
from twofold.fuse.training.data import drop_streams, mixup
from twofold.fuse.training.ensemble import MemberRandom
from twofold.fuse.training.optimiser import FALL, LEAST, PATIENCE, AdamW, Plateau

FAST = {"epochs": 2, "hidden": 8, "seeds": 1, "batch_size": 64}


def test_a_mixture_of_two_classes_is_no_positive_of_either_for_the_contrastive_loss():
    batch = _batch()
    batch = replace(batch, label=torch.tensor([0, 0, 1, 2, 2, 2, -1, 3]).repeat(2, 8))
    label = mixup(batch, 0.4, MemberRandom((0, 1), CPU), classes=7).label[0, 8:16].tolist()
    assert label == [-1, 0, -1, -1, 2, 2, -1, -1]  # each with its neighbour before it


def test_stream_dropout_leaves_no_version_of_a_face_empty():
    batch = replace(_batch(rows=4000), x=torch.ones(2, 4000, 15))  # three versions of two streams
    kept = drop_streams(batch, (2, 3), 0.6, MemberRandom((0, 1), CPU)).x
    for version in kept.split(5, dim=-1):
        assert (version.sum(dim=-1) > 0).all()
        assert all((part.min(-1).values == part.max(-1).values).all() for part in version.split((2, 3), dim=-1))
    assert (kept[..., :5].sum(dim=-1) < 5).float().mean() == pytest.approx(1 - 0.4**2, abs=0.02)


def test_the_rate_rises_through_the_whole_of_an_epoch_where_faces_without_a_class_are_not_drawn():
    data = _examples()
    data = replace(data, label=np.where(np.arange(300) % 3, -1, data.label))  # a third is drawn
    settings = replace(QUICK, epochs=3, warmup=3, batch_size=10, schedule="constant")
    _, history = _train(settings, data, _examples(seed=1))
    rates = [line.lr / settings.lr for line in history]  # of the last step of each epoch
    assert rates == pytest.approx([(epoch + 0.9) / 3 for epoch in range(3)], abs=0.01)


def test_streamed_blocks_without_pairs_or_without_labels_train_all_the_same():
    data = _examples(rows=20_000, resident=False)
    order = np.argsort(data.basic_label, kind="stable")  # the blocks' faces have few basic emotions
    read, label = data.read, np.where(np.arange(20_000) < 9_000, -1, data.label[order])
    data = replace(data, read=lambda some: read(order[some]), label=label, basic_label=np.sort(data.basic_label),
                   target=one_hot(label, 7))
    settings = replace(QUICK, epochs=1, compound_mixup=0.25, balanced_sampling=0.5)
    _, history = _train(settings, data, _examples(seed=1))
    assert np.isfinite(history[0].loss) and history[0].score > 0.1


def test_on_a_perfect_validation_set_the_temperature_stays_within_its_bounds():
    truth = np.arange(70) % 7
    right = 0.93 * np.eye(7)[truth] + 0.01
    temperature = metrics.fit_temperature(right, truth)
    assert 0.1 < temperature < 1
    confidence = metrics.apply_temperature(right, temperature).max(axis=1)
    assert confidence == pytest.approx(1 - 6 / 7 / 71, abs=2e-3)  # one face in 71 is of any class


def test_the_threshold_rule_says_something_where_no_basic_emotion_is_above_chance():
    basic = torch.full((2, 8), 0.12)
    basic[0, BASIC.index("neutral")], basic[1, BASIC.index("neutral")] = 0.5, 0.9
    basic[0, BASIC.index("sadness")] = basic[0, BASIC.index("anger")] = 0.13
    basic[1] = torch.tensor([0.9 if name == "neutral" else 0.02 if name in ("sadness", "fear") else 0.01
                             for name in BASIC])
    calls = pair_scores(basic, [basic_pair(name) for name in CLASSES], rule="threshold").argmax(dim=-1)
    assert [CLASSES[call] for call in calls] == ["sadly_angry", "sadly_fearful"]


def test_the_plateau_is_torchs():
    generator = np.random.default_rng(0)
    figures = np.minimum(generator.random(120).cumsum() / 20, 1) * 0.5 + 0.02 * generator.random(120)
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, mode="max", factor=FALL, patience=PATIENCE,
                                                        min_lr=LEAST, eps=0)
    ours = Plateau()
    for figure in [*figures, *[0.1] * 60]:
        theirs.step(float(figure))
        ours = ours.after(float(figure))
        assert ours.factor == pytest.approx(optimiser.param_groups[0]["lr"])
    assert ours.factor == LEAST


def test_the_papers_preset_is_its_figure_1_with_enhanced_views_where_there_are_any(make_store):
    plain, rich = make_store(), make_store(name="rich", views=("original", "enhanced1", "enhanced2"))
    assert resolve(preset="paper").backbones == ("vit_mae", "posterv2", "resnet50")  # of the paper's Tables 1 and 2
    fast = FAST | {"backbones": ["timm:a", "timm:b"]}
    settings = resolve(preset="paper", changes=fast)
    assert (settings.head, settings.lr, settings.contrastive_weight) == ("paper", 5e-5, 0.1)
    experiment = prepare([rich], settings)
    assert [stream.view for stream in experiment.features.streams] == ["original"] * 2 + ["enhanced1"] * 2 + [
        "enhanced2"] * 2
    fusion = fuse([rich], settings, out=None)
    assert fusion.settings.views == ("original", "enhanced1", "enhanced2") and fusion.settings.extra_views == ()
    notes = prepare([plain], settings).notes
    assert any(note.startswith("without the view enhanced1: there is none of timm:a, timm:b") for note in notes)
    with pytest.raises(ValueError, match="enhanced1"):  # a view that was asked for by name must be there
        prepare([plain], resolve(preset="paper", changes=fast | {"views": ["original", "enhanced1"]}))


def test_contrastive_temperature_and_projection_change_what_is_learned(make_store):
    store = make_store(views=("original", "flip"))
    base = FAST | {"head": "paper", "views": ["original", "flip"], "contrastive_weight": 1.0}
    means = [fuse([store], resolve(changes=base | change), out=None).figures[-1].predictions.mean
             for change in ({}, {"contrastive_temperature": 1.0}, {"projection": 4})]
    assert not np.allclose(means[0], means[1], atol=1e-5) and not np.allclose(means[0], means[2], atol=1e-5)


def test_the_authors_preset_is_what_they_ran(make_store):
    authors = resolve(preset="authors")
    assert (authors.hidden, authors.dropout, authors.lr, authors.batch_size, authors.schedule) == (
        1152, 0.1, 5e-5, 128, "plateau")
    assert authors.backbones == ("manet", "vit_mae", "resnet50_conv5")
    assert PRESETS["authors"]["label_smoothing"] == 0 and not authors.compound_mixup
    mine = resolve(preset="authors", changes=FAST | {"backbones": ["timm:a", "timm:b"]})
    assert fuse([make_store()], mine, out=None).figures
    with pytest.raises(ValueError, match="has no features of 'manet'"):
        prepare([make_store(name="other")], authors)
    with pytest.raises(InputError, match="choose from constant, cosine, plateau"):
        resolve(changes={"schedule": "steps"})


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_it_is_torchs_fused_adamw(decay):
    start = [torch.randn(40, 30), torch.randn(30)]
    ours, theirs = ([p.clone().requires_grad_() for p in start] for _ in range(2))
    optimiser = AdamW(ours, weight_decay=decay)
    reference = torch.optim.AdamW(theirs, lr=1.0, weight_decay=decay, fused=True)
    for step in range(20):
        rate = 1e-2 / (1 + step)
        reference.param_groups[0]["lr"] = rate
        for p, q in zip(ours, theirs, strict=True):
            q.grad = torch.randn(p.shape)
            p.grad = q.grad.clone()
        optimiser.step(rate)
        reference.step()
    assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))
    assert all(p.grad is None for p in ours)
