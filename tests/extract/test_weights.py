"""Strict loading, identity by content, and the classifier that weights bring along."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from torchvision import models

from tests.extract.encoders import load, state_of
from tests.extract.encoders import logits as logits_of
from twofold.cache.store import Store
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.classifier import CLASS_ORDERS, checkpoint_classifier, class_order, single_linear_layer
from twofold.extract.encoders.posterv2 import PosterV2
from twofold.extract.encoders.presets import preset
from twofold.extract.encoders.report import convert
from twofold.extract.extract import extract
from twofold.extract.plan import ExtractOptions, open_workspace
from twofold.extract.streams import parse_streams
from twofold.extract.weights.read import read_checkpoint


# --------------------------------------------------------------------------------------------------------- strict
@pytest.mark.parametrize("spoil, message", [
    (lambda state: {name: value for name, value in state.items() if not name.startswith("layer4")},
     r"25 missing \(layer4.0.conv1.weight, layer4.0.bn1.weight, layer4.0.bn1.bias, layer4.0.bn1.running_mean, "
     r"layer4.0.bn1.running_var, ...\)"),
    (lambda state: state | {f"extra{i}.weight": torch.ones(2) for i in range(7)},
     r"7 unexpected \(extra0.weight, extra1.weight, extra2.weight, extra3.weight, extra4.weight, ...\); "
     "the file looks like a ResNet-18 with 1000 classes"),
    (lambda state: state | {"conv1.weight": torch.ones(64, 1, 7, 7)},
     r"1 mis-shaped \(conv1.weight \(64, 1, 7, 7\) instead of \(64, 3, 7, 7\)\)"),
    (lambda state: state | {"bn1.bias": torch.full((64,), torch.nan)}, "bn1.bias holds numbers that are not finite"),
    (lambda state: state | {"conv1.weight": state["conv1.weight"].to(torch.int64)},
     "conv1.weight is torch.int64 instead of torch.float32"),
])
def test_weights_that_are_not_exactly_the_networks_are_refused(resnet18, tmp_path, spoil, message):
    torch.save(spoil(state_of(resnet18)), tmp_path / "w.pth")
    with pytest.raises(InputError, match=message):
        load("resnet18", tmp_path / "w.pth")


@pytest.mark.parametrize("make, guess", [
    (lambda: models.resnet50(num_classes=7), "looks like a ResNet-50 with 7 classes"),
    (lambda: models.resnet34(), "looks like a ResNet-34 with 1000 classes"),
    (lambda: models.mobilenet_v2(num_classes=8), "looks like a torchvision MobileNetV2 with 8 classes"),
    (lambda: models.alexnet(num_classes=7), "looks like a VGG or AlexNet with 7 classes"),
    (lambda: __import__("timm").create_model("test_vit", num_classes=3),
     "looks like a vision transformer, 6 blocks of width 64 with 3 classes"),
    (lambda: torch.nn.Sequential(torch.nn.Linear(2, 2)), r"holds 2 tensors \(0.weight, 0.bias, ...\)"),
])
def test_the_refusal_guesses_what_the_file_is(tmp_path, make, guess):
    torch.save(make().state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match=f"not the weights of this network.*the file {guess}"):
        load("resnet18", tmp_path / "w.pth")


def test_the_classifier_may_be_there_or_not_and_does_not_count(resnet18, tmp_path, caplog):
    bare = {name: value for name, value in state_of(resnet18).items() if not name.startswith("fc.")}
    old = {name: value for name, value in bare.items() if not name.endswith("num_batches_tracked")}
    other = bare | {"fc.0.weight": torch.ones(7, 512), "fc.0.bias": torch.ones(7)}
    caplog.set_level("INFO")
    encoders = [load("resnet18", resnet18)]
    assert "the 1000 classes of resnet18_msceleb.pth are no expressions" in caplog.text
    for number, state in enumerate((bare, old, other)):
        torch.save(state, tmp_path / f"{number}.pth")
        encoders.append(load("resnet18", tmp_path / f"{number}.pth"))
    assert len({encoder.weights for encoder in encoders}) == 1


def caffe_name(name: str) -> str:
    """What the lineage's file calls an entry of torchvision's ResNet-50."""
    parts = {"conv1": "1x1_reduce", "bn1": "1x1_reduce_bn", "conv2": "3x3", "bn2": "3x3_bn", "conv3": "1x1_increase",
             "bn3": "1x1_increase_bn", "downsample.0": "1x1_proj", "downsample.1": "1x1_proj_bn"}
    if not name.startswith("layer"):
        return name.replace("conv1.", "conv1_7x7_s2.").replace("bn1.", "conv1_7x7_s2_bn.").replace("fc.", "classifier.")
    stage, block, part, rest = re.fullmatch(r"layer(\d)\.(\d)\.(downsample\.\d|\w+)\.(\w+)", name).groups()
    return f"conv{int(stage) + 1}_{int(block) + 1}_{parts[part]}.{rest}"


@pytest.mark.parametrize("name", ["resnet50", "resnet50_conv5"])
def test_the_lineages_own_file_runs_with_its_names_strides_and_pixels(tmp_path, name):
    """Against a plain forward pass in its own terms: stride in the first 1x1, pooling that rounds up, no padding."""
    torch.manual_seed(2)
    state = {caffe_name(entry): value for entry, value in models.resnet50(num_classes=8).state_dict().items()}
    assert "conv3_1_1x1_proj_bn.running_var" in state and "conv1_7x7_s2_bn.bias" in state
    torch.save(state, tmp_path / "resnet50_ferplus_dag.pth")
    pixels = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)

    def block(x, entry, **options):
        x = F.conv2d(x, state[f"{entry}.weight"], **options)
        norm = (state[f"{entry}_bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *norm)

    x = pixels.permute(0, 3, 1, 2).float() - torch.tensor([131.0912, 103.8827, 91.4953])[:, None, None]
    x = F.max_pool2d(block(x, "conv1_7x7_s2", stride=2, padding=3).relu(), 3, 2, ceil_mode=True)
    for stage, blocks in ((2, 3), (3, 4), (4, 6), (5, 3)):
        for number in range(1, blocks + 1):
            entry, stride = f"conv{stage}_{number}", 2 if number == 1 and stage > 2 else 1
            inner = block(block(x, f"{entry}_1x1_reduce", stride=stride).relu(), f"{entry}_3x3", padding=1).relu()
            short = block(x, f"{entry}_1x1_proj", stride=stride) if number == 1 else x
            x = (block(inner, f"{entry}_1x1_increase") + short).relu()
    expected = (inner if name == "resnet50_conv5" else x).mean((2, 3)).numpy()
    encoder = load(name, tmp_path / "resnet50_ferplus_dag.pth")
    assert encoder.architecture == "torchvision.resnet50, strides of Caffe" and inner.shape[2:] == (7, 7)
    np.testing.assert_allclose(encoder.encode(pixels), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


# ------------------------------------------------------------------------------------------------ identity by content
def test_one_set_of_weights_has_one_name_in_any_container(resnet18, tmp_path):
    state = state_of(resnet18)
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "parallel.pth")
    torch.save({"model": dict(reversed(state.items()))}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "plain.safetensors")
    names = {load("resnet18", path).weights for path in (resnet18, *tmp_path.iterdir())}
    assert len(names) == 1 and next(iter(names)).startswith("sha256:") and len(next(iter(names))) == 71
    changed = {name: value.clone() for name, value in state.items()}
    changed["layer4.1.bn2.running_mean"][-1] += 1e-6
    save_file(changed, tmp_path / "changed.safetensors")
    assert load("resnet18", tmp_path / "changed.safetensors").weights not in names


# ------------------------------------------------------------------------------------------------- own classifier
def test_the_classifier_of_poster_gives_logits_from_its_embedding(tmp_path):
    state = PosterV2(7).state_dict()
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "raf-db_best.pth")
    encoder = load("posterv2", tmp_path / "raf-db_best.pth")
    features = encoder.encode(torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8))
    expected = features @ state["VIT.head.linear.weight"].numpy().T + state["VIT.head.linear.bias"].numpy()
    np.testing.assert_allclose(logits_of(encoder, features), expected, rtol=1e-5, atol=1e-6)
    assert encoder.classifier.classes == CLASS_ORDERS["rafdb"]  # the file's name says raf-db
    (tmp_path / "raf-db_best.pth").rename(tmp_path / "best.pth")
    encoder = load("posterv2", tmp_path / "best.pth")
    assert encoder.classifier is None and encoder.unnamed_classes == 7  # nobody says their order
    torch.save(PosterV2(8).state_dict(), tmp_path / "best.pth")
    assert load("posterv2", tmp_path / "best.pth").classifier.classes == CLASS_ORDERS["affectnet8"]
    assert load("posterv2", "random:0").classifier is None  # an untrained one says nothing


@pytest.mark.parametrize("name, options, classes", [
    ("best.pth", "", ()), ("affectnet-7-model_best.pth", "", CLASS_ORDERS["affectnet7"]),
    ("caer-s_best.pth", "", ()), ("caer-s_raf.pth", "", ()), ("raf_and_affectnet.pth", "", ()),
    ("best.pth", "affectnet7", CLASS_ORDERS["affectnet7"]), ("rafdb.pth", "affectnet7", CLASS_ORDERS["affectnet7"]),
])
def test_the_order_of_the_classes_is_known_or_refused(tmp_path, name, options, classes):
    """Of the layer alone, in a file of that name; that an encoder has what this says, is seen above."""
    path, layer = tmp_path / name, {"head.weight": torch.randn(7, 768), "head.bias": torch.randn(7)}
    torch.save(layer, path)
    if options:
        convert(path, tmp_path / "c.safetensors", classes=class_order(options))
        path = tmp_path / "c.safetensors"
    classifier, unnamed = checkpoint_classifier(
        "posterv2", single_linear_layer(layer, dim=768), read_checkpoint(path),
        order_of_file=preset("posterv2").class_order)
    assert (classifier.classes if classifier else ()) == classes
    assert unnamed == (0 if classes else 7)


def test_a_last_layer_behind_which_something_is_rectified_is_no_classifier(tmp_path):
    torch.save(models.squeezenet1_1(num_classes=7).state_dict(), tmp_path / "seven.pth")
    with pytest.raises(InputError, match="brings no classifier of one linear layer"):
        load("torchvision:squeezenet1_1", tmp_path / "seven.pth", classes=tuple("abcdefg"))


def test_any_network_keeps_a_classifier_whose_classes_its_file_names(resnet18, tmp_path):
    state = state_of(resnet18) | {"fc.weight": torch.randn(3, 512), "fc.bias": torch.randn(3)}
    save_file(state, tmp_path / "r.safetensors", metadata={"classes": "anger,fear,surprise"})
    encoder = load("resnet18", tmp_path / "r.safetensors")
    assert encoder.classifier.classes == ("anger", "fear", "surprise")
    np.testing.assert_array_equal(encoder.classifier.weight, state["fc.weight"].T)
    assert load("resnet18", resnet18).classifier is None  # a thousand identities: nobody names them
    state["fc.extra.weight"] = torch.randn(3, 3)  # more than one layer: its logits are no affine map
    save_file(state, tmp_path / "m.safetensors", metadata={"classes": "anger,fear,surprise"})
    assert load("resnet18", tmp_path / "m.safetensors").classifier is None


@pytest.mark.parametrize("classes", ["anger,anger,fear", "anger,,fear", "anger,\x1b[2J,fear", "a" * 5000 + ",b,c"])
def test_classes_that_a_feature_file_could_not_have_are_refused_at_once(resnet18, tmp_path, classes):
    state = state_of(resnet18) | {"fc.weight": torch.randn(3, 512), "fc.bias": torch.randn(3)}
    save_file(state, tmp_path / "r.safetensors", metadata={"classes": classes})
    with pytest.raises(InputError, match="no different short names"):
        load("resnet18", tmp_path / "r.safetensors")


def test_extract_keeps_the_classifier_and_insists_before_it_computes(resnet18, drawn, tmp_path):
    state = state_of(resnet18) | {"fc.weight": torch.randn(3, 512), "fc.bias": torch.randn(3)}
    named, unnamed = tmp_path / "named.safetensors", tmp_path / "unnamed.safetensors"
    save_file(state, named, metadata={"classes": "anger,fear,surprise"})
    save_file(state, unnamed)
    few = tmp_path / "few.csv"
    few.write_text("".join(drawn.manifest.open().readlines()[:4]))

    def run(weights, folder, **options):
        report = extract(open_workspace(few, [str(drawn.root)], tmp_path / folder),
                         parse_streams(["resnet18"], weights=[f"resnet18={weights}"], precision="fp32"),
                         ExtractOptions(**options), device="cpu")
        return report.values["files"][0]["to_compute"], Store(tmp_path / folder).find("resnet18")

    with pytest.raises(InputError, match="resnet18 do not say in which order their 3 classes are"):
        run(unnamed, "s", with_logits=True)
    assert not (tmp_path / "s").exists()
    with pytest.raises(InputError, match="resnet18 bring no classifier of expressions"):
        run(resnet18, "s", with_logits=True)
    computed, file = run(unnamed, "s")
    assert computed == 3 and file.classifier is None
    before = file.read()
    computed, file = run(named, "s", with_logits=True)
    assert computed == 0 and file.classifier.classes == ("anger", "fear", "surprise")  # added, nothing computed
    np.testing.assert_array_equal(file.read(), before)
    np.testing.assert_array_equal(file.classifier.weight, state["fc.weight"].T)
    assert run(unnamed, "s")[1].classifier is not None  # and not lost again
