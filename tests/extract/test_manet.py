"""MA-Net against the key table of its checkpoints, and the values of its embedding."""

import hashlib
from collections import OrderedDict

import numpy as np
import pytest
import torch

from tests.extract.encoders import load
from tests.extract.encoders import logits as logits_of
from twofold.extract.encoders.classifier import class_order
from twofold.extract.encoders.manet import MANet
from twofold.extract.encoders.presets import preset

#: SHA-256 over the 692 lines "name<TAB>shape<TAB>dtype" of a checkpoint with two 7-way heads, sorted
KEYS_SHA256 = "d146ea0d678886a73a0b3ad04a82833e3b9647186a0797a327dceb5c79057e7b"

GOLDEN = (0.073473, 0.069141, 0.012294, 0.013258, 18.8194)  #: four features and the length of all


class RecorderMeter:
    """As in the training script: pickled by name beside the weights."""

    def __init__(self) -> None:
        self.epoch_losses = np.zeros((100, 2), np.float32)


RecorderMeter.__module__ = "__main__"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """All 692 entries, none at its starting value."""
    draw = torch.Generator().manual_seed(0)
    shapes = dict(MANet().state_dict())
    shapes |= {f"fc_{branch}.{part}": torch.empty((7, 512)[:1 + (part == "weight")])
               for branch in (1, 2) for part in ("weight", "bias")}
    entries = {}
    for name, tensor in shapes.items():
        normal = torch.randn(tensor.shape, generator=draw)
        if not tensor.is_floating_point():
            entries[name] = tensor
        elif name.endswith("running_var"):
            entries[name] = 0.5 + torch.rand(tensor.shape, generator=draw)
        elif tensor.ndim == 1 and name.endswith("weight"):
            entries[name] = 0.75 + 0.25 * normal
        elif tensor.ndim >= 2:
            entries[name] = normal * tensor[0].numel() ** -0.5
        else:
            entries[name] = 0.1 * normal
    return entries


@pytest.fixture(scope="module")
def file(state, tmp_path_factory):
    """As the training script saves it."""
    import sys

    sys.modules["__main__"].RecorderMeter = RecorderMeter
    path = tmp_path_factory.mktemp("manet") / "manet_rafdb.pth"
    torch.save({"epoch": 3, "state_dict": OrderedDict((f"module.{name}", value) for name, value in state.items()),
                "best_acc": torch.tensor(88.4), "optimizer": {}, "recorder": RecorderMeter()}, path)
    del sys.modules["__main__"].RecorderMeter
    return path


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


# ----------------------------------------------------------------------------------------------------------- tests
def test_the_entries_are_those_of_the_published_checkpoints(state):
    lines = sorted(f"{name}\t{tuple(tensor.shape)}\t{str(tensor.dtype).removeprefix('torch.')}"
                   for name, tensor in state.items())
    assert len(lines) == 692 and hashlib.sha256("\n".join(lines).encode()).hexdigest() == KEYS_SHA256
    assert sum(tensor.numel() for name, tensor in state.items() if "running" not in name and tensor.ndim) == 50_547_214


def test_the_table_of_keys_is_the_one_in_the_facts(real):
    lines = (real.parent / "facts" / "manet_state_dict.tsv").read_text().splitlines()
    assert hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest() == KEYS_SHA256


def test_a_checkpoint_gives_features_and_both_heads_as_one_classifier(state, file, pictures):
    """The numbers are of a network that was compared, step by step, with a re-computation in plain functions."""
    encoder = load("manet", file, classes=class_order("affectnet7"))
    how = encoder.preprocessing
    assert how == preset("manet").preprocessing and (how.mean, how.std, how.rule) == ((0.0,) * 3, (1.0,) * 3, "both")
    features = encoder.encode(pictures)
    np.testing.assert_allclose(features[0, [0, 1, 512, 513]], GOLDEN[:4], rtol=1e-3)
    assert np.linalg.norm(features) == pytest.approx(GOLDEN[4], rel=1e-3)
    local, of_all = (features[:, 512 * (branch - 1):512 * branch] @ state[f"fc_{branch}.weight"].numpy().T
                     + state[f"fc_{branch}.bias"].numpy() for branch in (1, 2))
    np.testing.assert_allclose(logits_of(encoder, features), 0.6 * local + 0.4 * of_all, rtol=1e-3, atol=1e-3)
    assert encoder.classifier.classes == class_order("affectnet7") and encoder.dim == 1024
