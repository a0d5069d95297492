"""The recipes of a run again: encoders recognised by their content, and rows that need no encoder."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.extract.encoders import save_onnx
from tests.extract.stores import assert_equal_stores
from twofold.cache.store import Store
from twofold.data.images.decode import ImageError
from twofold.data.manifest import read_manifest
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.registry import build
from twofold.extract.inputs import extract_manifest
from twofold.extract.streams import MatchingEncoders

NAME = "timm:test_resnet"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A weights folder."""
    (tmp_path / "weights").mkdir()
    monkeypatch.setenv("TWOFOLD_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "weights"


def save(path, seed: int):
    torch.manual_seed(seed)
    torch.save(build(NAME, checkpoint=None).network.state_dict(), path)
    return path


@pytest.fixture
def before(cli, drawn, folder, tmp_path):
    """Weights from outside the folder, and a store made with them."""
    path = save(tmp_path / "mine.pth", 1)
    done = cli("extract", drawn.manifest, "--root", drawn.root, "--store", tmp_path / "before", "--backbones", NAME,
               "--weights", f"{NAME}={path}", "--device", "cpu", "--precision", "fp32")
    assert done.returncode == 0, done.stderr
    return path, Store(tmp_path / "before")


def again(recipes, drawn, store, *weights, manifest=None, root=None, reused=False):
    encoders = MatchingEncoders(recipes, weights=[f"{NAME}={path}" for path in weights], device="cpu")
    return extract_manifest(read_manifest(manifest or drawn.manifest), encoders, store=store, reused=reused,
                            roots=[str(root or drawn.root)])


def test_weights_are_found_by_content_whatever_their_name_or_named_where_they_are_not_there(
        before, drawn, folder, tmp_path):
    path, store = before
    (file,) = store.files()
    with pytest.raises(InputError, match=r"no weights for timm:test_resnet.*--weights timm:test_resnet=PATH"):
        again([file.recipe], drawn, tmp_path / "after")
    changed = replace(file.recipe, preprocessing=file.recipe.preprocessing | {"size": [96, 96]})
    with pytest.raises(InputError, match=r"computed otherwise here .* preprocessing\.size"):
        again([changed], drawn, tmp_path / "after", path)
    other = save(folder / "timm-test_resnet.pth", 2)  # the usual name, and other weights
    for files, message in (((), rf"{file.recipe.weights}\) are not here \(1 others are\): give their file"),
                           ((other,), "are not here")):
        with pytest.raises(InputError, match=message):
            again([file.recipe], drawn, tmp_path / "after", *files)
    assert not (tmp_path / "after").exists()
    (folder / "a-note.pth").write_text("not weights at all")
    path.rename(folder / "zz.pt")
    another = save(tmp_path / "another.pth", 3)  # named for a second recipe, perhaps: the folder is searched, too
    again([file.recipe], drawn, tmp_path / "after", another)
    assert_equal_stores(tmp_path / "after", store.path)


def test_onnx_models_come_with_the_options_of_the_recipe(cli, drawn, folder, tmp_path):
    pytest.importorskip("onnxruntime")
    nodes = [("ReduceMean", "pixels axes", "low", {"keepdims": 0}), ("Mul", "low two", "high", None)]
    path = save_onnx(tmp_path / "tiny.onnx", nodes, {"axes": np.array((2, 3)), "two": np.array(2, np.float32)},
                     shape=["n", 3, "h", "w"], outputs=("low", "high"))
    name = f"onnx:{path}?size=24&resize=30&interpolation=bicubic&mean=0.1,0.2,0.3&std=0.4&scale=0.01&output=high"
    done = cli("extract", drawn.manifest, "--root", drawn.root, "--store", tmp_path / "before", "--backbones", name)
    assert done.returncode == 0, done.stderr
    (file,) = Store(tmp_path / "before").files()
    path.rename(folder / "renamed.onnx")
    with pytest.raises(InputError, match="computed otherwise"):  # its name is in the recipe
        again([file.recipe], drawn, tmp_path / "after")
    (folder / "renamed.onnx").rename(folder / "tiny.onnx")
    again([file.recipe], drawn, tmp_path / "after")
    assert_equal_stores(tmp_path / "after", tmp_path / "before")


def test_cached_rows_need_no_weights_and_a_changed_image_asks_for_them(before, cli, drawn, tmp_path):
    """As `predict MANIFEST --store S` wants it, and through that verb."""
    path, _ = before
    root, table, store = tmp_path / "faces", tmp_path / "faces.csv", tmp_path / "s"
    root.mkdir()
    for row, image in enumerate(sorted(drawn.root.rglob("*.png"))[:4]):
        (root / f"{row}.png").write_bytes(image.read_bytes())
    table.write_text("key\n" + "".join(f"{row}.png\n" for row in range(4)))
    done = cli("extract", table, "--root", root, "--store", store, "--backbones", NAME, "--weights", f"{NAME}={path}",
               "--device", "cpu", "--precision", "fp32")
    assert done.returncode == 0, done.stderr
    place = ("--root", drawn.root, "--store", tmp_path / "before")
    done = cli("fuse", tmp_path / "before", "--epochs", "2", "--seeds", "1", "--out", tmp_path / "run", "--device",
               "cpu")
    assert done.returncode == 0, done.stderr
    path.unlink()
    done = cli("predict", tmp_path / "run", drawn.manifest, *place, "-o", tmp_path / "out.csv")
    assert done.returncode == 0 and len((tmp_path / "out.csv").read_text().splitlines()) == 1 + 70, done.stderr
    recipes = [file.recipe for file in Store(store).files()]
    (file,) = again(recipes, drawn, store, manifest=table, root=root, reused=True).values["files"]
    assert [file[name] for name in ("cached", "computed", "left")] == [4, 0, 0]
    (root / "2.png").write_bytes((root / "3.png").read_bytes())
    with pytest.raises(InputError, match="no weights for timm:test_resnet"):
        again(recipes, drawn, store, manifest=table, root=root, reused=True)


def test_images_in_memory_give_the_features_of_the_store(whole, drawn):
    """All four streams side by side, in any number."""
    files = Store(whole).files()
    loaded = MatchingEncoders([file.recipe for file in files], device="cpu", dims=[file.dim for file in files])
    images = [(drawn.root / key).read_bytes() for key in files[0].keys]
    stored = np.concatenate([file.read() for file in files], axis=1)
    for number in (1, 3, 70):
        features = loaded.embed(images[:number])
        assert features.dtype == np.float32 and len(files) == 4
        np.testing.assert_allclose(features, stored[:number], rtol=2e-3, atol=2e-3)
    with pytest.raises(ImageError, match="not an image"):
        loaded.embed([images[0], b"Dear Sir or Madam,"])
