"""The Python API on drawn faces: from a folder to figures, with a head of ours and one of scikit-learn's."""

import contextlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from sklearn.svm import SVC, LinearSVC

import twofold
from twofold.data.images.decode import decode
from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import write_manifest
from twofold.data.synthetic.dataset import draw_dataset
from twofold.data.utils.errors import InputError

NETWORK = "timm:test_resnet"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> twofold.Dataset:
    folder = tmp_path_factory.mktemp("api")
    table = draw_dataset(folder / "faces", taxonomy=builtin_taxonomy("cexpr7"), per_class=10, size=48, seed=3)
    write_manifest(table, folder / "faces.csv")
    return twofold.Dataset(folder / "faces.csv", root=folder / "faces")


@pytest.fixture(scope="module")
def store(dataset) -> twofold.Store:
    return dataset.extract(dataset.manifest.parent / "store", backbones=NETWORK, weights="random:0", device="cpu",
                           precision="fp32")


@pytest.fixture(scope="module")
def features(store) -> twofold.Features:
    return store.features(classes="cexpr7")


def test_a_store_gives_arrays_that_belong_together(dataset, features):
    table = dataset.frame().set_index("key")
    assert len(features) == len(dataset) == 70 and features.X.dtype == np.float32
    assert features.X.shape == (70, 96) and features.streams == [NETWORK]
    assert [features.classes[label] for label in features.y] == table.loc[features.keys, "compound"].tolist()
    frame = features.frame()
    assert frame["label"].tolist() == table.loc[frame["key"], "compound"].tolist()
    assert frame["split"].tolist() == table.loc[frame["key"], "split"].tolist()
    groups = table.loc[features.keys, "group"].tolist()
    assert [group if name else "" for group, name in zip(features.groups, groups, strict=True)] == groups


def test_a_table_in_memory_and_classes_from_its_labels(dataset, tmp_path):
    table = dataset.frame().assign(mood=["calm", "tense"] * (len(dataset) // 2), group=None)
    store = twofold.Dataset(table, root=dataset.root).extract(tmp_path / "s", backbones=[NETWORK], device="cpu",
                                                          weights={NETWORK: "random:0"})
    features = store.features(classes="from-data", target="mood")
    assert features.classes == ("calm", "tense") and features.y.tolist() == [0, 1] * (len(dataset) // 2)


def test_arguments_as_notebooks_have_them(store, tmp_path):
    """One name where a list is wanted, numpy's numbers, a path or a list for the classes."""
    table = twofold.Dataset(store.path / "manifest.csv", root=".").frame()
    (tmp_path / "own.toml").write_text(f'target = "compound"\nclasses = {sorted(set(table["compound"]))}')
    features = store.features(classes=tmp_path / "own.toml", backbones=NETWORK, views="original", folds=np.int64(0))
    listed = store.features(classes=sorted(set(table["compound"])), backbones=[NETWORK])
    assert features.classes == listed.classes == tuple(sorted(set(table["compound"])))
    assert features.y.tolist() == listed.y.tolist() and min(listed.y) >= 0
    result = listed.train("linear", folds=np.int64(2), seeds=np.int32(1), epochs=np.int64(1), lr=np.float32(0.01))
    assert len(result.predictions) == len(table)
    figures = store.fuse(classes=list(listed.classes), backbones=NETWORK, views="original", seeds=np.int64(1),
                         epochs=1, head="linear", out=tmp_path / "run")
    assert len(figures) == 1 and twofold.Run(tmp_path / "run").classes == listed.classes
    with pytest.raises(InputError, match="no column 'mood' of labels"):
        store.features(classes=["calm", "tense"], target="mood")


def test_the_files_of_a_store_are_a_table(store):
    files = store.files()
    assert files["backbone"].tolist() == [NETWORK] and files["rows"].tolist() == [70]


def test_an_encoder_embeds_paths_and_pictures_as_extract_does(dataset, features):
    encoder = twofold.Encoder(NETWORK, weights="random:0", device="cpu", precision="fp32")
    paths = [dataset.root / key for key in features.keys[:3]]
    from_paths = encoder.embed(paths)
    from_pictures = encoder.embed([decode(path.read_bytes()) for path in paths])
    assert from_paths.shape == (3, encoder.dim) and encoder.embed([]).shape == (0, encoder.dim)
    np.testing.assert_array_equal(from_paths, from_pictures)
    for single in (paths[0], str(paths[0]), decode(paths[0].read_bytes()), np.array(decode(paths[0].read_bytes()))):
        np.testing.assert_allclose(encoder.embed(single), from_paths[:1], atol=1e-5)  # one is a list of one
    np.testing.assert_allclose(from_paths, features.X[:3], rtol=2e-3, atol=2e-3)  # the store keeps float16
    grey = np.array(decode(paths[0].read_bytes()).convert("L"))
    np.testing.assert_allclose(encoder.embed(grey), encoder.embed(np.stack([grey] * 3, 2)), atol=1e-6)
    for wrong in (torch.zeros(3, 64, 64), b"x", 3, grey / 255, grey[:0], np.zeros((3, 64, 64), np.uint8)):
        with pytest.raises(InputError, match="no picture: give PIL images"):
            encoder.embed(wrong)


@pytest.mark.parametrize("estimator", [LogisticRegression(C=0.01), LinearSVC(C=0.01)])
def test_an_estimator_is_scored_as_scikit_learn_scores_it(features, estimator):
    result = features.train(estimator, folds=2)
    calls, figures = result.predictions, result.figures.iloc[0]
    assert sorted(calls["key"]) == sorted(features.keys)  # each face once, by a copy that has not seen its group
    assert figures["accuracy"] == pytest.approx(accuracy_score(calls["truth"], calls["prediction"]))
    assert figures["macro_f1"] == pytest.approx(f1_score(calls["truth"], calls["prediction"], average="macro"))
    np.testing.assert_array_equal(result.confusion, confusion_matrix(calls["truth"], calls["prediction"],
                                                                     labels=list(features.classes)))
    np.testing.assert_allclose(calls[list(features.classes)].sum(axis=1), 1, rtol=1e-5)


def test_an_estimator_has_the_faces_of_a_head(features):
    head = features.train("mlp", folds=2, seeds=1, epochs=2)
    estimator = features.train(LogisticRegression(C=0.01), folds=2, name="logistic")
    assert head.predictions["key"].tolist() == estimator.predictions["key"].tolist()
    result = head.compare(estimator)
    assert repr(result).startswith("mlp against logistic: macro-F1 ") and 0 <= result.p <= 1
    macro_f1 = [each.figures["macro_f1"].iloc[0] for each in (head, estimator)]
    assert result.difference == pytest.approx(macro_f1[0] - macro_f1[1])


def test_results_on_other_faces_or_classes_are_not_compared(features, store):
    by_folds = features.train(LogisticRegression(C=0.01), folds=2)
    by_split = features.train(LogisticRegression(C=0.01))
    with pytest.raises(InputError, match="different samples"):
        by_folds.compare(by_split)
    reordered = store.features(classes=sorted(features.classes)).train(LogisticRegression(C=0.01))
    with pytest.raises(InputError, match="LogisticRegression were scored by other classes or labels"):
        by_split.compare(reordered)


def test_a_run_is_written_read_back_and_predicts(dataset, store, tmp_path):
    """On its own training samples with a warning, as the command says it."""
    table = store.fuse(out=tmp_path / "run", seeds=1, epochs=2)
    run, features = twofold.Run(tmp_path / "run"), store.features()
    assert run.figures["accuracy"].tolist() == table["accuracy"].tolist()
    with pytest.warns(UserWarning, match=r"of 70 samples were in the training or validation set"):
        predictions = run.predict(store)
    assert (predictions["seen"] == (features.split != "test")).all()
    np.testing.assert_array_equal(run.predict(features.X)[list(run.classes)], run.predict_proba(features.X))
    paths = [dataset.root / key for key in features.keys[:3]]
    for images in (paths, [Image.open(path) for path in paths]):  # which the run's samples were: whole
        faces = run.predict(images, cropped=True, device="cpu")
        assert faces["image"].tolist() == [0, 1, 2] and faces["box"][0] == (0, 0, 48, 48)
        np.testing.assert_allclose(faces[list(run.classes)], predictions[list(run.classes)][:3], atol=2e-3)
    assert len(run.predict(paths[0], cropped=True, device="cpu")) == 1
    np.testing.assert_allclose(predictions[list(run.classes)], run.predict_proba(features.X), atol=1e-6)
    assert predictions["key"].tolist() == features.keys.tolist()


def test_a_head_is_an_estimator(features):
    head = twofold.Head("mlp", random_state=3, n_jobs=1, seeds=2, epochs=80, lr=0.02)
    assert head.fit(features) is head and head.classes_.tolist() == list(features.classes)
    probabilities = head.predict_proba(features)
    np.testing.assert_array_equal(head.predict_proba(features.X), probabilities)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert head.predict(features.X[:5]).tolist() == [features.classes[row] for row in probabilities[:5].argmax(axis=1)]
    again = twofold.Head("mlp", random_state=3, seeds=2, epochs=80, lr=0.02).fit(features)
    np.testing.assert_array_equal(again.predict_proba(features), probabilities)
    train = features.split == "train"
    assert (head.predict(features)[train] == np.array(features.classes)[features.y[train]]).mean() > 0.5


def test_a_head_needs_no_test_samples_and_never_sees_them(features):
    from dataclasses import replace

    def fitted(split):
        joined = replace(features._joined, split=np.array(split, object))
        return twofold.Head("linear", seeds=1, epochs=3).fit(twofold.Features(joined)).predict_proba(features)

    without = fitted(np.where(features.split == "test", "", features.split))
    np.testing.assert_array_equal(fitted(features.split), without)
    assert fitted([""] * len(features)).shape == without.shape  # no splits: all of it


@pytest.mark.parametrize(("settings", "says"), [
    ({"fold": 5}, "unknown setting 'fold'"), ({"backbones": ["x"]}, "decided by the features already"),
    ({"classes": "basic7"}, "decided by the features already"), ({"lr": -1}, "lr"),
])
def test_a_setting_that_means_nothing_is_refused(features, settings, says):
    for call in (features.train, twofold.Head):
        with pytest.raises(InputError, match=says):
            call("mlp", **settings)


@pytest.mark.parametrize(("estimator", "settings", "says"), [
    (LinearSVC(), {"epochs": 3}, "epochs: settings of our heads; set those of LinearSVC on the estimator itself"),
    (LinearSVC(), {"seeds": 3, "lr": 0.1}, "lr, seeds"),
    (SVC(decision_function_shape="ovo"), {}, "SVC gives scores of shape .*, 21\\) for .* samples and 7 classes"),
    (VotingClassifier([("a", LinearSVC())]), {}, "has neither predict_proba nor decision_function"),
    (Ridge(), {}, "Ridge is no scikit-learn classifier"),
    (LinearSVC, {}, "give an estimator made of it, LinearSVC\\(\\)"),
])
def test_an_estimator_that_cannot_be_is_a_sentence(features, estimator, settings, says):
    with pytest.raises(InputError, match=says):
        features.train(estimator, folds=2, **settings)


class Scores(DummyClassifier):
    """Gives what `change` makes of equal probabilities."""

    def __init__(self, change=lambda shares: shares):
        super().__init__()
        self.change = change

    def predict_proba(self, X):
        return self.change(np.full((len(X), len(self.classes_)), 1 / len(self.classes_)))


@pytest.mark.parametrize(("change", "says"), [
    (lambda shares: -shares, "gives no probabilities"), (lambda shares: 5 * shares, "gives no probabilities"),
    (lambda shares: 0 * shares, "gives no probabilities"),
    (lambda shares: shares + np.eye(7)[0] - np.eye(7)[1], "gives no probabilities"),
    (lambda shares: np.log(shares), "gives no probabilities"), (lambda shares: shares.astype(str) + "x", "no table"),
    (lambda shares: [[1], *shares], "no table of numbers"), (lambda shares: shares[:-1], "gives scores of shape"),
    (lambda shares: np.where(np.eye(*shares.shape), np.nan, shares), "not finite"),
    (lambda shares: shares.astype(np.float16), ""), (lambda shares: shares.astype(object).tolist(), ""),
])
def test_what_predict_proba_gives_must_be_a_distribution(features, change, says):
    with pytest.raises(InputError, match=says) if says else contextlib.nullcontext():
        features.train(Scores(change), folds=2)


def test_tables_that_are_no_features_are_a_sentence(store, features, tmp_path):
    X, none = features.X, features.X[:0]
    store.fuse(out=tmp_path / "run", seeds=1, epochs=1, head="linear")
    run, head = twofold.Run(tmp_path / "run"), twofold.Head("linear", seeds=1, epochs=1).fit(features)
    large = X.astype(np.float64)
    large[3, 3] = 1e300
    wrong = [X.astype(object), X.astype(str), X + 0j, X > 0, None, [X[0], X[1][:3]], "abc", [{}], X[None], X[0], 7,
             large, pd.DataFrame(X).astype(str), np.empty((0, 5)), []]
    for model in (run, head):
        for table in wrong:
            with pytest.raises(InputError, match=r"table of real numbers|is needed|not finite"):
                model.predict_proba(table)
        expected = model.predict_proba(X)
        for table in (X.astype(np.float64), X.tolist(), pd.DataFrame(X), torch.tensor(X, requires_grad=True)):
            np.testing.assert_array_equal(model.predict_proba(table), expected)
        assert model.predict_proba(none).shape == (0, 7) and len(model.predict(none)) == 0
    np.testing.assert_array_equal(run.predict(pd.DataFrame(X))["prediction"], run.predict(X)["prediction"])
    for table in (X[0], X[None], [1.0, 2.0], [X[0], X[1]]):
        if np.ndim(table) != 2:
            with pytest.raises(InputError, match="is needed"):
                run.predict(table)


@pytest.mark.parametrize(("settings", "says"), [
    ({"epochs": 2.5}, "epochs.*give a whole number"), ({"epochs": "5"}, "give a whole number"),
    ({"lr": "0.1"}, "give a number"), ({"head": {"mlp"}}, "unknown head|give a name"),
    ({"random_state": np.random.RandomState(0)}, "random_state is RandomState.*give a whole number"),
    ({"random_state": "7"}, "give a whole number"), ({"epochs": True}, "give a whole number")])
def test_what_is_no_setting_is_answered_with_what_to_give(settings, says):
    with pytest.raises(InputError, match=says):
        twofold.Head(**({"head": "mlp"} | settings))


def test_numbers_devices_and_lists_as_notebooks_have_them(dataset, store, features, tmp_path):
    again = twofold.Head("mlp", random_state=np.int64(1), epochs=2.0, seeds=np.float64(1), device=torch.device("cpu"))
    plain = twofold.Head("mlp", random_state=1, epochs=2, seeds=1).fit(features)
    np.testing.assert_array_equal(again.fit(features).predict_proba(features), plain.predict_proba(features))
    assert store.features(backbones=None, views=Path("original")).X.shape == features.X.shape
    with pytest.raises(InputError, match=r"unknown classes 'calm': .*two or more names of your own"):
        store.features(classes=["calm"])
    answers: list[list[np.ndarray]] = []
    torch.set_default_device("meta")
    try:
        head = twofold.Head("mlp", random_state=1, epochs=2, seeds=1).fit(features)
        np.testing.assert_array_equal(head.predict_proba(features), plain.predict_proba(features))
        encoder = twofold.Encoder(NETWORK, weights="random:0", device=torch.device("cpu"), precision="fp32")
        assert np.ptp(encoder.embed(np.eye(40, dtype=np.uint8) * 255)) > 0 and torch.get_default_device().type == "meta"
        for folder in (tmp_path / "meta", tmp_path / "usual"):  # whole runs, with and without it
            store.fuse(out=folder, seeds=1, epochs=1, head="linear")
            run = twofold.Run(folder)
            answers.append([run.predict_proba(features.X), run.predict(store)[list(run.classes)].to_numpy(),
                            run.predict(dataset.root.glob("*/*.png"), cropped=True, device="cpu")[
                                list(run.classes)].to_numpy()])
            torch.set_default_device(None)
    finally:
        torch.set_default_device(None)
    for meta, usual in zip(*answers, strict=True):
        assert len(meta)
        np.testing.assert_array_equal(meta, usual)


def test_images_in_memory_are_read_as_files_are(dataset, store, features, tmp_path):
    """A PIL image is turned as its EXIF data says, as Pillow itself does not, and may have any mode."""
    store.fuse(out=tmp_path / "run", seeds=1, epochs=1, head="linear")
    run, image = twofold.Run(tmp_path / "run"), Image.open(dataset.root / features.keys[0]).convert("RGB")
    exif = Image.Exif()
    exif[0x112] = 6
    image.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)

    def answer(given):
        return run.predict(given, cropped=True, device="cpu")[list(run.classes)].to_numpy()

    for given in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png"), image.convert("RGBA")):
        np.testing.assert_array_equal(answer(given), answer(image))
    assert all(np.isfinite(answer(image.convert(mode))).all() for mode in ("CMYK", "F", "HSV"))
    with pytest.raises(InputError, match=r"none.png: No such file"):
        answer(tmp_path / "none.png")


def test_features_of_another_width_are_a_sentence(store, features, tmp_path):
    store.fuse(out=tmp_path / "run", seeds=1, epochs=1, head="linear")
    head = twofold.Head("linear", seeds=1, epochs=1)
    with pytest.raises(InputError, match="not trained: call fit first"):
        head.predict(features.X)
    for model in (twofold.Run(tmp_path / "run"), head.fit(features)):
        for X in (features.X[:, :5], features.X[0], np.full_like(features.X, np.nan)):
            with pytest.raises(InputError, match=r"\(N, 96\) is needed, 96 of timm:test_resnet|not finite"):
                model.predict_proba(X)


def test_a_notebook_as_it_is(dataset, store, features, tmp_path):
    """Gradients off, float64 the default, numbers of numpy, one name for a list, paths as texts, a list of classes."""
    def answers(whole, number, one, place):
        again = store.features(classes=one(list(features.classes)) if one is list else "cexpr7", folds=number(0),
                               backbones=NETWORK if one is list else [NETWORK])
        head = twofold.Head("mlp", random_state=number(3), n_jobs=number(1), seeds=number(2), epochs=number(3))
        result = again.train("mlp", folds=number(2), seeds=number(1), epochs=number(2), n_jobs=number(1))
        table = store.fuse(out=place(tmp_path / whole), seeds=number(1), epochs=number(2),
                           backbones=NETWORK if one is list else [NETWORK])
        path = dataset.root / features.keys[0]
        run = twofold.Run(place(tmp_path / whole))
        return [again.X, head.fit(again).predict_proba(again), result.predictions[list(again.classes)].to_numpy(),
                table["macro_f1"].to_numpy(), run.predict_proba(again.X),
                run.predict(place(path), cropped=True, device="cpu")[list(run.classes)].to_numpy(),
                twofold.Encoder(NETWORK, weights="random:0", device="cpu", precision="fp32").embed(place(path))]

    expected = answers("usual", int, tuple, lambda path: path)
    with torch.no_grad():
        torch.set_default_dtype(torch.float64)
        try:
            found = answers("odd", np.int64, list, str)
            again = twofold.Dataset(str(dataset.manifest), root=str(dataset.root)).extract(
                str(tmp_path / "store"), backbones=NETWORK, weights="random:0", device="cpu", precision="fp32")
            np.testing.assert_array_equal(again.features().X, expected[0])
            assert torch.get_default_dtype() == torch.float64 and not torch.is_grad_enabled()  # as they were
        finally:
            torch.set_default_dtype(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = answers("autocast", int, tuple, lambda path: path)
    for before, now, cast in zip(expected, found, inside, strict=True):
        np.testing.assert_array_equal(cast, before)
        assert before.dtype == now.dtype
        np.testing.assert_array_equal(now, before)


def test_a_misspelt_setting_is_refused(store):
    with pytest.raises(InputError, match="unknown setting 'fold'"):
        store.fuse(fold=5)
