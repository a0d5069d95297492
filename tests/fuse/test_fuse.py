"""The whole of stage two on small real stores: planted signal, leaks, bad input, runs that repeat."""

import csv
import json
import sys
import textwrap
from importlib import import_module

import numpy as np
import pytest

from tests.fuse.conftest import CLASSES, edit_manifest, quick, recipe
from twofold.cache.feature_file import FeatureFile
from twofold.cache.feature_writer import write_feature_file
from twofold.data.utils.errors import InputError
from twofold.fuse.core.settings import resolve
from twofold.fuse.evaluate import evaluate
from twofold.fuse.experiment import cross_validate, prepare
from twofold.fuse.fuse import fuse
from twofold.fuse.metrics.scores import apply_temperature
from twofold.fuse.runs.read import read_run


def test_the_scale_is_that_of_the_training_samples_and_each_fold_has_its_own_temperature(make_store):
    work = prepare([make_store()], quick(folds=2, head="linear"))
    predictions, trained = cross_validate(work)
    for number, (each, split) in enumerate(zip(trained, work.splits, strict=True)):
        train = work.features.read(split.train).astype(float)
        assert np.allclose(each.head.mean[0, 0], train.mean(axis=0), atol=1e-5)
        assert np.allclose(each.head.std[0, 0], train.std(axis=0), rtol=1e-4)
        own = predictions.fold == number
        assert np.allclose(predictions.calibrated[own], apply_temperature(predictions.mean[own], each.temperature))
    assert abs(trained[0].temperature - trained[1].temperature) > 1e-3


def test_the_best_single_is_chosen_on_validation(make_store):
    """On validation a is right throughout; in test all labels are others, and only b is right now and then."""
    store, moved = make_store({"a": ("ab", 16), "b": ("b", 8)}), dict(zip(CLASSES, CLASSES[2:] + CLASSES[1:3],
                                                                          strict=True))
    edit_manifest(store, lambda _, row: row | ({"compound": moved[row["compound"]]} if row["split"] == "test" else {}))
    made = fuse([store], quick(), out=None)
    assert made.figures[0].score < made.figures[1].score and made.best_single == "timm:a"


@pytest.mark.parametrize("head", ["linear", "mlp", "gated", "late", "logreg", "paper"])
def test_where_each_stream_holds_half_of_the_label_only_fusing_wins(make_store, head):
    slower = {"linear": {"lr": 0.05, "epochs": 30}, "gated": {"epochs": 30}}.get(head, {})
    made = fuse([make_store()], quick(head=head, **slower), out=None)
    *singles, fused = (one.score for one in made.figures)
    assert max(singles) < 0.65
    assert fused > (0.8 if head == "late" else 0.95)  # averaged probabilities cannot say more than "a and b"
    assert made.comparison.interval[0] > 0 and made.comparison.p_value < 0.01


@pytest.mark.parametrize("head", ["logreg", "mlp"])
def test_averaged_views_are_the_mean_of_their_features(make_store, tmp_path, head):
    """As from a store whose only view is the mean, in figures, in a run read again, and for each backbone alone."""
    settings = quick(head=head, views=("original", "flip"), view_pooling="mean", epochs=4)
    store = make_store(views=("original", "flip"), noise=1.5, changes={"dtype": "float32"})
    other = make_store(name="mean", views=("original",), noise=1.5, changes={"dtype": "float32"})
    for name in "ab":
        files = [FeatureFile(store / f"{name}.{view}.h5") for view in ("original", "flip")]
        (other / f"{name}.original.h5").unlink()
        write_feature_file(other / f"{name}.original.h5", recipe=files[0].recipe, dim=files[0].dim, failures={},
                           keys=list(files[0].keys), features=np.mean([file.read() for file in files], axis=0),
                           sha256=[text.decode() for text in files[0].sha256.tolist()])
    (other / "manifest.csv").write_bytes((store / "manifest.csv").read_bytes())
    averaged = fuse([store], settings, out=tmp_path / "run")
    whole = fuse([other], quick(head=head, epochs=4), out=None)
    assert [one.system.name for one in averaged.figures] == ["timm:a", "timm:b", "fusion of all 2"]
    assert averaged.figures[-1].system.dim == 20 and averaged.best_single == whole.best_single
    for ours, theirs in zip(averaged.predictions, whole.predictions, strict=True):
        np.testing.assert_allclose(ours.outputs, theirs.outputs, atol=1e-3 if head == "mlp" else 1e-5)
    run = read_run(tmp_path / "run")
    assert [view for _, view, _ in run.streams] == ["original", "original", "flip", "flip"]
    again = evaluate(tmp_path / "run", store).figures
    assert again.score == pytest.approx(averaged.figures[-1].score)


def test_views_are_averaged_only_by_heads_that_can_and_only_of_one_encoder(make_store):
    store = make_store(views=("original", "flip"))
    for wrong, sentence in (({"head": "gated"}, "head gated does not average views: choose from linear, mlp, logreg"),
                            ({"views": ("original",)}, "needs several views")):
        with pytest.raises(InputError, match=sentence):
            fuse([store], quick(**{"views": ("original", "flip"), "view_pooling": "mean"} | wrong), out=None)
    other, path = recipe("b", view={"name": "flip"}, weights="sha256:" + "1" * 64), store / "b.flip.h5"
    made = FeatureFile(path)
    content = {"dim": made.dim, "keys": list(made.keys), "features": made.read().astype(np.float16), "failures": {},
               "sha256": [text.decode() for text in made.sha256.tolist()]}
    path.unlink()
    write_feature_file(path, recipe=other, **content)
    with pytest.raises(InputError, match=r"timm:b and timm:b \(flip\) are not views by the same encoder"):
        fuse([store], quick(views=("original", "flip"), view_pooling="mean"), out=None)


def test_zero_shot_learns_from_basics_and_sees_no_compound_label(make_store, tmp_path):
    store = make_store({"a": ("ab", 16)}, basic_only=3)
    settings = quick(head="zeroshot", seeds=1)
    first = fuse([store], settings, out=None).figures[-1]
    assert first.scores.accuracy > 0.45 and first.system.temperature == 1  # chance is 0.14
    shuffle_compounds(store, "train", "val")
    again = fuse([store], settings, out=None).figures[-1]
    assert np.allclose(again.predictions.mean, first.predictions.mean, atol=1e-6)


def shuffle_compounds(store, *splits):
    """Shuffle the compound labels of these splits."""
    with (store / "manifest.csv").open(encoding="utf-8") as file:
        labels = {row["key"]: row["compound"] for row in csv.DictReader(file) if row["split"] in splits
                  and row["compound"]}
    moved = dict(zip(labels, np.random.default_rng(0).permutation(list(labels.values())), strict=True))
    edit_manifest(store, lambda _, row: row | {"compound": moved.get(row["key"], row["compound"])})


@pytest.mark.parametrize("head", ["mlp", "late", "logreg", "paper"])
def test_test_labels_have_no_say_in_what_is_learned(make_store, tmp_path, head):
    store = make_store()
    fuse([store], quick(head=head), out=tmp_path / "honest")
    shuffle_compounds(store, "test")
    fuse([store], quick(head=head), out=tmp_path / "shuffled")
    assert ((tmp_path / "honest/head.safetensors").read_bytes()
            == (tmp_path / "shuffled/head.safetensors").read_bytes())
    scored = [json.loads((tmp_path / name / "metrics.json").read_text())["systems"][-1]["macro_f1"]
              for name in ("honest", "shuffled")]
    assert scored[1] < 0.4 < scored[0]


def test_on_noise_no_system_is_better_than_chance(make_store):
    made = fuse([make_store({"a": ("", 30), "b": ("", 30)}, noise=1.0, rows=700)], quick(folds=3, epochs=6), out=None)
    low, high = made.figures[-1].of["accuracy"].interval
    assert low < 1 / 7 < high + 0.02 and high < 0.22


def test_near_duplicates_across_splits_are_kept_on_one_side(make_store):
    groups = [f"twin{row // 2}" for row in range(420)]  # neighbours in different splits
    work = prepare([make_store(groups=groups)], quick())
    part, features = work.splits[0], work.features
    sides = [set(features.group[rows]) for rows in (part.train, part.val, part.test)]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    assert len(part.test) == 84 and any("share a group" in note for note in work.notes)


def test_validation_is_carved_from_train_by_group_and_folds_cover_every_face_once(make_store):
    groups = [f"{row % 4} {row // 16}" for row in range(420)]
    store = make_store(splits=("train", "train", "train", "test"), groups=groups)
    part = prepare([store], quick()).splits[0]
    assert 0.08 < len(part.val) / (len(part.train) + len(part.val)) < 0.25
    work = prepare([store], quick(folds=4))
    tested = np.concatenate([part.test for part in work.splits])
    assert np.array_equal(np.sort(tested), np.arange(420))
    for part in work.splits:
        assert not set(work.features.group[part.test]) & set(work.features.group[np.r_[part.train, part.val]])


def test_a_run_repeats_from_its_record_and_scores_the_same_elsewhere(make_store, tmp_path):
    store = make_store()
    first = fuse([store], quick(), out=tmp_path / "first")
    fuse([store], resolve(config=tmp_path / "first/run.json"), out=tmp_path / "again")
    for name in ("head.safetensors", "predictions.csv", "metrics.json", "history.csv"):
        a, b = ((tmp_path / run / name).read_bytes() for run in ("first", "again"))
        assert name == "metrics.json" or a == b
    found = evaluate(tmp_path / "first", store)
    assert found.figures.score == pytest.approx(first.figures[-1].score)
    run = read_run(tmp_path / "first")
    rows = list(csv.DictReader((tmp_path / "first/predictions.csv").open(encoding="utf-8")))
    assert {row["split"] for row in rows} == {"val", "test"}
    work = prepare([store], quick())
    place = {key: row for row, key in enumerate(work.features.keys)}
    again = run.probabilities(work.features.matrix[[place[row["key"]] for row in rows]])[0]
    assert np.allclose(again, [[float(row[name]) for name in run.taxonomy.classes] for row in rows], atol=1e-5)
    text = (tmp_path / "first/run.json").read_text()
    assert str(tmp_path) not in text


def test_evaluate_refuses_another_recipe_and_warns_of_another_precision(make_store, tmp_path):
    fuse([make_store()], quick(), out=tmp_path / "run")
    other = make_store(name="other", changes={"preprocessing": {"size": 48}})
    with pytest.raises(InputError, match=r"preprocessing.size 32 there, 48 here"):
        evaluate(tmp_path / "run", other)
    close = evaluate(tmp_path / "run", make_store(name="close", changes={"precision": "bf16"}))
    assert any("bf16" in note for note in close.notes) and close.figures.score > 0.9


def test_a_second_store_teaches_and_is_not_scored(make_store):
    own, more = make_store(rows=70), make_store(name="more", rows=700, seed=3)
    work = prepare([own, more], quick())
    assert (work.features.store[work.splits[0].test] == 0).all()
    assert (work.features.store[work.splits[0].train] == 1).sum() == 420
    twin = make_store(name="twin", rows=70)  # the same image bytes as the first store
    work = prepare([own, twin], quick())
    assert (work.features.store[work.splits[0].train] == 1).sum() == 42  # of 70: without val's and test's


def test_missing_faces_are_counted_not_shifted(make_store):
    work = prepare([make_store(drop={("b", row) for row in range(0, 30)})], quick())
    assert len(work.features) == 390
    assert any(note.startswith("30 samples left out: not in store's timm:b") for note in work.notes)
    path = make_store(name="changed") / "b.original.h5"  # ten images have changed since b was extracted
    file = FeatureFile(path)
    file.check()
    content = {"keys": file.keys.tolist(), "features": file.read(), "recipe": file.recipe, "dim": file.dim}
    sha256 = [b"f" * 64 if row < 10 else each for row, each in enumerate(file.sha256)]
    path.unlink()
    write_feature_file(path, **content, sha256=sha256, failures={})
    changed = prepare([path.parent], quick())
    assert len(changed.features) == 410 and any(note.startswith(
        "10 samples left out: timm:a and timm:b were made from different images of them") for note in changed.notes)
    made = fuse([make_store(name="other", drop={("b", row) for row in range(0, 30)})], quick(), out=None)
    assert made.figures[-1].score > 0.95


@pytest.mark.parametrize(("given", "message"), [
    ({"backbones": ["timm:c"]}, "has no features of 'timm:c'"),
    ({"classes": "basic7", "target": "compound"}, "use --target basic"),
    ({"classes": "rafdb12"}, "unknown classes"),
    ({"classes": "rafce14"}, "no training samples of happily_disgusted"),
    ({"device": "tpu"}, "unknown device"),
    ({"pool": ["mean"]}, "--pool goes with --unit COLUMN"),
    ({"views": ["flip"]}, "no feature files of the view 'flip'"),
    ({"views": ["original", "flip"]}, "`extract --views original,flip` with the same images adds the view"),
])
def test_bad_input_is_one_sentence_and_leaves_nothing(make_store, tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        fuse([make_store()], quick(**given), out=tmp_path / "run").text()
    assert not (tmp_path / "run").exists() and not list(tmp_path.glob(".tmp*"))


def test_no_test_faces_or_an_occupied_folder_are_said_before_training(make_store, tmp_path):
    with pytest.raises(InputError, match="no test samples"):
        fuse([make_store(splits=("train", "val"))], quick(), out=None)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not a run"):
        fuse([make_store(name="other")], quick(), out=tmp_path / "full")
    assert (tmp_path / "full/thesis.txt").read_text() == "years of work"


def test_the_papers_own_columns_stand_beside_ours_on_its_split_only(make_store):
    from twofold.fuse.tables import PUBLISHED, SAMPLES

    assert sum(SAMPLES) == 397
    assert [round(100 * sum(right) / 397, 2) for right, _ in PUBLISHED.values()] == [78.09, 74.06, 75.06, 76.07]
    text = fuse([make_store()], quick(table="paper", epochs=1), out=None).text()
    assert "Angrily Surprised" in text and "paper: ViT" not in text


def test_it_trains_where_timm_and_torchvision_are_not_installed(make_store, tmp_path, pipeline):
    import subprocess

    store = make_store()
    program = textwrap.dedent(f"""
        import sys
        for name in ("timm", "torchvision", "PIL", "onnxruntime"):
            sys.modules[name] = None
        from twofold import pipeline
        words = ["fuse", {str(store)!r}, "--epochs", "2", "--seeds", "1", "--out", {str(tmp_path / "run")!r}]
        code = pipeline.main(words)
        assert "sklearn" not in sys.modules and "sympy" not in sys.modules, "slow to import, and not needed"
        sys.exit(code)
    """)
    done = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "fusion of all 2" in done.stdout and (tmp_path / "run/run.json").is_file()


@pytest.mark.parametrize("head", ["mlp", "gated", "late", "logreg", "paper"])
def test_the_order_in_which_streams_are_named_means_nothing(make_store, tmp_path, head):
    store, backbones, views = make_store(views=("original", "flip")), ["timm:a", "timm:b"], ["original", "flip"]
    fuse([store], quick(head=head, epochs=3, backbones=backbones, views=views), out=tmp_path / "a")
    fuse([store], quick(head=head, epochs=3, backbones=backbones[::-1], views=views[::-1]), out=tmp_path / "b")
    for name in ("head.safetensors", "predictions.csv", "history.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_logreg_gives_the_same_answers_whatever_the_number_of_threads(make_store, tmp_path, caplog):
    from threadpoolctl import threadpool_info, threadpool_limits

    import_module("sklearn.linear_model")  # what is loaded later is not limited
    store = make_store({"a": ("a", 300), "b": ("b", 400)}, noise=3.0)
    for threads in (1, 2):
        with threadpool_limits(threads):
            assert {pool["num_threads"] for pool in threadpool_info()} == {threads}
            fuse([store], resolve(changes={"head": "logreg"}), out=tmp_path / str(threads))
    assert "converged" not in caplog.text
    assert (tmp_path / "1/predictions.csv").read_bytes() == (tmp_path / "2/predictions.csv").read_bytes()


def test_a_logreg_that_does_not_converge_says_so(make_store, monkeypatch, caplog):
    from twofold.fuse.heads import sklearn as logreg

    monkeypatch.setattr(logreg, "MAX_ITERATIONS", 2)
    fuse([make_store()], quick(head="logreg"), out=None)
    assert "has not converged after 2 iterations" in caplog.text


def test_features_that_are_no_numbers_are_refused(make_store, cli, monkeypatch):
    store = make_store(rows=210)
    file = FeatureFile(store / "a.original.h5")
    features = file.read(dtype=np.float16)
    features[17, 0] = np.nan
    with monkeypatch.context() as other_writer:
        other_writer.setattr(np, "isfinite", lambda values: np.ones(np.shape(values), bool))
        write_feature_file(file.path, recipe=file.recipe, dim=file.dim, keys=file.keys.tolist(),
                          sha256=[digest.decode() for digest in file.sha256], features=features, failures={})
    done = cli("fuse", store, "--epochs", 1)
    assert done.returncode == 2 and f"the features of {file.keys[17]!r} are not finite numbers" in done.stderr


def test_streamed_features_give_the_predictions_of_those_in_memory(make_store, tmp_path):
    store, predictions = make_store(), []
    for name, gigabytes in (("whole", 0.0), ("streamed", 1e-6)):
        made = fuse([store], quick(epochs=3, hidden=16, device="cpu", memory_gb=gigabytes), out=tmp_path / name)
        assert ("features streamed from disk" in made.text()) == (name == "streamed")
        predictions.append(made.figures[-1].predictions.predicted.tolist())
    assert predictions[0] == predictions[1] and len(set(predictions[0])) > 1
