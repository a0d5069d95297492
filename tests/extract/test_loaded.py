"""Encoders that stay loaded: they give what `extract` has stored for the same files, view by view."""

import numpy as np
import pytest

import twofold
from twofold.cache.store import Store
from twofold.data.images.decode import ImageError
from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import write_manifest
from twofold.data.synthetic.dataset import draw_dataset
from twofold.extract.again.loaded import load_encoders

NETWORKS = {"timm:test_resnet": "random:0", "timm:test_vit": "random:1"}


def test_the_features_are_those_of_the_store(tmp_path):
    table = draw_dataset(tmp_path / "faces", taxonomy=builtin_taxonomy("basic7"), per_class=2, size=40, seed=1)
    write_manifest(table, tmp_path / "faces.csv")
    twofold.Faces(tmp_path / "faces.csv", root=tmp_path / "faces").extract(
        tmp_path / "store", backbones=list(NETWORKS), views=["original", "enhanced1"], weights=NETWORKS, device="cpu",
        precision="fp32")
    files = Store(tmp_path / "store").files()
    loaded = load_encoders([file.recipe for file in files], weights=[], device="cpu",
                           dims=[file.dim for file in files])
    contents = [(tmp_path / "faces" / key).read_bytes() for key in files[0].keys]
    stored = np.concatenate([file.read_rows(np.arange(file.rows)) for file in files], axis=1)
    features = loaded.embed(contents)
    assert features.dtype == np.float32 and features.shape == stored.shape and len(files) == 4
    np.testing.assert_allclose(features, stored, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(loaded.embed(contents[3:4]), features[3:4], rtol=2e-3, atol=2e-3)
    with pytest.raises(ImageError, match="not an image"):
        loaded.embed([contents[0], b"Dear Sir or Madam,"])
