"""`hf:` backbones against transformers' own forward pass, of tiny models with random weights."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.extract.encoders import load
from tests.extract.encoders import logits as logits_of
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.hf import _preprocessing
from twofold.extract.encoders.presets import licences
from twofold.extract.engine.task import recipe_of

transformers = pytest.importorskip("transformers")

LABELS = dict(enumerate(["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]))
VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32,
       "patch_size": 8}
MODELS = {
    "ViT": VIT, "Beit": VIT | {"use_relative_position_bias": True}, "DeiT": VIT,
    "Swin": {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2],
             "window_size": 4},
    "ConvNext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}}
HOW = {"size": {"height": 32, "width": 32}, "resample": 3, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2] * 3,
       "do_resize": True, "do_normalize": True, "do_rescale": True, "rescale_factor": 1 / 255}


def saved(folder, kind="ViT", **how):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**MODELS[kind], id2label=LABELS)
    model = getattr(transformers, f"{kind}ForImageClassification")(config).eval()
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(HOW | how))
    return model


@pytest.mark.parametrize("kind", MODELS)
def test_embeddings_and_logits_are_transformers_own(tmp_path, kind):
    model = saved(tmp_path / "tiny", kind)
    encoder = load(f"hf:{tmp_path / 'tiny'}", "hub")
    pixels = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    seen: list[torch.Tensor] = []
    last = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    last.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        x = ((pixels / 255 - torch.tensor(HOW["image_mean"])) / 0.2).permute(0, 3, 1, 2)
        logits = model(pixel_values=x).logits
    ours = encoder.encode(pixels)
    np.testing.assert_allclose(ours, seen[0], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(logits_of(encoder, ours), logits, rtol=1e-3, atol=1e-4)
    assert encoder.classifier.classes == ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
    recipe = recipe_of(encoder, "original", dtype="float16")
    assert recipe.backbone == "hf:tiny" and str(tmp_path) not in recipe.canonical()
    assert recipe.architecture == f"transformers.{kind}ForImageClassification"


@pytest.mark.parametrize("how, expected", [
    ({}, (32, 32, "both")), ({"size": 32}, (32, 32, "both")),
    ({"size": {"shortest_edge": 28}, "crop_pct": 0.875}, (28, 32, "shorter")),
    ({"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}},
     (32, 40, "shorter"))])
def test_the_preprocessing_is_the_models_own(tmp_path, how, expected):
    saved(tmp_path, "ConvNext", **how)
    prepared = load(f"hf:{tmp_path}", "hub").preprocessing
    assert (prepared.size, prepared.resize, prepared.rule, prepared.interpolation) == (*expected, "bicubic")
    assert prepared.prepare(Image.new("RGB", (50, 41))).shape == (expected[0], expected[0], 3)


@pytest.mark.parametrize("kind, how", [
    ("EfficientNet", {"include_top": True, "rescale_offset": False}), ("ViT", {"do_rescale": False}),
    ("EfficientNet", {"include_top": True, "rescale_offset": True, "rescale_factor": 2 / 255}),
    ("ConvNext", {"size": 28, "crop_pct": 0.875}),  # as older versions wrote it, such as microsoft/resnet-50's
    ("PoolFormer", {"size": {"shortest_edge": 36}, "do_center_crop": True, "crop_pct": 0.9,
                    "crop_size": {"height": 40, "width": 40}})])
def test_pixels_are_those_of_transformers_own_processor(tmp_path, kind, how):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(HOW | how))
    prepared = _preprocessing(str(tmp_path))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (prepared.resize, prepared.resize, 3), np.uint8))
    ours = (prepared.prepare(image) * prepared.scale - np.array(prepared.mean)) / prepared.std
    theirs = getattr(transformers, f"{kind}ImageProcessor")(**HOW | how)(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(ours.transpose(2, 0, 1), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("change, message", [
    (lambda folder: (folder / "preprocessor_config.json").write_text(json.dumps(HOW | {"do_flip_channel_order": True})),
     "do_flip_channel_order is none of"),
    (lambda folder: (folder / "config.json").unlink(), "config.json could not be had"),
    (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
    (lambda folder: (folder / "preprocessor_config.json").unlink(), "preprocessor_config.json could not be had"),
    (lambda folder: (folder / "preprocessor_config.json").write_text('{"size": {"height": 3, "width": 4}}'),
     "input is not square"),
    (lambda folder: (folder / "config.json").write_text('{"auto_map": {}, "model_type": "vit"}'), "never done"),
    (lambda folder: (folder / "config.json").write_text('{"model_type": "vit", "architectures": ["ViTModel"]}'),
     "only image classifiers")])
def test_what_cannot_be_used_is_a_sentence(tmp_path, change, message):
    saved(tmp_path)
    change(tmp_path)
    with pytest.raises(InputError, match=message):
        load(f"hf:{tmp_path}", "hub")


def test_a_hub_name_that_is_not_there_and_the_licence_of_a_card(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(InputError, match=r"hf:nobody/nothing: config.json could not be had"):
        load("hf:nobody/nothing", "hub")
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n")
    assert licences([f"hf:{tmp_path}"]) == {f"hf:{tmp_path}": "apache-2.0"}
