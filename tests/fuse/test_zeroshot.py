"""Pair rules against examples worked by hand."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch

from twofold.cache.classifier import BackboneClassifier
from twofold.cache.feature_file import FeatureFile
from twofold.cache.feature_writer import write_feature_file
from twofold.cache.recipe import Recipe
from twofold.cache.store import Store
from twofold.data.labels import BASIC, basic_pair, builtin_taxonomy
from twofold.data.utils.errors import InputError
from twofold.fuse.core.features import join
from twofold.fuse.core.kinds import Classification
from twofold.fuse.core.settings import resolve
from twofold.fuse.evaluate import evaluate
from twofold.fuse.fuse import fuse
from twofold.fuse.heads.head import build
from twofold.fuse.heads.zeroshot import UNKNOWN, pair_scores, pretrained_classifiers
from twofold.fuse.runs.read import read_run
from twofold.fuse.training.data import membership
from twofold.fuse.training.ensemble import Spec

CLASSES = builtin_taxonomy("cexpr7").classes
RAFDB = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")  # POSTER++'s own order

FACE = {"surprise": 0.5, "happiness": 0.3, "fear": 0.1, "anger": 0.1}
NAMES = ("happily_surprised", "fearfully_surprised", "sadly_angry")


def _scores(rule):
    basic = torch.tensor([[FACE.get(name, 0.0) for name in BASIC]])
    return pair_scores(basic, [basic_pair(name) for name in NAMES], rule=rule)[0].tolist()


@pytest.mark.parametrize(("rule", "expected"), [
    ("threshold", [0.8, 0.5, 0.0]),  # fear and anger are below one seventh
    ("weighted", [(6 * 0.3 + 2 * 0.5) / 8, (5 * 0.1 + 2 * 0.5) / 7, 5 * 0.1 / 9]),
    ("mean", [0.4, 0.3, 0.05]),
    ("geometric", [np.sqrt(0.15), np.sqrt(0.05), 0.0]),
    ("harmonic", [2 * 0.15 / 0.8, 2 * 0.05 / 0.6, 0.0]),
])
def test_a_rule_on_a_worked_example(rule, expected):
    assert _scores(rule) == pytest.approx(expected, abs=1e-6)


def test_every_taxonomy_has_two_members_a_compound_and_one_a_basic():
    for name in ("cexpr7", "rafdb11", "rafce14", "basic7", "basic8"):
        classes = builtin_taxonomy(name)
        assert (membership(classes.basics).sum(axis=0) == (2 if classes.target == "compound" else 1)).all()
    table = membership([basic_pair("sadly_angry")])
    assert [BASIC[row] for row in np.flatnonzero(table[:, 0])] == ["sadness", "anger"]


def _store(folder, *, rows=300, dim=6, classes=RAFDB, classifier=True):
    """A store whose backbone knows the basic emotions by itself: its features show a face's pair, in no clear order."""
    folder.mkdir()
    generator = np.random.default_rng(7)
    label = np.arange(rows) % len(CLASSES)
    shown = np.array([[name in basic_pair(CLASSES[c]) for name in RAFDB] for c in label], float)
    mixing = np.linalg.qr(generator.standard_normal((max(dim, 7), 7)))[0][:dim]
    features = (4 * shown + 0.5 * generator.standard_normal(shown.shape)) @ mixing.T
    weight, bias = mixing.T.astype(np.float32), np.linspace(-0.5, 0.5, 7, dtype=np.float32)

    how = Recipe(backbone="posterv2", architecture="posterv2", weights="sha256:" + "1" * 64, tap="head",
                 preprocessing={"size": 224}, view={"name": "original"}, decoder="pillow-rgb-1", precision="fp32",
                 dtype="float16")
    keys = [f"{row:04d}.png" for row in range(rows)]
    content = {"recipe": how, "dim": dim, "keys": keys, "sha256": [f"{row:064x}" for row in range(rows)],
               "features": features.astype(np.float16), "failures": {}}
    write_feature_file(folder / "posterv2.h5", **content,
                       classifier=BackboneClassifier(classes, weight.T, bias) if classifier else None)
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("key", "split", "basic", "compound", "group"), *(
            (key, ("train", "val", "test", "test")[row // 7 % 4], "", CLASSES[label[row]], "")
            for row, key in enumerate(keys))])
    return folder, weight, bias


def _joined(store):
    return join([Store(store)], backbones=(), views=("original",), task=Classification(builtin_taxonomy("cexpr7")))


def test_the_own_classifier_gives_the_basic_probabilities_that_the_backbone_gave(tmp_path):
    store, weight, bias = _store(tmp_path / "s", dim=12)
    (found,), note = pretrained_classifiers(_joined(store))
    assert "nothing is trained" in note
    columns = [BASIC.index(name) for name in RAFDB]
    assert np.allclose(found.weight[:, columns], weight.T, atol=1e-3)
    assert np.allclose(found.bias[columns], bias, atol=1e-3)
    assert found.bias[BASIC.index("contempt")] == UNKNOWN  # seven classes: never called
    logits = FeatureFile(store / "posterv2.h5").read() @ weight.T + bias
    made = fuse([store], resolve(changes={"head": "zeroshot", "rule": "mean"}), out=None).figures[-1].predictions
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    by_hand = np.stack([sum(shares[:, RAFDB.index(name)] for name in basic_pair(one)) / 2 for one in CLASSES], axis=1)
    by_hand /= by_hand.sum(axis=1, keepdims=True)
    assert np.allclose(made.mean, by_hand[[int(key[:4]) for key in made.key]], atol=1e-3)


def test_with_an_own_classifier_no_label_is_needed_to_learn_from_and_the_run_predicts_from_features_alone(tmp_path):
    store, _, _ = _store(tmp_path / "s", dim=12)
    made = fuse([store], resolve(changes={"head": "zeroshot"}), out=tmp_path / "run")  # no basic label in the manifest
    assert made.figures[-1].scores.accuracy > 0.9 and len(made.figures[-1].predictions.outputs) == 1
    assert any("own classifiers" in note for note in made.notes)
    file = FeatureFile(store / "posterv2.h5")
    write_feature_file(store / "other.h5", recipe=replace(file.recipe, backbone="other"), dim=12, keys=file.keys,
                       sha256=file.sha256, features=file.read()[::-1], failures={}, classifier=file.classifier)
    both = fuse([store], resolve(changes={"head": "zeroshot"}), out=None)
    assert len(both.figures) == 3 and both.comparison is None and both.best_single == ""  # no validation, no best
    without, _, _ = _store(tmp_path / "t", dim=12, classifier=False)
    assert evaluate(tmp_path / "run", without).figures.scores.accuracy == made.figures[-1].scores.accuracy


def test_an_mlp_on_tuned_encoders_gives_their_basic_probabilities_beside_its_own_classes(tmp_path):
    store, weight, bias = _store(tmp_path / "s", dim=12)
    made = fuse([store], resolve(changes={"head": "tuned", "seeds": 2}), out=tmp_path / "run").figures[-1]
    plain = fuse([store], resolve(changes={"head": "mlp", "seeds": 2}), out=None).figures[-1]
    assert np.allclose(made.predictions.outputs, plain.predictions.outputs, atol=1e-6)  # the same MLP, trained alike
    run, features = read_run(tmp_path / "run"), FeatureFile(store / "posterv2.h5").read()
    logits = features @ weight.T + bias
    joined, _ = run.features(Store(store))
    basic = run.scores(joined, np.arange(len(joined))).basic.mean(axis=0)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.allclose(basic[:, [BASIC.index(name) for name in RAFDB]], shares, atol=2e-3)
    without, _, _ = _store(tmp_path / "t", dim=12, classifier=False)
    with pytest.raises(InputError, match="head tuned: not every stream has an encoder with a classifier of basic"):
        fuse([without], resolve(changes={"head": "tuned"}), out=None)


def test_probabilities_of_several_backbones_are_averaged_before_the_rule():
    head = build(Spec(kind="zeroshot", dims=(2, 1), classes=NAMES, members=1, rule="mean", own=True))
    a, b = ({"surprise": 0.8, "happiness": 0.2}, {"fear": 0.6, "happiness": 0.4})
    with torch.no_grad():
        for layer, face in zip(head.own, (a, b), strict=True):
            layer.bias.copy_(torch.tensor([face.get(name, 1e-20) for name in BASIC]).log())
    assert head(torch.zeros(1, 3)).logits.exp()[0, 0].tolist() == pytest.approx([0.35, 0.35, 0.0], abs=1e-6)


@pytest.mark.parametrize(("changes", "reason"), [
    ({"classifier": False}, "no stream has a classifier"),
    ({"classes": ("sadly_angry", *RAFDB[1:])}, "posterv2 has a classifier of 'sadly_angry', which is no basic emotion"),
])
def test_without_a_usable_classifier_the_note_says_why_a_classifier_is_trained(tmp_path, changes, reason):
    found, note = pretrained_classifiers(_joined(_store(tmp_path / "s", **changes)[0]))
    assert not found and reason in note and "trained on basic labels" in note
