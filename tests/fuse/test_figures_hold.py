"""Figures that hold: each defect that once made a figure wrong in silence."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from tests.fuse import conftest
from tests.fuse.conftest import edit_manifest
from tests.fuse.conftest import write_store as write_small_store
from tests.fuse.test_taught import faces, taught_with, write_store  # noqa: F401  # fixtures
from tests.fuse.test_training import QUICK, _examples, _train
from twofold.data.utils.errors import InputError
from twofold.fuse.core.settings import resolve
from twofold.fuse.core.split import encoder_training_samples, group_digests
from twofold.fuse.evaluate import evaluate
from twofold.fuse.experiment import cross_validate, predict_validation, prepare
from twofold.fuse.fuse import fuse
from twofold.fuse.heads.fusion import cross_fitted, find_weights
from twofold.fuse.heads.head import run_on_array
from twofold.fuse.heads.sklearn import C_VALUES
from twofold.fuse.metrics.scores import compute_scores
from twofold.fuse.report.analysis import compare_with_first
from twofold.fuse.runs.read import read_run
from twofold.fuse.sweep import Trial, nested_score, plan, sweep
from twofold.fuse.training.loop import contrastive_loss, training_distribution


def quick(**given):
    return conftest.quick(**{"epochs": 3, "hidden": 16, "seeds": 1} | given)


def test_a_sweep_refuses_scores_of_different_classes(make_store, tmp_path):
    (tmp_path / "a.toml").write_text('heads = ["mlp", "zeroshot"]')
    with pytest.raises(InputError, match="cannot stand in one leaderboard"):
        sweep([make_store(rows=70)], tmp_path / "a.toml", out=tmp_path / "out")
    (tmp_path / "a.toml").write_text('heads = ["zeroshot"]\nbackbones = [["timm:a"]]')
    assert len(plan(tmp_path / "a.toml", [tmp_path / "store"])[0]) == 1


def test_late_is_validated_on_samples_that_did_not_choose_its_weights():
    """Noise: on the samples that chose the weights it looks better than chance, on others it does not."""
    generator, gains = np.random.default_rng(0), []
    for _ in range(4):
        target = np.arange(140) % 7
        val = generator.dirichlet(np.ones(7), (4, 1, 140))
        weights = find_weights(val[:, 0], target, how="per-class", seed=0)
        fooled = np.einsum("kc,knc->nc", weights, val[:, 0])
        honest = cross_fitted(val, target, np.arange(140), how="per-class", seed=0)
        assert np.allclose(honest.sum(axis=1), 1)
        gains.append([compute_scores(target, each.argmax(axis=1), 7).uar for each in (fooled, honest)])
    fooled, honest = np.mean(gains, axis=0)
    assert fooled > 1 / 7 + 0.06 and abs(honest - 1 / 7) < 0.05


def test_what_chose_is_not_what_validates_late_and_logreg_is_the_best_of_its_penalties(make_store):
    work = prepare([make_store({"a": ("", 12), "b": ("", 8)})], quick(head="late", late="per-class"))
    predictions, trained = cross_validate(work)
    fooled = predict_validation(work, trained, system=predictions.system)
    assert trained[0].val_score < compute_scores(fooled.target, fooled.predicted, 7).score
    work = prepare([make_store({"c": ("ab", 200)}, name="penalties", noise=12.0)], quick(head="logreg"))
    (train, val), features = (work.splits[0].train, work.splits[0].val), work.features
    scale = StandardScaler().fit(features.read(train))
    scores = [compute_scores(features.label[val], LogisticRegression(C=c, max_iter=1000).fit(
        scale.transform(features.read(train)), features.label[train]).predict(scale.transform(features.read(val))), 7
        ).score for c in C_VALUES]
    assert cross_validate(work)[1][0].val_score == pytest.approx(max(scores), abs=1e-3) and max(scores) > scores[-1]


def test_the_winner_of_a_sweep_by_folds_is_scored_by_a_choice_within_each_fold(make_store, tmp_path):
    generator = np.random.default_rng(0)
    truth, fold = np.arange(60) % 3, np.arange(60) // 30
    trials = [Trial(str(number), {"folds": 2}, 0.0, 0.0, "", {"val_scores": scores}, {
        "truth": truth.tolist(), "output": generator.random((60, 3)).tolist(), "fold": fold.tolist()})
        for number, scores in enumerate(([0.9, 0.1], [0.1, 0.9]))]
    chosen = np.where(fold == 0, *(np.argmax(trial.samples["output"], axis=1) for trial in trials))
    assert nested_score(trials) == compute_scores(truth, chosen, 3).score
    (tmp_path / "a.toml").write_text('heads = ["linear", "mlp"]\nbackbones = [["timm:a", "timm:b"]]\nseeds = 1\n'
                                     "[settings]\nfolds = 3\nepochs = 2\n")
    made = sweep([make_store(rows=210)], tmp_path / "a.toml", out=tmp_path / "out", jobs=1)
    best, worst = (trial.score for trial in made.trials)
    assert best > worst and made.best.figures[-1].system.val_score == pytest.approx(best)
    assert made.nested is not None and "optimistic by" in made.text()
    assert made.record()["nested_macro_f1"] == made.nested


def test_the_distribution_that_training_sees_is_the_one_it_draws():
    data = _examples(rows=700, shares=[0.5, 0.2, 0.1, 0.1, 0.05, 0.03, 0.02])
    from twofold.fuse.training.ensemble import Spec
    spec = Spec(kind="mlp", dims=(10,), classes=tuple("abcdefg"), members=1,
                pairs=(("anger", "surprise"), *((name,) for name in ("fear",) * 6)))
    count = np.bincount(data.label, minlength=7)
    for sampling in (0.0, 0.5, 1.0):
        expected = count ** (1 - sampling) / (count ** (1 - sampling)).sum()
        settings = replace(QUICK, balanced_sampling=sampling)
        assert np.allclose(training_distribution(data, settings, spec), expected)
        mixed = training_distribution(data, replace(settings, compound_mixup=0.25), spec)
        assert np.allclose(mixed, 0.75 * expected + 0.25 * np.eye(7)[0]) or not np.isin((5, 6), data.basic_label).all()


def test_a_report_compares_by_groups_without_the_store(make_store, tmp_path):
    store = make_store(groups=[f"p{row % 5}-{row // 50}" for row in range(420)])
    for name, backbone in (("a", "timm:a"), ("b", "timm:b")):
        fuse([store], quick(backbones=[backbone]), out=tmp_path / name)
    compared, = compare_with_first([read_run(tmp_path / "a"), read_run(tmp_path / "b")])
    assert compared["faces"] == 84 and compared["groups"] == 9
    rows = list(csv.DictReader((tmp_path / "a/predictions.csv").open()))
    assert all(len(row["group"]) == 32 for row in rows)


def test_names_that_two_stores_share_are_different_groups_and_that_is_said(make_store, tmp_path):
    groups = [f"subject {row % 5} {row // 25}" for row in range(420)]
    own, more = make_store(groups=groups), make_store(name="more", seed=3, groups=groups)
    made = fuse([own, more], quick(), out=tmp_path / "run")
    assert any("85 group names are in several stores" in note for note in made.notes)
    again = evaluate(tmp_path / "run", own)  # once refused: the test subjects' namesakes had been trained on
    assert len(again.figures.predictions) == 84
    with pytest.raises(InputError, match="nothing is left to score"):
        evaluate(tmp_path / "run", more, split="train")
    (tmp_path / "later").mkdir()  # other images of the same subjects of the same data set
    later = write_small_store(tmp_path / "later", name="more", seed=9, groups=groups)
    assert len(evaluate(tmp_path / "run", later, split="all").figures.predictions) == 420 * 2 // 5


def test_a_group_named_like_a_key_has_a_digest(make_store):
    groups = [f"store/{row % 5 + row // 25 * 25:05d}.png" for row in range(420)]  # of one split each
    features = prepare([make_store(groups=groups)], quick()).features
    assert (group_digests(features, np.arange(420)) != b"").all()


def test_an_encoder_that_knows_validation_does_not_choose(faces, write_store):  # noqa: F811
    val = np.flatnonzero(faces.table["split"] == "val")
    work = prepare([write_store(taught_with(faces, val[:18]))], quick(head="logreg"))
    assert any(f"18 of {len(val)} validation samples left out" in note for note in work.notes)
    assert not encoder_training_samples(work.features)[work.splits[0].val].any()
    whole = prepare([write_store(taught_with(faces, val), folder="whole")], quick(head="logreg"))
    assert any("are chosen on features that are better than" in note for note in whole.notes)


def test_a_batch_of_one_sample_and_one_view_has_no_contrastive_loss():
    z = torch.ones(2, 1, 4, requires_grad=True)
    loss = contrastive_loss(z, torch.ones(2, 1, 1, dtype=torch.bool), 0.1)
    loss.sum().backward()
    assert (loss == 0).all() and torch.isfinite(z.grad).all()


def test_a_seeds_numbers_are_its_own_where_features_are_streamed():
    data, val = _examples(rows=9_000, resident=False), _examples(seed=1)
    together, _ = _train(replace(QUICK, epochs=2), data, val, seeds=(3, 4))
    single, _ = _train(replace(QUICK, epochs=2), data, val, seeds=(4,))
    for a, b in zip(together.parameters(), single.parameters(), strict=True):
        assert torch.allclose(a[1], b[0], atol=1e-4)


def test_other_folds_than_the_manifest_names_are_said_and_a_class_in_one_group_is_named(make_store):
    store = make_store(groups=[f"g{row // 2}" for row in range(420)])
    edit_manifest(store, lambda number, row: row | {"fold": str(number // 2 % 3)})
    assert any("names 3 folds, not 5" in note for note in prepare([store], quick(folds=5)).notes)
    assert not any("names 3 folds" in note for note in prepare([store], quick(folds=3)).notes)
    edit_manifest(store, lambda _, row: row | ({"group": "only"} if row["compound"] == "sadly_angry" else {}))
    with pytest.raises(InputError, match=r"all samples of sadly_angry are of one group \(only\)"):
        prepare([store], quick(folds=5))


def test_the_papers_warm_up_is_not_the_heads_and_a_path_of_penalties_is_no_learning_curve(make_store, tmp_path):
    assert resolve(preset="paper").warmup == 0
    fuse([make_store(rows=140)], quick(head="logreg"), out=tmp_path / "run")
    assert (tmp_path / "run/history.csv").read_text().count("\n") == 1 and read_run(tmp_path / "run").history == []


def test_training_does_not_depend_on_how_a_notebook_has_set_torch(make_store):
    store, made = make_store(rows=140), []
    for dtype, gradients in ((torch.float32, True), (torch.float64, False)):
        torch.set_default_dtype(dtype)
        try:
            with torch.set_grad_enabled(gradients):
                made.append(fuse([store], quick(), out=None).figures[-1].predictions.outputs)
                assert torch.get_default_dtype() == dtype and torch.is_grad_enabled() == gradients
        finally:
            torch.set_default_dtype(torch.float32)
    assert np.array_equal(*made)


def test_few_training_steps_are_said(make_store):
    store = make_store(rows=140)
    assert any("only 3 training steps" in note for note in prepare([store], quick(batch_size=256)).notes)
    for enough in ({"epochs": 200}, {"head": "logreg"}):
        assert not any("training steps" in note for note in prepare([store], quick(**enough)).notes)


def test_what_is_not_finite_is_no_prediction(make_store, tmp_path):
    fuse([make_store(rows=140)], quick(), out=tmp_path / "run")
    head = read_run(tmp_path / "run").head
    with pytest.raises(InputError, match="not finite"):
        run_on_array(head, np.full((2, 20), np.nan, np.float32))


def test_advice_names_what_would_help(make_store):
    unlabelled = make_store(name="unlabelled", rows=70)
    edit_manifest(unlabelled, lambda _, row: row | {"compound": "", "basic": ""})
    with pytest.raises(InputError, match="fill the manifest's column 'basic'"):
        prepare([unlabelled], quick(head="zeroshot"))
    with pytest.raises(InputError, match="with test samples; training, validation and test samples need groups"):
        prepare([make_store(rows=70, groups=["one"] * 70)], quick())
