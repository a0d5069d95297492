"""`?layers=` and `?tokens=` against forward passes with hooks of one's own, and through the command line."""

import json
from functools import partial

import h5py
import numpy as np
import pytest
import torch

from tests.extract.encoders import load, load_network, save_onnx
from tests.extract.stores import assert_equal_stores
from tests.extract.test_hf import HOW, saved
from twofold.cache.classifier import BackboneClassifier, TrainingSamples
from twofold.cache.store import Store
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.encoder import Encoder
from twofold.extract.encoders.layers import with_pieces
from twofold.extract.streams import parse_weights

#: backbone, its blocks by name and whether they give tokens
TORCH = {
    "timm:test_vit": ([f"blocks.{number}" for number in range(6)], True),
    "timm:test_resnet": (["layer1.0", "layer2.0", "layer3.0"], False),
    "timm:test_efficientnet": ([f"blocks.{number}" for number in range(5)], False),
    "torchvision:mobilenet_v2?size=64": ([f"features.{number}" for number in (0, 1, 3, 6, 10, 13, 16, 17)], False),
    "starter": (["body.layer1", "body.layer2", "body.layer3"], False)}


def pixels_for(encoder: Encoder, count: int = 3) -> np.ndarray:
    side = encoder.preprocessing.size
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def hooked(network: torch.nn.Module, names: list[str], encoder: Encoder, pixels: np.ndarray) -> list[np.ndarray]:
    """What these modules give, in the network as its library builds it."""
    taken: dict[str, np.ndarray] = {}
    for name in names:
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: taken.__setitem__(name, output.numpy().copy()))
    with torch.no_grad():
        network(encoder.preprocessing.normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2).float()))
    return [taken[name] for name in names]


def with_option(name: str, option: str) -> str:
    return f"{name}{'&' if '?' in name else '?'}{option}"


@pytest.mark.parametrize("name", TORCH)
def test_each_layer_is_that_of_a_forward_pass_with_hooks(name):
    modules, tokens = TORCH[name]
    plain, encoder = (load(each, "random:3") for each in (name, with_option(name, "layers=all")))
    pixels = pixels_for(plain)
    outputs = hooked(load_network(name, weights="random:3"), modules, plain, pixels)
    expected = [part for output in outputs for part in (
        [output[:, 0], output[:, 1:].mean(axis=1)] if tokens else [output.mean(axis=(2, 3))])]
    rows = encoder.encode(pixels)
    np.testing.assert_array_equal(rows[:, -plain.dim:], plain.encode(pixels))  # to the bit
    scale = np.abs(expected[-1]).max()
    np.testing.assert_allclose(rows[:, :-plain.dim], np.concatenate(expected, axis=1), rtol=1e-3, atol=1e-4 * scale)
    kinds = ("class", "mean") if tokens else ("mean",)
    assert [piece for piece, _ in encoder.pieces] == [
        *(f"{number}.{kind}" for number in range(1, len(modules) + 1) for kind in kinds), "embedding"]
    assert [width for _, width in encoder.pieces] == [*(part.shape[1] for part in expected), plain.dim]


@pytest.mark.parametrize("kind", ["ViT", "Swin", "ResNet"])
def test_layers_of_transformers_are_its_hidden_states(tmp_path, kind):
    model = saved(tmp_path / "tiny", kind)
    name = f"hf:{tmp_path / 'tiny'}"
    plain, encoder = load(name, "hub"), load(f"{name}?layers=all", "hub")
    pixels = pixels_for(plain)
    x = ((torch.from_numpy(pixels) / 255 - torch.tensor(HOW["image_mean"])) / 0.2).permute(0, 3, 1, 2)
    with torch.no_grad():
        states = [state.numpy() for state in model(pixel_values=x, output_hidden_states=True).hidden_states[1:]]
    cls = kind == "ViT"
    expected = [part for state in states for part in (
        [state[:, 0], state[:, 1:].mean(axis=1)] if cls else [state.mean(axis=1 if kind == "Swin" else (2, 3))])]
    rows = encoder.encode(pixels)
    np.testing.assert_array_equal(rows[:, -plain.dim:], plain.encode(pixels))
    found = np.split(rows, np.cumsum([width for _, width in encoder.pieces])[:-1], axis=1)
    for ours, theirs in zip(found[:-1], expected, strict=kind != "ResNet"):  # whose last is the embedding
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    assert len(found) == len(expected) + (kind != "ResNet")


@pytest.mark.parametrize(("option", "pieces"), [
    ("layers=last2", ["5.class", "5.mean", "6.class", "6.mean", "embedding"]),
    ("layers=1,3", ["1.class", "1.mean", "3.class", "3.mean"]), ("layers=4.mean,embedding", ["4.mean", "embedding"])])
def test_some_layers_are_those_of_all(option, pieces):
    every, some = (load(f"timm:test_vit?{each}", "random:0") for each in ("layers=all", option))
    assert [piece for piece, _ in some.pieces] == pieces and some.dim == 64 * len(pieces)
    rows = every.encode(pixels_for(every)).reshape(3, 13, 64)
    names = [piece for piece, _ in every.pieces]
    np.testing.assert_array_equal(some.encode(pixels_for(every)).reshape(3, -1, 64),
                                  rows[:, [names.index(piece) for piece in pieces]])


@pytest.mark.parametrize(("name", "module", "side"), [
    ("timm:test_vit", "norm", 1), ("timm:test_vit", "norm", 2), ("timm:test_vit", "norm", 10),
    ("timm:test_resnet", "layer4", 1), ("timm:test_resnet", "layer4", 5)])
def test_tokens_are_means_of_the_cells_of_the_last_map(name, module, side):
    plain, encoder = load(name, "random:3"), load(f"{name}?tokens={side * side}", "random:3")
    output, = hooked(load_network(name, weights="random:3"), [module], plain, pixels_for(plain))
    grid = output[:, 1:].reshape(3, 10, 10, -1).transpose(0, 3, 1, 2) if output.ndim == 3 else output
    cell = grid.shape[2] // side
    expected = np.stack([grid[:, :, row * cell:(row + 1) * cell, column * cell:(column + 1) * cell].mean(axis=(2, 3))
                         for row in range(side) for column in range(side)], axis=1)
    found = encoder.encode(pixels_for(plain)).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert encoder.pieces[-1] == (f"token{side}.{side}", expected.shape[2])


@pytest.mark.parametrize(("option", "said"), [
    ("layers=7", r"layers 1 to 6 \(pieces 1.class, "), ("layers=last7", "layers 1 to 6"), ("layers=some", "last4"),
    ("layers=0", "layers 1 to 6"), ("tokens=50", "no square number"), ("tokens=x", "no square"),
    ("tokens=121", "only 10 x 10"), ("tokens=4&layers=1", "layers or tokens")])
def test_what_a_network_does_not_have_is_one_sentence(option, said):
    with pytest.raises(InputError, match=said):
        load(f"timm:test_vit?{option}", "random:0")


class Branches(torch.nn.Module):
    """Two rows of blocks side by side, as an Inception has them: neither is a layer of the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = (torch.nn.Sequential(torch.nn.Conv2d(3, 4, side), torch.nn.Conv2d(4, 4, side))
                                 for side in (1, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.left(x).mean((2, 3)), self.right(x).mean((2, 3))], dim=1)


def test_networks_that_give_no_layers_are_refused(tmp_path, cli, drawn):
    with pytest.raises(InputError, match="an ONNX model gives its output alone"):
        save_onnx(tmp_path / "m.onnx", [("Flatten", "pixels", "y", None)], {}, shape=["n", 3, 8, 8], outputs=("y",))
        load(f"onnx:{tmp_path / 'm.onnx'}?layers=all", None)
    with pytest.raises(InputError, match="do not stand in one row"):
        with_pieces(Branches(), "branches", {"layers": "all"}, torch.randn(2, 3, 8, 8))
    done = cli("finetune", drawn.manifest, "--root", drawn.root, "--backbone", "timm:test_vit?layers=all", "--weights",
               "random:0", "--target", "compound", "--out", tmp_path / "x.safetensors")
    assert done.returncode == 2 and "leave out layers=" in done.stderr


def test_the_classifier_reads_the_embedding_and_training_samples_stay(tmp_path):
    samples = TrainingSamples(np.ones((2, 32), np.uint8), np.zeros((0, 16), np.uint8))
    own = BackboneClassifier(("anger", "fear"), np.ones((3, 2), np.float32), np.ones(2, np.float32), samples)
    rows = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    wide = own.widened(["1.mean", "embedding"], 8)
    np.testing.assert_allclose(rows @ wide.weight, rows[:, 5:] @ own.weight, rtol=1e-6)
    none = own.widened(["token1.1"], 8)
    assert none.classes == () and none.training_samples is samples
    assert BackboneClassifier(own.classes, own.weight, own.bias).widened(["token1.1"], 8) is None


def test_extract_layers_and_tokens_then_fuse(extract_args, cli, drawn, tmp_path):
    names = ("timm:test_vit?layers=last2", "timm:test_vit?tokens=4", "timm:test_vit")
    arguments = partial(extract_args, drawn.manifest, drawn.root, networks=names)
    dry = cli(*arguments(tmp_path / "s", "--dry-run"))
    assert "(original, 5 x 64-d, fp32, UNTRAINED): 0 cached, 70 to compute" in dry.stdout, dry.stdout + dry.stderr
    done = cli(*arguments(tmp_path / "s"))
    assert done.returncode == 0 and "GB of disk" in done.stderr
    for shard in ("1/2", "0/2"):
        assert cli(*arguments(tmp_path / "parts", "--shard", shard, "--shard-rows", "8")).returncode == 0
    assert_equal_stores(tmp_path / "s", tmp_path / "parts")
    layers, tokens, plain = (Store(tmp_path / "s").find(name) for name in names)
    with h5py.File(layers.path) as file, h5py.File(tokens.path) as other:
        assert file["features"].shape == (70, 5, 64) and other["features"].shape == (70, 4, 64)
        np.testing.assert_array_equal(file["features"][:, -1], plain.read(dtype=np.float16))
    assert layers.recipe.of_pieces()["embedding"] == plain.recipe
    assert cli("cache", "verify", tmp_path / "s", "--deep").returncode == 0
    for backbones, dim in ((names[0], 320), (f"{names[0]}@-2", 64), (names[1], 256)):
        fused = cli("fuse", tmp_path / "s", "--head", "logreg", "--backbones", backbones, "--out", tmp_path / "run",
                    "--overwrite")
        assert fused.returncode == 0, fused.stderr
        assert json.loads((tmp_path / "run" / "run.json").read_text())["head"]["dims"] == [dim]
    cli("fuse", tmp_path / "s", "--head", "logreg", "--backbones", f"{names[0]}@-2", "--out", tmp_path / "piece")
    photo = drawn.root / drawn.table.keys[0]
    done = cli("predict", tmp_path / "piece", photo, "-o", tmp_path / "p.csv", "--cropped", "--weights",
               "timm:test_vit=random:0")
    assert done.returncode == 0, done.stderr


def test_weights_of_a_name_are_those_of_its_options():
    names = ["timm:x", "timm:x?layers=all", "timm:x?layers=1"]
    found = parse_weights(["timm:x=a", "timm:x?layers=1=b"], names)
    assert [found[name] for name in names] == [["a"], ["a"], ["b"]]
