"""Two feature files of one backbone, told apart by their fingerprints wherever streams are named."""

import numpy as np

from twofold.cache.feature_file import FeatureFile
from twofold.cache.feature_writer import write_feature_file
from twofold.fuse.core.settings import resolve
from twofold.fuse.fuse import fuse
from twofold.fuse.runs.read import read_run

from .conftest import recipe


def test_streams_of_one_backbone_carry_their_fingerprints(make_store, tmp_path):
    store = make_store({"a": ("a", 12), "b": ("b", 8)})
    first, other = FeatureFile(store / "a.original.h5"), recipe("a", weights="sha256:" + "1" * 64)
    write_feature_file(store / "again.h5", recipe=other, dim=12, keys=list(first.keys), sha256=list(first.sha256),
                      features=np.asarray(first.read_rows(np.arange(first.rows)), np.float16), failures={})
    marked = {f"timm:a@{file.fingerprint[:8]}" for file in (first, FeatureFile(store / "again.h5"))}
    settings = resolve(changes={"head": "late", "epochs": 2, "seeds": 1, "backbones": [*sorted(marked), "timm:b"]})
    report = fuse([store], settings, out=tmp_path / "run")
    assert {figures.predictions.system.name for figures in report.figures[:-1]} == marked | {"timm:b"}
    assert set(report.figures[-1].predictions.system.stream_weights) == marked | {"timm:b"}
    assert set(read_run(tmp_path / "run").stream_names) == marked | {"timm:b"}
