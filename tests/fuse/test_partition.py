"""Folds that a manifest names are the folds that fuse scores."""

import numpy as np
import pandas as pd
import pytest

from twofold.cache.store import Store
from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import build_manifest, read_manifest
from twofold.data.splits import assign_fold_column, assign_folds, parse_folds
from twofold.extract.finetune.data import make_splits as make_finetune_splits
from twofold.extract.finetune.settings import resolve
from twofold.fuse.core.features import Features, join
from twofold.fuse.core.kinds import Classification, one_hot
from twofold.fuse.core.split import make_splits

CLASSES = builtin_taxonomy("basic7")


def faces_of(table: pd.DataFrame) -> Features:
    count = len(table)
    label = table["basic"].map(CLASSES.classes.index).to_numpy()
    return Features(
        task=Classification(CLASSES), streams=(), keys=table["key"].to_numpy(object), store=np.zeros(count, int),
        split=table["split"].to_numpy(object), group=table["group"].to_numpy(object),
        grouped=(table["group"] != "").to_numpy(),
        manifest=build_manifest(table, source="x"), label=label,
        truth=one_hot(label, 7), train_target=one_hot(label, 7), basic=np.eye(8)[label % 8], basic_label=label,
        sha256=table["key"].to_numpy(object), row=np.zeros((count, 1), int), notes=())


def test_fuse_and_finetune_take_the_folds_of_the_manifest():
    faces = build_manifest(pd.DataFrame({
        "key": [f"{row}.png" for row in range(140)], "basic": [CLASSES.classes[row % 7] for row in range(140)],
        "split": ["train"] * 105 + ["test"] * 35, "group": [f"p{row // 2}" for row in range(140)]}), source="x")
    # another seed than that of fuse
    table = assign_fold_column(faces, folds=3, target="basic", seed=5, only="train").table
    features = faces_of(table)
    parts = make_splits(features, features.task, folds=3, val_fraction=0.2, seed=0)
    for number, part in enumerate(parts):
        assert set(part.test) == set(np.flatnonzero(table["fold"] == str(number)))
        assert (table["split"][np.concatenate([part.train, part.val])] == "train").all()  # official test stays out
    taught = assign_folds(build_manifest(table, source="x"), CLASSES, folds=3, seed=0)
    assert taught[:105].astype(str).tolist() == table["fold"][:105].tolist()
    other = make_splits(features, features.task, folds=4, val_fraction=0.2, seed=0)
    assert sorted(np.concatenate([part.test for part in other])) == list(range(140))  # divided anew


def test_a_fold_that_the_manifest_names_keeps_samples_of_every_label_from_the_encoder():
    table = pd.DataFrame({
        "key": [f"{row}.png" for row in range(60)], "basic": "", "compound": "", "group": "", "split": "train",
        "fold": [str(row % 3) for row in range(60)]})
    compounds, basics = builtin_taxonomy("cexpr7").classes, builtin_taxonomy("basic7").classes
    table.loc[:29, "compound"] = [compounds[row // 3 % 2] for row in range(30)]
    table.loc[30:, "basic"] = [basics[row // 3 % 2] for row in range(30, 60)]
    settings = resolve(preset="quick", chosen={"target": "both", "folds": 3})
    for fold in range(3):
        splits = make_finetune_splits(build_manifest(table, source="x"), settings, fold=fold)
        assert splits.test.tolist() == list(range(fold, 60, 3))  # those without a compound label, too
        assert sorted([*splits.train, *splits.val]) == [row for row in range(60) if row % 3 != fold]


def test_named_folds():
    assert parse_folds(np.array(["b", "", "a", "b"], object), folds=2).tolist() == [1, -1, 0, 1]
    assert parse_folds(np.array([str(n) for n in (10, 2, 1)], object), folds=3).tolist() == [2, 1, 0]
    assert parse_folds(np.array(["", ""], object), folds=2) is None
    assert parse_folds(np.array(["1"], object), folds=2) is None


@pytest.mark.parametrize("target", ["basic", "compound", "both"])
def test_no_head_is_chosen_by_faces_that_taught_its_encoder(make_store, target):
    """Where the manifest has no validation, the encoder's and the head's are carved so that they agree."""
    store = Store(make_store(basic_only=5, groups=[str(row // 3) if row % 2 else "" for row in range(420)]))
    faces, features = read_manifest(store.manifest_path), join([store], backbones=[], views=["original"],
                                                               task=Classification(builtin_taxonomy("cexpr7")))
    settings = resolve(preset="quick", chosen={"target": target, "folds": 3})
    task = features.task
    for fold, part in enumerate(make_splits(features, task, folds=3, val_fraction=0.15, seed=0)):
        splits, keys = make_finetune_splits(faces, settings, fold=fold), np.array(faces.keys, object)
        taught, chose = set(keys[splits.train]), set(keys[splits.val])
        assert len(part.val) > 30 and not taught & set(features.keys[part.val])
        assert not chose & set(features.keys[part.train]) and len(chose) > 20


def test_samples_without_features_do_not_move_the_others_to_another_fold(make_store):
    store = Store(make_store(groups=[str(row // 3) for row in range(420)], drop={("b", row) for row in range(60)}))
    features = join([store], backbones=[], views=["original"], task=Classification(builtin_taxonomy("cexpr7")))
    assigned = dict(zip(features.manifest.keys, assign_folds(features.manifest, features.taxonomy, folds=3, seed=0),
                        strict=True))
    task = features.task
    for fold, part in enumerate(make_splits(features, task, folds=3, val_fraction=0.15, seed=0)):
        assert len(part.test) > 90 and {assigned[key] for key in features.keys[part.test]} == {fold}
