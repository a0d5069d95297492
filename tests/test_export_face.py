"""Encoders and head as one ONNX model that takes a face: what onnxruntime says of it is what `predict` says."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from twofold.cache.recipe import Recipe
from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import write_manifest
from twofold.data.synthetic.dataset import draw_dataset
from twofold.data.utils.errors import InputError
from twofold.extract.again.carried import carried_encoders
from twofold.extract.encoders.onnx.pillow_resize import PillowResize
from twofold.extract.encoders.onnx.portable import PortableEncoder
from twofold.extract.encoders.registry import load_encoder, load_network
from twofold.extract.plan import recipe_of
from twofold.extract.views import view

pytest.importorskip("onnxscript", reason="writing ONNX is optional")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX is optional")
pytestmark = pytest.mark.slow
SIDE = 48
NAME = "timm:test_vit?size=64"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cli):
    """Drawn faces, a store of the smallest encoder that sees them and their mirror images, a run."""
    folder = tmp_path_factory.mktemp("face")
    faces = draw_dataset(folder / "faces", taxonomy=builtin_taxonomy("cexpr7"), per_class=12, size=SIDE, seed=0,
                         per_identity=1)
    write_manifest(faces, folder / "faces.csv")
    for words in (
            ("extract", folder / "faces.csv", "--root", folder / "faces", "--store", folder / "store", "--backbones",
             NAME, "--weights", f"{NAME}=random:1", "--views", "original,flip", "--precision", "fp32", "--device",
             "cpu"),
            ("fuse", folder / "store", "--views", "original,flip", "--epochs", 60, "--lr", 0.02, "--seeds", 2,
             "--hidden", 16, "--out", folder / "run")):
        done = cli(*words)
        assert done.returncode == 0, done.stderr
    record = json.loads((folder / "run/run.json").read_text())
    record |= {"temperature": 1.0, "temperatures": [1.0]}  # the fitted one leaves all answers of random weights alike
    (folder / "run/run.json").write_text(json.dumps(record))
    return folder


def asked(path, pictures):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"faces": pictures})[0], session.get_modelmeta().custom_metadata_map


def test_it_says_what_predict_says(folder, cli, tmp_path):
    done = cli("export", folder / "run", "-o", tmp_path / "out", "--face", SIDE, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["largest_differences"]["face.onnx"] < 1e-4
    done = cli("predict", folder / "run", folder / "faces.csv", "--root", folder / "faces", "-o", tmp_path / "p.csv")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "p.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    pictures = np.stack([np.array(Image.open(folder / "faces" / row["key"]).convert("RGB")) for row in rows])
    probabilities, facts = asked(tmp_path / "out/face.onnx", pictures)
    classes = json.loads(facts["classes"])
    expected = [[float(row[name]) for name in classes] for row in rows]
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)
    assert np.ptp(probabilities[:, 0]) > 0.01 and len(rows) == 84
    single, _ = asked(tmp_path / "out/face.onnx", pictures[:1])
    np.testing.assert_allclose(single, probabilities[:1], atol=1e-5)
    assert json.loads(facts["licences"]) == ["random numbers: none"] * 2
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert f"| {NAME} * UNTRAINED |" in card and f"`faces` (N, {SIDE}, {SIDE}, 3) uint8" in card


def test_weights_of_which_nobody_states_a_licence_are_not_passed_on(tmp_path):
    tensors = load_network("timm:test_vit", weights="random:3").state_dict()
    for name, metadata in (("silent", {}), ("written", {"license": "BSD-2"})):
        save_file(tensors, tmp_path / f"{name}.safetensors", metadata=metadata)
        weights = [f"timm:test_vit={tmp_path / name}.safetensors"]
        encoder = load_encoder("timm:test_vit", weights=str(tmp_path / f"{name}.safetensors"), device="cpu")
        recipe = recipe_of(replace(encoder, precision="fp32"), view("original"), dtype="float16")
        if metadata:
            assert carried_encoders([recipe], side=SIDE, weights=weights, stated=[]).licences == ["BSD-2"]
        else:
            with pytest.raises(InputError, match="--licence timm:test_vit=LICENCE"):
                carried_encoders([recipe], side=SIDE, weights=weights, stated=[])
        said = carried_encoders([recipe], side=SIDE, weights=weights, stated=["timm:test_vit=MIT"])
        assert said.licences == ["MIT"]


def test_what_cannot_be_carried_is_refused(folder, cli, tmp_path):
    record = json.loads((folder / "run/run.json").read_text())
    recipe = Recipe(**record["streams"][0]["recipe"])
    with pytest.raises(InputError, match="onnx:net: an ONNX model already"):
        carried_encoders([replace(recipe, backbone="onnx:net")], side=SIDE, weights=[], stated=[])
    with pytest.raises(InputError, match="the view enhanced1 is drawn"):
        PortableEncoder(load_encoder(NAME, weights="random:1"), replace(recipe, view={"name": "enhanced1"}), side=SIDE)
    done = cli("export", folder / "run", "-o", tmp_path / "out", "--face", SIDE, "--licence", "MIT")
    assert done.returncode == 2 and "NAME=LICENCE" in done.stderr
    stream = record["streams"][0]
    stream["recipe"]["preprocessing"]["interpolation"] = "lanczos"
    run = tmp_path / "run"
    run.mkdir()
    for path in (folder / "run").iterdir():
        (run / path.name).write_bytes(path.read_bytes())
    (run / "run.json").write_text(json.dumps(record))
    done = cli("export", run, "-o", tmp_path / "out", "--face", SIDE)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("before", "after"), [(48, 64), (112, 224), (100, 99), (350, 112), (3, 40)])
def test_resizing_is_pillows_to_the_pixel(before, after, how):
    pictures = np.random.default_rng(before).integers(0, 256, (2, before, before, 3), np.uint8)
    resized = PillowResize(before, after, how)(torch.from_numpy(pictures).double()).numpy()
    mode = Image.Resampling[how.upper()]
    expected = np.stack([np.array(Image.fromarray(picture).resize((after, after), mode)) for picture in pictures])
    np.testing.assert_array_equal(resized, expected)
