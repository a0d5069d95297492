"""A run knows whom it has seen, and is not scored on them."""

import json

import numpy as np
import pytest

from tests.fuse import conftest
from tests.fuse.conftest import edit_manifest
from twofold.data.utils.errors import InputError
from twofold.fuse.core.split import format_seen, parse_seen, seen_samples
from twofold.fuse.evaluate import evaluate, evaluate_all
from twofold.fuse.experiment import prepare
from twofold.fuse.fuse import fuse
from twofold.fuse.predict import PredictOptions, predict
from twofold.fuse.runs.read import read_run

FIGURES = ("accuracy", "macro_f1", "uar", "calibration_error", "calibration_error_before_temperature", "n")


def quick(**given):
    return conftest.quick(**{"epochs": 6, "hidden": 16} | given)


def split_anew(store, split):
    """Write another split into the manifest: a function of the row number."""
    edit_manifest(store, lambda number, row: row | {"split": split(number)})


@pytest.mark.parametrize("head", ["mlp", "late", "logreg"])
def test_a_cross_validated_run_has_the_same_figures_from_evaluate(make_store, tmp_path, head):
    groups = [f"{row % 4} {row // 12}" for row in range(420)]
    store = make_store(noise=1.5, groups=groups)
    fused = fuse([store], quick(folds=3, head=head), out=tmp_path / "run").figures[-1]
    again = evaluate(tmp_path / "run", store)
    assert again.split == "all"
    ours, theirs = (figures.record() for figures in (fused, again.figures))
    assert [theirs[name] for name in FIGURES] == pytest.approx([ours[name] for name in FIGURES], abs=1e-6)
    assert theirs["seeds_macro_f1"] == pytest.approx(ours["seeds_macro_f1"])
    seen = evaluate(tmp_path / "run", store, split="all", allow_seen=True)
    if head != "mlp":  # which learns these few by heart in no six epochs
        assert seen.figures.score > again.figures.score + 0.02
    assert seen.seen == 0  # each face has members that have not seen it


def test_a_manifest_that_is_split_anew_does_not_make_learned_faces_new(make_store, tmp_path, cli):
    store = make_store(noise=1.5)
    fused = fuse([store], quick(), out=tmp_path / "run").figures[-1]
    split_anew(store, lambda row: "test")
    again = evaluate(tmp_path / "run", store)
    assert again.figures.scores.n.sum() == 84 and "336 of 420 samples left out" in " ".join(again.notes)
    assert again.figures.score == pytest.approx(fused.score)
    split_anew(store, lambda row: ("test", "", "", "", "")[row % 5])  # what taught it, and nothing else
    done = cli("evaluate", tmp_path / "run", store)
    assert done.returncode == 2 and "nothing is left to score" in done.stderr
    done = cli("evaluate", tmp_path / "run", store, "--allow-seen")
    assert done.returncode == 0 and "84 SEEN in training" in done.stdout
    done = cli("evaluate", tmp_path / "run", store, "--allow-seen", "--json")
    assert json.loads(done.stdout)["seen"] == 84


def test_a_face_of_a_known_group_is_seen_and_an_unnamed_one_is_known_by_its_bytes_alone(make_store, tmp_path):
    groups = [f"person {row % 5 + row // 25 * 5}" if row < 300 else "" for row in range(420)]  # each of one split
    fuse([make_store(groups=groups)], quick(), out=tmp_path / "run")
    other = make_store(name="other", seed=9, rows=70, groups=[f"person {row}" for row in range(70)])
    again = evaluate(tmp_path / "run", other, split="all")
    assert again.figures.scores.n.sum() == 10 + 12  # 60 people are known, 12 of them from the test split
    unnamed = make_store(name="unnamed", seed=9, rows=70)
    assert evaluate(tmp_path / "run", unnamed, split="all").figures.scores.n.sum() == 70


def test_several_runs_are_compared_on_what_none_has_seen(make_store, tmp_path):
    store = make_store()
    fuse([store], quick(), out=tmp_path / "a")
    split_anew(store, lambda row: ("train", "train", "val", "test", "train")[row % 5])
    fuse([store], quick(backbones=["timm:a"]), out=tmp_path / "b")
    with pytest.raises(InputError, match="nothing is left"):  # a has seen all but row 4 of 5, b all but row 3
        evaluate_all([tmp_path / "a", tmp_path / "b"], store, split="all")
    more = make_store(name="more", rows=490, seed=0)  # the same bytes, and seventy new faces
    both = evaluate_all([tmp_path / "a", tmp_path / "b"], more, split="all")
    assert [evaluation.figures.scores.n.sum() for evaluation in both.each] == [70, 70]
    assert evaluate(tmp_path / "a", more, split="all").figures.scores.n.sum() == 70 + 84


def test_the_record_is_what_was_learned_chosen_by_and_scored(make_store, tmp_path):
    groups = [f"{row % 4} {row // 12}" for row in range(420)]
    store, settings = make_store(groups=groups, basic_only=5), quick(folds=3)
    experiment = prepare([store], settings)
    fuse([store], settings, out=tmp_path / "run")
    seen, features = read_run(tmp_path / "run").seen, experiment.features
    roles = {digest: row.tobytes() for digest, row in zip(seen.sha256, seen.roles, strict=True)}
    for row, digest in enumerate(features.sha256):
        for fold, part in enumerate(experiment.splits):
            expected = ("l" if row in part.train or row in part.extra else "c" if row in part.val else
                        "s" if row in part.test else "-")
            assert roles.get(digest, b"---")[fold:fold + 1].decode() == expected
    assert not any(name in (tmp_path / "run/seen.csv").read_text() for name in groups)


def test_predict_says_how_many_faces_taught_the_run(make_store, tmp_path):
    store = make_store()
    fuse([store], quick(), out=tmp_path / "run")
    done = predict(read_run(tmp_path / "run"), store, PredictOptions(), out=tmp_path / "out.csv")
    assert any(note.startswith("336 of 420 samples were in the training") for note in done.values["notes"])
    other = make_store(name="other", seed=4, rows=35)
    done = predict(read_run(tmp_path / "run"), other, PredictOptions(), out=tmp_path / "other.csv")
    assert not any("were in the training" in note for note in done.values["notes"])


@pytest.mark.parametrize("text", ["", "sha256,group,folds", "sha256,group,folds\n" + "0" * 64 + ",,ll\n",
                                  "sha256,group,folds\n" + "0" * 63 + ",,l\n", "sha256,group,folds\n" + "z" * 10**6])
def test_a_malformed_list_of_seen_samples_is_refused(text):
    with pytest.raises(InputError, match=r"seen\.csv"):
        parse_seen(text.encode(), folds=1, source="seen.csv")


def test_a_list_reads_back_as_it_was_written(make_store):
    experiment = prepare([make_store()], quick())
    seen = seen_samples(experiment.features, [(each.train, each.val, each.test) for each in experiment.splits])
    again = parse_seen(format_seen(seen).encode(), folds=1, source="seen.csv")
    order = np.argsort(seen.sha256)
    assert (again.sha256 == seen.sha256[order]).all() and (again.roles == seen.roles[order]).all()
