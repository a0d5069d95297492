"""What a backbone's name may say, which names and devices are none, and how large a batch may be."""

import numpy as np
import pytest
import timm
import torch

from tests.extract.encoders import load
from twofold.cache.store import Store
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.devices import parse_device, resolve_precision
from twofold.extract.encoders.encoder import BatchLimit, Encoder
from twofold.extract.encoders.preprocessing import Preprocessing
from twofold.extract.encoders.presets import preset
from twofold.extract.encoders.registry import check_dim, noise_images
from twofold.extract.engine.task import recipe_of
from twofold.extract.weights.load import resample_position_embeddings


# ------------------------------------------------------------------------------------- preprocessing behind the name
def test_a_name_may_say_its_preprocessing():
    plain, other = load("resnet18", "random:3"), load("resnet18?mean=0.5&size=96&std=0.25,0.5,0.5", "random:3")
    assert other.name == "resnet18?size=96&mean=0.5&std=0.25,0.5,0.5"  # always in the same order
    assert other.preprocessing == Preprocessing(size=96, resize=96, rule="both", mean=(0.5,) * 3, std=(0.25, 0.5, 0.5))
    assert other.encode(np.zeros((2, 96, 96, 3), np.uint8)).shape == (2, 512)
    fingerprints = {recipe_of(encoder, "original", dtype="float16").fingerprint for encoder in (plain, other)}
    assert len(fingerprints) == 2
    again = load("resnet18?rule=shorter&resize=256&size=224&interpolation=bicubic", "random:3").preprocessing
    assert (again.size, again.resize, again.rule, again.interpolation) == (224, 256, "shorter", "bicubic")


@pytest.mark.parametrize("query, message", [
    ("?sise=3", "unknown option 'sise' of resnet18"), ("?size=0", "side of 1 to 4096"), ("?size=99999", "side of 1 to"),
    ("?size=\u0664", "side of 1"), ("?mean=1,2", "not 3 numbers"), ("?std=0,1,1", "not 3 numbers above 0"),
    ("?scale=-1", "not 1 number above 0"), ("?mean=nan", "not 3 numbers"), ("?rule=long", "choose from shorter"),
    ("?interpolation=cubic", "choose from nearest"), ("?size=96&size=64", "given twice"),
])
def test_preprocessing_that_makes_no_sense(query, message):
    with pytest.raises(InputError, match=message):
        load(f"resnet18{query}", "random:3")


@pytest.mark.parametrize("name", ["torchvision:squeezenet1_1?size=8", "torchvision:inception_v3?size=10",
                                  "manet?size=8"])
def test_a_size_that_a_network_does_not_take_is_said(name):
    """Also where random weights are drawn, which runs the network."""
    with pytest.raises(InputError, match=r"does not run on pictures of side (8|10): "):
        load(name, "random:3")


def test_the_width_of_a_name_with_options_is_found_without_building_it():
    check_dim("timm:test_resnet?size=64&mean=0.5", 96)
    with pytest.raises(InputError, match="gives 96 features, not the 95"):
        check_dim("timm:test_resnet?size=64&mean=0.5", 95)


def test_options_work_on_the_command_line_and_in_fuse(cli, drawn, tmp_path):
    name = "timm:test_resnet?size=64&mean=0.5,0.5,0.5&std=0.25"
    done = cli("extract", drawn.manifest, "--root", drawn.root, "--store", tmp_path / "s", "--device", "cpu",
               "--backbones", f"timm:test_vit,{name}", "--weights", f"{name}=random:1", "--weights",
               "timm:test_vit=random:1")
    assert done.returncode == 0, done.stderr
    file = Store(tmp_path / "s").find(name)
    assert file.recipe.preprocessing["size"] == [64, 64] and file.recipe.preprocessing["std"] == [0.25] * 3
    done = cli("fuse", tmp_path / "s", "--out", tmp_path / "run", "--backbones", f"{name},timm:test_vit", "--head",
               "linear", "--epochs", "1", "--seeds", "1", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert name in done.stdout
    face = next(drawn.root.glob("**/*.png"))
    done = cli("predict", tmp_path / "run", face, "--cropped", "-o", tmp_path / "out.csv", "--device", "cpu")
    assert done.returncode == 0 and len((tmp_path / "out.csv").read_text().splitlines()) == 2, done.stderr


def test_a_plain_resnet50_gets_the_same_pixels_whichever_way_it_is_tapped(tmp_path):
    """The files of FER2013 are torchvision's; only the lineage's with Caffe's names wants Caffe's pixels."""
    from torchvision import models

    torch.save(models.resnet50(num_classes=7).state_dict(), tmp_path / "resnet50_fer2013.pth")
    whole, conv5 = (load(name, tmp_path / "resnet50_fer2013.pth") for name in ("resnet50", "resnet50_conv5"))
    assert conv5.preprocessing == whole.preprocessing == preset("resnet50").preprocessing
    assert conv5.preprocessing.scale == pytest.approx(1 / 255) and (whole.dim, conv5.dim) == (2048, 512)
    assert whole.unnamed_classes == 7 and conv5.unnamed_classes == 0  # its head reads another tap


def test_resnet50_conv5_is_the_last_3x3_of_torchvisions_model():
    from twofold.extract.encoders.registry import build, init_random_weights

    built = build("resnet50_conv5", checkpoint=None)
    init_random_weights(built.network, built.preprocessing, seed=1)
    pictures = noise_images(built.preprocessing, torch.Generator().manual_seed(0))[:2]
    caught = []
    built.network.layer4[2].bn2.register_forward_hook(lambda _module, _inputs, output: caught.append(output.clone()))
    with torch.inference_mode():
        built.network(pictures)
        expected = caught[0].relu().mean((2, 3))
        torch.testing.assert_close(built.trim(built.network)(pictures), expected)
    assert expected.shape == (2, 512) and caught[0].shape[2:] == (7, 7)


# ----------------------------------------------------------- vision transformers at another size than their weights
def test_positions_are_interpolated_and_prefix_tokens_kept():
    torch.manual_seed(0)
    theirs = timm.create_model("test_vit", num_classes=0).state_dict()
    network = timm.create_model("test_vit", num_classes=0, img_size=96)
    ours, said = resample_position_embeddings(network, theirs)
    grid = theirs["pos_embed"][:, 1:].reshape(1, 10, 10, -1).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, (6, 6), mode="bicubic", antialias=True).flatten(2).mT
    torch.testing.assert_close(ours["pos_embed"], torch.cat([theirs["pos_embed"][:, :1], expected], 1))
    assert said == "position embeddings resampled from 10 x 10 to 6 x 6"
    network.load_state_dict(ours)
    again, nothing = resample_position_embeddings(network, ours)
    assert nothing == "" and again.keys() == ours.keys()


def test_the_recipe_says_so_and_nothing_is_resampled_unasked(tmp_path):
    for name, size in (("own", {}), ("small", {"img_size": 96})):  # of the network: 160 pixels in patches of 16
        torch.save(timm.create_model("test_vit", **size).state_dict(), tmp_path / f"{name}.pth")
    small = load("timm:test_vit?size=96", tmp_path / "own.pth")
    assert small.preprocessing.size == 96 and "resampled from 10 x 10 to 6 x 6" in small.architecture
    usual = load("timm:test_vit", tmp_path / "own.pth")
    assert usual.architecture == "timm.test_vit" and usual.weights != small.weights
    with pytest.raises(InputError, match="mis-shaped"):
        load("timm:test_vit", tmp_path / "small.pth")
    torch.save(timm.create_model("convit_tiny").state_dict(), tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"mis-shaped \(pos_embed"):  # positions of another kind of network
        load("timm:convit_tiny?size=112", tmp_path / "other.pth")


def test_what_a_classifier_has_besides_its_last_layer_may_be_in_the_file(tmp_path):
    whole = timm.create_model("efficientvit_m0").eval()  # its head is a batch norm and a linear layer
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    encoder, pictures = load("timm:efficientvit_m0", tmp_path / "whole.pth"), torch.zeros(1, 224, 224, 3).byte()
    with torch.inference_mode():
        images = encoder.preprocessing.normalize(pictures.permute(0, 3, 1, 2).float())
        expected = whole.forward_head(whole.forward_features(images), pre_logits=True)
    np.testing.assert_allclose(encoder.encode(pictures), expected, rtol=1e-3, atol=1e-4)


def test_the_masked_autoencoder_takes_whole_patches_only():
    with pytest.raises(InputError, match="vit_mae does not take faces of 100 pixels"):
        load("vit_mae?size=100", "random:0")


# -------------------------------------------------------------------------------------------------- random weights
def test_random_weights_depend_on_their_seed_alone():
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = load("resnet18?size=64", "random:5")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    again, other = (load("resnet18?size=64", f"random:{seed}") for seed in (5, 6))
    pictures = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    np.testing.assert_array_equal(first.encode(pictures), again.encode(pictures))
    assert np.abs(first.encode(pictures) - other.encode(pictures)).max() > 0.1


@pytest.mark.parametrize("name, dim", [
    ("torchvision:squeezenet1_1", 512), ("torchvision:vit_b_16", 768), ("torchvision:convnext_tiny?size=64", 768),
    ("torchvision:mobilenet_v3_small?size=64", 576), ("timm:mobilenetv3_small_050", 1024),
    ("timm:test_vit?size=96", 64),  # a transformer is built for that size
])
def test_any_model_by_name_loses_its_classifier(name, dim):
    encoder = load(name, "random:0")
    assert encoder.dim == dim and encoder.classifier is None
    size = encoder.preprocessing.size
    pictures = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    embeddings = encoder.encode(pictures)
    assert np.isfinite(embeddings).all() and np.abs(embeddings[0] - embeddings[1]).max() > 1e-3


# -------------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize("name, message", [
    ("resnet19", "choose from vit_mae, posterv2, resnet18, resnet50, resnet50_conv5, manet, farl, clip_b16, "),
    ("timm:resnet18_of_mars", "timm has no model 'resnet18_of_mars'"),
    ("timm:resnet18.of_mars", "timm has no model 'resnet18.of_mars'"),
    ("torchvision:resnet19", "torchvision has no classification model 'resnet19'"),
    ("torchvision:fasterrcnn_resnet50_fpn", "torchvision has no classification model"),
    ("", "unknown backbone ''"), ("timm:", "timm has no model ''"),
])
def test_unknown_names_are_refused_before_weights_are_looked_for(name, message):
    with pytest.raises(InputError, match=message):
        load(name, "/nowhere/at/all.pth")


def test_unknown_seeds_devices_and_precisions():
    for seed in ("random:", "random:-1", "random:x", "random:99999999999999999999"):
        with pytest.raises(InputError, match="whole number"):
            load("resnet18", seed)
    for device in ("gpu", "cpu:1", "cuda:99", "", "cuda:x", "meta"):
        with pytest.raises(InputError, match="device"):
            parse_device(device)
    cpu = parse_device("cpu")
    assert resolve_precision("auto", cpu) in ("fp32", "bf16")
    assert [resolve_precision(text, cpu) for text in ("fp32", "bf16", "fp16")] == ["fp32", "bf16", "fp16"]
    with pytest.raises(InputError, match="unknown precision 'half'"):
        resolve_precision("half", cpu)


def test_compiling_without_a_compiler_is_said_before_anything_is_loaded(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(InputError, match=r"--compile needs a C\+\+ compiler"):
        load("resnet18", "/nowhere/at/all.pth", compiled=True)


# ------------------------------------------------------------------------------------------------------ batch size
def test_the_batch_is_halved_when_memory_runs_out_and_that_is_remembered():
    room, tried = [10], []

    def network(pictures: torch.Tensor) -> torch.Tensor:
        tried.append(len(pictures))
        if len(pictures) > room[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return pictures.float().mean((2, 3))

    encoder = Encoder(name="toy", architecture="toy", weights="random:0", tap="mean", dim=3, precision="fp32",
                      preprocessing=Preprocessing(size=8, resize=8, mean=(0.0,) * 3, std=(1.0,) * 3, scale=1.0),
                      device=torch.device("cpu"), network=network, limit=BatchLimit(32))
    pictures = torch.randint(0, 256, (40, 8, 8, 3), dtype=torch.uint8)
    np.testing.assert_allclose(encoder.encode(pictures), pictures.float().mean((1, 2)), rtol=1e-5)
    assert tried == [32, 16, 8, 8, 8, 8, 8] and encoder.batch_size == 8
    encoder.encode(pictures[:16])
    assert tried[7:] == [8, 8]
    with pytest.raises(RuntimeError, match="size"):  # not taken for a lack of memory
        encoder.encode(torch.zeros((5, 8, 8, 4), dtype=torch.uint8))
    room[0] = 0
    with pytest.raises(InputError, match="does not fit into the memory of cpu with even one face"):
        encoder.encode(pictures)
