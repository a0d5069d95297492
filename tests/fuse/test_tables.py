"""What the tables say their figures are of, and how sure they are."""

import json

import numpy as np
import pytest

from twofold.fuse.core.choice import label_taxonomy
from twofold.fuse.core.kinds import Classification, one_hot
from twofold.fuse.core.predictions import Predictions, System, compare_predictions, figures
from twofold.fuse.core.settings import resolve
from twofold.fuse.evaluate import evaluate
from twofold.fuse.fuse import fuse
from twofold.fuse.tables import describe_comparison, figures_table, grouped_columns

CLASSES = ("joie", "AU1+2", "happily_surprised")
TASK = Classification(label_taxonomy("x", CLASSES))


def scored(truth, calls, *, groups=None, name="a", val=0.5, members=2, folds=1, untrained=False) -> Predictions:
    """A head of which every member is quite sure of its calls; calls: (n,) of all, or (M, n) of each member."""
    calls = np.broadcast_to(calls, (members, len(truth)))
    probabilities = np.full((*calls.shape, len(CLASSES)), 0.05)
    np.put_along_axis(probabilities, calls[..., None], 0.9, axis=2)
    system = System(name=name, backbones=(name,), head="mlp", dim=8, untrained=untrained, temperature=1.0,
                    val_score=val, folds=folds)
    rows = np.arange(len(truth))
    return Predictions(task=TASK, system=system, key=rows, sha256=rows,
                       group=rows if groups is None else groups,
                       group_digest=rows, fold=rows * 0,
                       role=rows, target=truth, truth=one_hot(truth, len(CLASSES)), outputs=probabilities,
                       calibrated=probabilities.mean(axis=0), thresholds=np.empty((len(truth), 0)))


def text(*heads: Predictions) -> str:
    return "\n".join(figures_table([figures(head, seed=0) for head in heads]))


TRUTH = np.arange(60) % 3
CALLS = np.where(np.arange(60) % 4, TRUTH, (TRUTH + 1) % 3)


def test_columns_say_whether_they_are_of_the_ensemble_or_of_one_seed():
    said = text(scored(TRUTH, CALLS, members=3))
    title = said.splitlines()[0]
    assert "ensemble of 3 seeds" in title and "one seed, mean ± sd" in title and "validation" in title
    alone = text(scored(TRUTH, CALLS, members=1))
    assert "one seed" in alone.splitlines()[0] and "ensemble" not in alone and "±" not in alone
    assert "ensemble of 2 folds x 3 seeds" in text(scored(TRUTH, CALLS, members=6, folds=2))
    assert "a * UNTRAINED" in text(scored(TRUTH, CALLS, untrained=True)) and "UNTRAINED" not in said
    mixed = text(scored(TRUTH, CALLS, members=3), scored(TRUTH, CALLS, members=1, name="b"))
    assert "a (ensemble of 3 seeds)" in mixed and "b (one seed)" in mixed


def test_seeds_by_themselves_are_not_the_ensemble():
    """Three members that err on different faces: together they are always right, each alone is not."""
    calls = np.stack([np.where(np.arange(60) % 3 == member, (TRUTH + 1) % 3, TRUTH) for member in range(3)])
    each = figures(scored(TRUTH, calls, members=3), seed=0)
    assert each.scores.accuracy == 1 and each.of["accuracy"].seeds == pytest.approx((2 / 3,) * 3)
    record = each.record()
    assert record["figures_of"] == "ensemble of 3 seeds" and record["accuracy"] == 1
    assert record["seeds_accuracy"] == pytest.approx((2 / 3,) * 3) and record["accuracy_interval"] is None
    assert "- where all score alike" in text(scored(TRUTH, calls, members=3))


def test_few_groups_are_told_and_have_no_interval():
    said = text(scored(TRUTH, CALLS, groups=np.arange(60) % 5))
    assert "no intervals: the 60 samples are of 5 groups" in said and "[" not in said
    record = figures(scored(TRUTH, CALLS, groups=np.arange(60) % 5), seed=0).record()
    assert record["groups"] == 5 and record["macro_f1_interval"] is None
    assert json.loads(json.dumps(record))["accuracy"] == pytest.approx(0.75)
    assert "bootstrap of their 60 groups" in text(scored(TRUTH, CALLS))


def test_absent_and_rare_classes_are_told():
    truth = np.where(np.arange(60) == 7, 2, np.arange(60) % 2)
    said = text(scored(truth, np.where(np.arange(60) % 4, truth % 2, 1)))
    assert "one more hit among the 1 sample of happily_surprised is worth 33.3 points of macro-F1" in said
    said = text(scored(np.arange(60) % 2, (np.arange(60) // 3) % 3))
    assert "no samples of happily_surprised: such a class counts 0 in macro-F1, the mean over all 3 classes" in said
    assert "no samples" not in text(scored(TRUTH, CALLS)) and "few samples" not in text(scored(TRUTH, TRUTH))


def test_a_difference_within_noise_is_called_that():
    other = CALLS.copy()
    other[:2] = TRUTH[:2]
    comparison = compare_predictions(scored(TRUTH, other), scored(TRUTH, CALLS), seed=0)
    said = describe_comparison(comparison, TASK)
    assert "within noise" in said and "beyond" not in said
    better = compare_predictions(scored(TRUTH, TRUTH), scored(TRUTH, CALLS), seed=0)
    assert "beyond noise" in describe_comparison(better, TASK)
    assert "15 : 0, p = 6.1e-05 by sign flips" in describe_comparison(better, TASK)
    few = compare_predictions(scored(TRUTH, TRUTH, groups=TRUTH), scored(TRUTH, CALLS, groups=TRUTH), seed=0)
    said = describe_comparison(few, TASK)
    assert "(no interval from 3 groups)" in said and "noise" not in said


def test_the_papers_table_of_any_classes():
    heads = [figures(scored(TRUTH, CALLS, members=3), seed=0)]
    lines = figures_table(heads, style="paper")
    assert lines[0].split() == ["class", "#1"]
    names = [line[:17].strip() for line in lines[1:6]]
    assert names == ["joie", "AU1+2", "Happily Surprised", "acc", "F1"]
    assert "#1  a (ensemble of 3 seeds)" in lines


def test_titles_stand_over_their_columns():
    lines = grouped_columns([("name", "x", "y"), ("a", "1", "22")], [("", 1), ("a long title", 2)], left=1)
    assert lines == ["     | a long title", "name |        x   y", "a    |        1  22"]


def test_fuse_and_evaluate_call_one_thing_by_one_name(make_store, tmp_path):
    store = make_store()
    settings = resolve(changes={"epochs": 4, "seeds": 2, "hidden": 16, "batch_size": 64})
    fusion = fuse([store], settings, out=tmp_path / "run")
    evaluation = evaluate(tmp_path / "run", store)
    ours, theirs = fusion.record()["systems"][-1], evaluation.record()
    for name in ("calibration_error", "calibration_error_before_temperature", "accuracy", "macro_f1", "figures_of"):
        assert ours[name] == pytest.approx(theirs[name]) if name != "figures_of" else ours[name] == theirs[name]
    assert all(f"{ours['calibration_error']:.3f}" in report.text() for report in (fusion, evaluation))
    singles = fusion.record()["systems"][:-1]
    best = max(singles, key=lambda single: single["val_macro_f1"])
    against_best = fusion.record()["fusion_against_best_single"]
    assert (against_best["best_single"], against_best["best_single_chosen_on"]) == (best["name"], "validation")
