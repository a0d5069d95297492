"""The Python API on drawn faces: from a folder to figures, with a head of ours and one of scikit-learn's."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from sklearn.svm import LinearSVC

import twofold
from twofold.data.images.decode import decode
from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import write_manifest
from twofold.data.synthetic.dataset import draw_dataset
from twofold.data.utils.errors import InputError

NETWORK = "timm:test_resnet"


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> twofold.Faces:
    folder = tmp_path_factory.mktemp("api")
    table = draw_dataset(folder / "faces", taxonomy=builtin_taxonomy("cexpr7"), per_class=10, size=48, seed=3)
    write_manifest(table, folder / "faces.csv")
    return twofold.Faces(folder / "faces.csv", root=folder / "faces")


@pytest.fixture(scope="module")
def store(faces) -> twofold.Store:
    return faces.extract(faces.manifest.parent / "store", backbones=[NETWORK], weights={NETWORK: "random:0"},
                         device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def features(store) -> twofold.Features:
    return store.features(classes="cexpr7")


def test_a_store_gives_arrays_that_belong_together(faces, features):
    table = faces.frame().set_index("key")
    assert len(features) == len(faces) == 70 and features.X.dtype == np.float32
    assert features.X.shape == (70, 96) and features.streams == [NETWORK]
    assert [features.classes[label] for label in features.y] == table.loc[features.keys, "compound"].tolist()
    frame = features.frame()
    assert frame["label"].tolist() == table.loc[frame["key"], "compound"].tolist()
    assert frame["split"].tolist() == table.loc[frame["key"], "split"].tolist()
    assert len(set(features.groups)) == table["group"].nunique()


def test_the_files_of_a_store_are_a_table(store):
    files = store.files()
    assert files["backbone"].tolist() == [NETWORK] and files["rows"].tolist() == [70]


def test_an_encoder_embeds_paths_and_pictures_as_extract_does(faces, features):
    encoder = twofold.Encoder(NETWORK, weights="random:0", device="cpu", precision="fp32")
    paths = [faces.root / key for key in features.keys[:3]]
    from_paths = encoder.embed(paths)
    from_pictures = encoder.embed([decode(path.read_bytes()) for path in paths])
    assert from_paths.shape == (3, encoder.dim) and encoder.embed([]).shape == (0, encoder.dim)
    np.testing.assert_array_equal(from_paths, from_pictures)
    for single in (paths[0], str(paths[0]), decode(paths[0].read_bytes()), np.array(decode(paths[0].read_bytes()))):
        np.testing.assert_allclose(encoder.embed(single), from_paths[:1], atol=1e-5)  # one is a list of one
    np.testing.assert_allclose(from_paths, features.X[:3], rtol=2e-3, atol=2e-3)  # the store keeps float16


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
    assert head.against(estimator).startswith("mlp against logistic: macro-F1 ")


def test_results_on_other_faces_are_not_compared(features):
    by_folds = features.train(LogisticRegression(C=0.01), folds=2)
    by_split = features.train(LogisticRegression(C=0.01))
    with pytest.raises(InputError, match="different samples"):
        by_folds.against(by_split)


def test_what_is_no_classifier_is_refused(features):
    with pytest.raises(InputError, match="Ridge is no scikit-learn classifier"):
        features.train(Ridge())


def test_a_run_is_written_read_back_and_predicts(store, tmp_path):
    table = store.fuse(out=tmp_path / "run", seeds=1, epochs=2)
    run = twofold.Run(tmp_path / "run")
    assert run.figures["accuracy"].tolist() == table["accuracy"].tolist()
    predictions, features = run.predict(store), store.features()
    np.testing.assert_allclose(predictions[list(run.classes)], run.predict_proba(features.X), atol=1e-6)
    assert predictions["key"].tolist() == features.keys.tolist()


def test_a_misspelt_setting_is_refused(store):
    with pytest.raises(InputError, match="unknown setting 'fold'"):
        store.fuse(fold=5)
