"""Layouts as datasets have them: a face has a basic or a compound label, splits are the publishers'."""


import numpy as np
import pytest

from tests.fuse.conftest import CLASSES, edit_manifest, quick, recipe, write_manifest
from twofold.cache.feature_file import FeatureFile
from twofold.cache.feature_writer import write_feature_file
from twofold.data.labels import BASIC, basic_pair
from twofold.data.utils.errors import InputError
from twofold.fuse.evaluate import evaluate
from twofold.fuse.experiment import prepare
from twofold.fuse.fuse import fuse
from twofold.fuse.predict import PredictOptions, predict
from twofold.fuse.runs.read import read_run

SEVEN = [name for name in BASIC if name != "contempt"]


@pytest.fixture
def rafdb(tmp_path):
    """A store as `manifest rafdb --part both` gives it: basic rows and compound rows, each in train and test.

    Features show the basic emotions of a face, so that basics alone can teach the compounds.
    """

    def write(*, basic_splits=("train", "train", "test"), compound_splits=("train", "train", "test"), name="rafdb"):
        folder = tmp_path / name
        folder.mkdir()
        generator, rows, shown = np.random.default_rng(3), [], []
        for kind, labels, splits in (("basic", SEVEN, basic_splits), ("compound", CLASSES, compound_splits)):
            for number in range(len(splits) * 12 * len(labels)) if splits else ():
                label = labels[number % len(labels)]
                split = splits[number // len(labels) % len(splits)]
                columns = (label, "") if kind == "basic" else ("", label)
                rows.append((f"{kind}/{split}_{number:05d}.jpg", split, *columns, ""))
                shown.append([emotion in ((label,) if kind == "basic" else basic_pair(label)) for emotion in BASIC])
        write_manifest(folder, rows)
        features = np.array(shown, float) / np.sum(shown, axis=1, keepdims=True)
        features = features @ generator.standard_normal((8, 16)) * 3 + 0.3 * generator.standard_normal((len(rows), 16))
        write_feature_file(folder / "a.h5", recipe=recipe("a"), dim=16, keys=[row[0] for row in rows],
                          sha256=[f"{number:064x}" for number in range(len(rows))], failures={},
                          features=features.astype(np.float16))
        return folder

    return write


def test_zero_shot_on_rafdbs_own_layout_chooses_its_epoch_by_basic_labels(rafdb):
    """Chance is 0.14, and that is what was reached while validation was empty: every epoch scored 0, the first won."""
    store, settings = rafdb(), quick(lr=1e-2, head="zeroshot")
    experiment = prepare([store], settings)
    part, basic = experiment.splits[0], experiment.features.basic_label
    assert len(part.val) and (basic[part.val] >= 0).all() and (basic[part.train] >= 0).all()
    assert (experiment.features.label[part.test] >= 0).all() and len(part.test) == 12 * len(CLASSES)
    fusion = fuse([store], settings, out=None)
    assert fusion.figures[-1].scores.accuracy > 0.8
    assert fusion.figures[-1].predictions.system.val_score > 0.9  # of the basics


def test_basics_in_train_and_compounds_in_test_only_score(rafdb, tmp_path):
    store = rafdb(basic_splits=("train",), compound_splits=("test",))
    fusion = fuse([store], quick(lr=1e-2, head="zeroshot"), out=tmp_path / "run")
    assert fusion.figures[-1].scores.accuracy > 0.8 and len(fusion.figures[-1].predictions.target) == 12 * len(CLASSES)
    assert evaluate(tmp_path / "run", store).figures.scores.accuracy == fusion.figures[-1].scores.accuracy


def test_without_any_compound_label_a_run_has_nothing_to_score_and_predicts(rafdb, tmp_path):
    store = rafdb(compound_splits=())
    fusion = fuse([store], quick(lr=1e-2, head="zeroshot"), out=tmp_path / "run")
    assert fusion.figures == [] and "no test sample has a label to score by" in fusion.text()
    assert fusion.record()["systems"] == []
    done = predict(read_run(tmp_path / "run"), store, PredictOptions(), out=tmp_path / "out.csv")
    assert done.values["rows"] == 36 * len(SEVEN) and set(done.values["calls"]) <= {*CLASSES, "none"}
    with pytest.raises(InputError, match="to score by: leave out --folds"):
        fuse([store], quick(lr=1e-2, head="zeroshot", folds=3), out=None)


@pytest.mark.parametrize("head", ["mlp", "paper", "late", "logreg"])
def test_compound_heads_on_rafdbs_own_layout_choose_by_compounds(rafdb, head):
    experiment = prepare([rafdb()], quick(lr=1e-2, head=head))
    part, label = experiment.splits[0], experiment.features.label
    assert all((label[rows] >= 0).all() and len(rows) for rows in (part.train, part.val, part.test))
    assert (label[part.extra] < 0).all() and len(part.extra) == 24 * len(SEVEN)


@pytest.mark.parametrize("head", ["mlp", "zeroshot"])
def test_validation_of_one_class_is_refused(rafdb, head):
    store = rafdb()
    column, label = ("basic", "happiness") if head == "zeroshot" else ("compound", "happily_surprised")
    edit_manifest(store, lambda _, row: row | (
        {"split": "val"} if row[column] == label and row["split"] == "train" else {}))
    with pytest.raises(InputError, match=f"validation samples are {label}"):
        fuse([store], quick(lr=1e-2, head=head), out=None)


def test_streams_of_one_backbone_carry_their_fingerprints(make_store, tmp_path):
    store = make_store({"a": ("a", 12), "b": ("b", 8)})
    first, other = FeatureFile(store / "a.original.h5"), recipe("a", weights="sha256:" + "1" * 64)
    write_feature_file(store / "again.h5", recipe=other, dim=12, keys=list(first.keys), sha256=list(first.sha256),
                      features=np.asarray(first.read_rows(np.arange(first.rows)), np.float16), failures={})
    marked = {f"timm:a@{file.fingerprint[:8]}" for file in (first, FeatureFile(store / "again.h5"))}
    settings = quick(head="late", epochs=2, seeds=1, backbones=[*sorted(marked), "timm:b"])
    report = fuse([store], settings, out=tmp_path / "run")
    assert {figures.predictions.system.name for figures in report.figures[:-1]} == marked | {"timm:b"}
    assert set(report.figures[-1].predictions.system.stream_weights) == marked | {"timm:b"}
    assert set(read_run(tmp_path / "run").stream_names) == marked | {"timm:b"}
