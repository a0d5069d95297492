"""Encoders against reality: the presets' declared facts, and the libraries' own pipelines on real faces and weights."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.extract.encoders import load
from tests.extract.encoders import logits as logits_of
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.classifier import class_order
from twofold.extract.encoders.encoder import Encoder
from twofold.extract.encoders.presets import preset
from twofold.extract.encoders.registry import noise_images

pytestmark = pytest.mark.slow
MOBILENET = "weights/imagenet/mobilenet_v2-b0353104.pth"
LITE0 = "weights/imagenet/tf_efficientnet_lite0.imagenet.fp16.safetensors"


@pytest.fixture(scope="session")
def faces(real) -> list[Image.Image]:
    """Ten real faces of different sizes, gray ones as RGB."""
    files = sorted((real / "faces_ferplus/images").glob("*.png"))[:400:50]
    files += sorted((real / "faces_lfw_expr").rglob("*.jpg"))[:1] + sorted((real / "photos").glob("*.png"))[:1]
    return [Image.open(file).convert("RGB") for file in files]


def prepared(encoder: Encoder, images: list[Image.Image]) -> torch.Tensor:
    return torch.from_numpy(np.stack([encoder.preprocessing.prepare(image) for image in images]))


# ------------------------------------------------------------------------------------- agreement with the libraries
def torchvision_features(real, faces) -> np.ndarray:
    """The plain lines that a user would write; the head is cut off by hand."""
    from torchvision.models import MobileNet_V2_Weights, mobilenet_v2

    transform, model = MobileNet_V2_Weights.IMAGENET1K_V1.transforms(), mobilenet_v2().eval()
    model.load_state_dict(torch.load(real / MOBILENET, weights_only=True))
    return model.features(torch.stack([transform(face) for face in faces])).mean((2, 3)).numpy()


def timm_features(real, faces) -> np.ndarray:
    import timm
    from safetensors.torch import load_file
    from timm.data import create_transform, resolve_model_data_config

    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(load_file(real / LITE0))
    model.reset_classifier(0)
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    return model(torch.stack([transform(face) for face in faces])).numpy()


@pytest.mark.parametrize("name, file, features", [
    ("torchvision:mobilenet_v2", MOBILENET, torchvision_features),
    ("timm:tf_efficientnet_lite0", LITE0, timm_features),
])
def test_the_librarys_own_pipeline_on_real_faces(real, faces, name, file, features):
    with torch.inference_mode():
        theirs = features(real, faces)
    encoder = load(name, real / file)
    pictures = prepared(encoder, faces)
    ours = encoder.encode(pictures)
    assert ours.shape == (10, 1280) and np.abs(ours - theirs).max() < 1e-4
    np.testing.assert_allclose(ours.astype(np.float16), theirs.astype(np.float16), rtol=1e-3, atol=1e-3)
    alone = np.concatenate([encoder.encode(pictures[i:i + 1]) for i in range(len(pictures))])  # in other batches
    np.testing.assert_allclose(alone, ours, atol=2e-5)
    assert encoder.encode(pictures[:0]).shape == (0, 1280)


def test_bf16_points_the_same_way(real, faces):
    exact, fast = (load("torchvision:mobilenet_v2", real / MOBILENET, precision=p) for p in ("fp32", "bf16"))
    a, b = (encoder.encode(prepared(encoder, faces)) for encoder in (exact, fast))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.min() > 0.98 and cosine.mean() > 0.99 and np.abs(a - b).max() > 0  # really another arithmetic
    assert (exact.precision, fast.precision) == ("fp32", "bf16") and exact.weights == fast.weights


# --------------------------------------------------------------------------------------- presets against reality
#: of the picture below: two prepared pixels, and the start and the length of the embedding with random:3. Whoever has
#: to change one of these has changed what a recipe means: change the recipe with it.
GOLDEN = {
    "vit_mae": ([31, 25, 224], [127, 81, 128], [0.9595, -0.3364, -0.2436, -0.5695], 24.349),
    "posterv2": ([0, 0, 255], [116, 70, 139], [-0.0681, 0.1454, -0.045, 0.5049], 14.667),
    "resnet18": ([0, 0, 255], [116, 70, 139], [0.6245, 0.6043, 0.6694, 0.8929], 22.167),
    "resnet50": ([31, 25, 224], [127, 81, 128], [0.6516, 1.6022, 1.4292, 2.2112], 96.483),
    "manet": ([0, 0, 255], [116, 70, 139], [0.4027, 0.3642, 0.2766, 0.7126], 36.601),
    "resnet50_conv5": ([31, 25, 224], [127, 81, 128], [0.8935, 0.4792, 0.1497, 1.3239], 20.173),
    "starter": ([2, 2, 253], [113, 69, 142], [0.7768, 0.2156, 0.0239, 0.2827], 8.055),
}


@pytest.mark.parametrize("name", GOLDEN)  # `test_presets` has the others
def test_declared_facts_of_a_preset(name):
    """Dimension, input size and preprocessing as declared; untrained, but telling pictures apart."""
    known, encoder = preset(name), load(name, "random:3")
    how = encoder.preprocessing
    assert (encoder.dim, encoder.architecture, encoder.tap) == (known.dim, known.architecture, known.tap)
    side = 48 if name == "starter" else 224
    assert how == known.preprocessing and how.size == side
    pixels = torch.randint(0, 256, (3, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels[1] //= 4
    pixels[2, side // 4:side * 3 // 4] = 255
    embeddings = encoder.encode(pixels)
    assert embeddings.shape == (3, known.dim) and embeddings.dtype == np.float32 and np.isfinite(embeddings).all()
    assert np.abs(embeddings).max() < 1000 and encoder.untrained and encoder.weights == "random:3"
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(embeddings[a] - embeddings[b]).mean() > 0.01 * np.abs(embeddings).mean()
    ramp = np.add.outer(np.arange(90) * 2, np.arange(120)).astype(np.uint8)
    picture = how.prepare(Image.fromarray(np.stack([ramp, ramp.T[:90, :90].repeat(2, 1)[:, :120], 255 - ramp], axis=2)))
    corner, middle, start, length = GOLDEN[name]
    assert np.abs(picture[[0, side // 2 - 1], [0, side * 50 // 224]] - np.array([corner, middle])).max() <= 1
    values = encoder.encode(picture[None])[0]
    np.testing.assert_allclose([*values[:4], np.linalg.norm(values)], [*start, length], rtol=0.01, atol=0.02)


def test_vit_mae_is_the_mean_of_the_patch_tokens_of_timms_model():
    """Against timm's own tokens; its preprocessing is that of MAE's evaluation (256 / 224, bicubic), not timm's 0.9."""
    import timm

    from twofold.extract.encoders.registry import build, init_random_weights

    built = build("vit_mae", checkpoint=None)
    init_random_weights(built.network, built.preprocessing, seed=1)
    theirs = timm.create_model("vit_base_patch16_224", num_classes=0).eval()
    theirs.load_state_dict(built.network.state_dict())
    pictures = noise_images(built.preprocessing, torch.Generator().manual_seed(0))[:2]
    with torch.inference_mode():
        tokens = theirs.forward_features(pictures)
        assert tokens.shape == (2, 197, 768)
        torch.testing.assert_close(built.network(pictures), tokens[:, 1:].mean(1), rtol=1e-4, atol=1e-5)
    config = timm.get_pretrained_cfg("vit_base_patch16_224.mae")
    assert (config.mean, config.std) == (preset("vit_mae").preprocessing.mean, preset("vit_mae").preprocessing.std)
    assert config.license.lower() == preset("vit_mae").licence.lower() and config.hf_hub_id == preset("vit_mae").hub
    assert config.url.endswith(preset("vit_mae").files[0])


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory):
    """What MAE's own fine-tuning writes, its container with a pickled Namespace and all; and the model it is of."""
    import argparse

    import timm

    torch.manual_seed(3)
    model = timm.create_model("vit_base_patch16_224", num_classes=7, global_pool="avg", fc_norm=True, depth=12).eval()
    with torch.no_grad():
        for name in ("fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"):
            model.get_parameter(name).normal_(0.5, 0.5)
    state = model.state_dict()
    assert len(state) == 152 and "norm.weight" not in state and state["pos_embed"].shape == (1, 197, 768)
    path = tmp_path_factory.mktemp("mae") / "checkpoint-best.pth"
    torch.save({"model": state, "optimizer": {"state": {0: {"step": 1}}, "param_groups": [{"lr": 1e-3}]}, "epoch": 46,
                "scaler": {"scale": 65536.0}, "args": argparse.Namespace(batch_size=64, nb_classes=7)}, path)
    return path, model


def test_a_fine_tuned_mae_gives_timms_own_features_and_its_classifier(fine_tuned):
    path, model = fine_tuned
    encoder = load("vit_mae", path, classes=class_order("alphabetical:cexpr7"))
    pixels = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(values) for values in (encoder.preprocessing.mean, encoder.preprocessing.std))
    with torch.inference_mode():
        normalised = ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)
        features = model.forward_head(model.forward_features(normalised), pre_logits=True).numpy()
        logits = model(normalised).numpy()
    ours = encoder.encode(pixels)
    assert np.abs(ours - features).max() < 1e-5 * max(1, np.abs(features).max())
    np.testing.assert_allclose(logits_of(encoder, ours), logits, rtol=1e-3, atol=1e-4)
    assert encoder.classifier.classes == (
        "angrily_surprised", "disgustedly_surprised", "fearfully_surprised", "happily_surprised", "sadly_angry",
        "sadly_fearful", "sadly_surprised")
    assert "fc_norm" in encoder.tap and encoder.tap != preset("vit_mae").tap


def test_an_order_of_another_number_of_classes_and_a_file_with_both_norms_are_refused(fine_tuned, tmp_path):
    for order, message in ((class_order("basic8"), "8 classes are named, the classifier of .* has 7"),
                           (("a",), "1 classes are named")):
        with pytest.raises(InputError, match=message):
            load("vit_mae", fine_tuned[0], classes=order)
    state = fine_tuned[1].state_dict() | {"norm.weight": torch.ones(768), "norm.bias": torch.zeros(768)}
    torch.save(state, tmp_path / "both.pth")
    with pytest.raises(InputError, match="fc_norm"):
        load("vit_mae", tmp_path / "both.pth")


@pytest.mark.parametrize("text, order", [
    ("rafdb", ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")),
    ("alphabetical:basic7", ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")),
    ("anger, fear", ("anger", "fear")),
])
def test_class_orders_as_a_person_writes_them(text, order):
    assert class_order(text) == order


@pytest.mark.parametrize("text, message", [
    ("caers", "CAER-S checkpoints is not certain"), ("anger,,fear", "no name"), ("anger,anger", "the same"),
    ("ekman", "unknown class order 'ekman'"), ("alphabetical:", "unknown class order ''")])
def test_class_orders_that_are_none(text, message):
    with pytest.raises(InputError, match=message):
        class_order(text)
