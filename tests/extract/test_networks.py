"""POSTER++ and MA-Net against the key tables of their checkpoints, and the values of their embeddings."""

from collections import OrderedDict

import numpy as np
import pytest
import torch

from tests.extract.encoders import RecorderMeter, keys_digest, load, noisy
from tests.extract.encoders import logits as logits_of
from twofold.extract.encoders.classifier import class_order
from twofold.extract.encoders.manet import MANet
from twofold.extract.encoders.posterv2 import PosterV2
from twofold.extract.encoders.presets import preset
from twofold.extract.encoders.starter import Body

#: of published checkpoints with 7 classes: entries, and the digest of their table of keys
TABLES = {"posterv2": (747, "d14da1051503155db8edbe9cc4c3bf0c1634fe79fcffa24a6da103a2865e5238"),
          "manet": (692, "d146ea0d678886a73a0b3ad04a82833e3b9647186a0797a327dceb5c79057e7b")}


@pytest.fixture(scope="module")
def states() -> dict[str, dict[str, torch.Tensor]]:
    heads = {f"fc_{branch}.{part}": torch.empty((7, 512)[:1 + (part == "weight")])
             for branch in (1, 2) for part in ("weight", "bias")}
    return {"posterv2": noisy(PosterV2(7).state_dict()), "manet": noisy(dict(MANet().state_dict()) | heads)}


@pytest.mark.parametrize("name, parameters", [("posterv2", 58_320_000), ("manet", 50_547_214)])
def test_the_entries_are_those_of_the_published_checkpoints(states, real, name, parameters):
    count, digest = TABLES[name]
    dtypes = {"posterv2": str, "manet": lambda dtype: str(dtype).removeprefix("torch.")}[name]
    lines = [f"{entry}\t{tuple(tensor.shape)}\t{dtypes(tensor.dtype)}" for entry, tensor in states[name].items()]
    assert len(lines) == count and keys_digest(lines) == digest
    assert keys_digest((real.parent / "facts" / f"{name}_state_dict.tsv").read_text().splitlines()) == digest
    numbers = sum(tensor.numel() for entry, tensor in states[name].items()
                  if "running" not in entry and "index" not in entry and tensor.ndim)
    assert numbers == pytest.approx(parameters, rel=1e-4)


def test_the_starter_is_timms_network():
    from timm.models.resnet import BasicBlock, ResNet

    torch.manual_seed(0)
    peer = ResNet(BasicBlock, layers=[1, 1, 2, 1], channels=(32, 64, 128, 256), num_classes=0, in_chans=1,
                  stem_type="deep", stem_width=16)
    peer.maxpool = torch.nn.Identity()
    peer.load_state_dict(noisy(peer.state_dict()))
    ours = Body()
    assert ours.state_dict().keys() == peer.state_dict().keys() and not ours.layer2[0].bn2.weight.any()
    ours.load_state_dict(peer.state_dict())
    images = torch.randn(3, 1, 48, 48)
    for mode in (False, True):
        torch.testing.assert_close(ours.train(mode)(images), peer.train(mode)(images), rtol=1e-4, atol=1e-5)


def test_the_embedding_of_poster(states):
    """Numbers of a network that was compared, step by step, with a re-computation in plain tensor arithmetic; trimming
    changes no value and frees a quarter of the weights."""
    network, small = PosterV2(7).eval(), PosterV2(7).eval()
    for each in (network, small):
        each.load_state_dict(states["posterv2"], strict=True)
    small.trimmed()
    trimmed, whole = (sum(weight.numel() for weight in each.parameters()) for each in (small, network))
    assert trimmed < 0.76 * whole
    pictures = torch.randn((2, 3, 224, 224), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        embedding = network(pictures)
        torch.testing.assert_close(small(pictures), embedding, rtol=0, atol=0)
    np.testing.assert_allclose(embedding[0, :4], [0.2238, 0.423, 0.0378, 0.0748], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(embedding[1, -3:], [0.1152, -0.0474, -0.2947], rtol=1e-3, atol=1e-3)
    assert float(embedding.norm()) == pytest.approx(15.8927, rel=1e-3)


def test_a_checkpoint_of_manet_gives_features_and_both_heads_as_one_classifier(states, tmp_path):
    """The numbers are of a network that was compared, step by step, with a re-computation in plain functions."""
    state, path = states["manet"], tmp_path / "manet_rafdb.pth"
    torch.save({"epoch": 3, "state_dict": OrderedDict((f"module.{name}", value) for name, value in state.items()),
                "best_acc": torch.tensor(88.4), "optimizer": {}, "recorder": RecorderMeter()}, path)
    encoder = load("manet", path, classes=class_order("affectnet7"))
    how = encoder.preprocessing
    assert how == preset("manet").preprocessing and (how.mean, how.std, how.rule) == ((0.0,) * 3, (1.0,) * 3, "both")
    pictures = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    features = encoder.encode(pictures)
    np.testing.assert_allclose(features[0, [0, 1, 512, 513]], [0.073473, 0.069141, 0.012294, 0.013258], rtol=1e-3)
    assert np.linalg.norm(features) == pytest.approx(18.8194, rel=1e-3)
    local, of_all = (features[:, 512 * (branch - 1):512 * branch] @ state[f"fc_{branch}.weight"].numpy().T
                     + state[f"fc_{branch}.bias"].numpy() for branch in (1, 2))
    np.testing.assert_allclose(logits_of(encoder, features), 0.6 * local + 0.4 * of_all, rtol=1e-3, atol=1e-3)
    assert encoder.classifier.classes == class_order("affectnet7") and encoder.dim == 1024
