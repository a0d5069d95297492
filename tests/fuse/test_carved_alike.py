"""An encoder and the head on its features are chosen by the same faces, which taught neither."""

import numpy as np
import pytest

from twofold.cache.store import Store
from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import read_manifest
from twofold.extract.finetune.data import make_splits as make_finetune_splits
from twofold.extract.finetune.settings import resolve
from twofold.fuse.core.features import join
from twofold.fuse.core.settings import Settings
from twofold.fuse.core.split import make_splits
from twofold.fuse.core.task import Task


@pytest.mark.parametrize("target", ["basic", "compound", "both"])
def test_no_head_is_chosen_by_faces_that_taught_its_encoder(make_store, target):
    """Where the manifest has no validation, the encoder's and the head's are carved so that they agree."""
    store = Store(make_store(basic_only=5, groups=[str(row // 3) if row % 2 else "" for row in range(420)]))
    faces, features = read_manifest(store.manifest_path), join([store], backbones=[], views=["original"],
                                                               taxonomy=builtin_taxonomy("cexpr7"))
    settings = resolve(preset="quick", chosen={"target": target, "folds": 3})
    task = Task.of(Settings(), features.taxonomy)
    for fold, part in enumerate(make_splits(features, task, folds=3, val_fraction=0.15, seed=0)):
        splits, keys = make_finetune_splits(faces, settings, fold=fold), np.array(faces.keys, object)
        taught, chose = set(keys[splits.train]), set(keys[splits.val])
        assert len(part.val) > 30 and not taught & set(features.keys[part.val])
        assert not chose & set(features.keys[part.train]) and len(chose) > 20
