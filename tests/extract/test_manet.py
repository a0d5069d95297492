"""MA-Net against the key table of its checkpoints and against a plain re-computation of each step."""

import hashlib
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from twofold.extract.encoders.classifier import class_order
from twofold.extract.encoders.manet import MANet
from twofold.extract.encoders.presets import preset
from twofold.extract.encoders.registry import load_encoder

#: SHA-256 over the 692 lines "name<TAB>shape<TAB>dtype" of a checkpoint with two 7-way heads, sorted
KEYS_SHA256 = "d146ea0d678886a73a0b3ad04a82833e3b9647186a0797a327dceb5c79057e7b"


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


# ------------------------------------------------------------------------------- the same steps, in plain functions
def norm(state, name, x):
    return F.batch_norm(x, state[f"{name}.running_mean"], state[f"{name}.running_var"], state[f"{name}.weight"],
                        state[f"{name}.bias"], training=False, eps=1e-5)


def conv(state, name, x, *, stride=1):
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)


def shortcut(state, block, x, stride):
    if f"{block}.downsample.0.weight" not in state:
        return x
    return norm(state, f"{block}.downsample.1", conv(state, f"{block}.downsample.0", x, stride=stride))


def plain_block(state, name, x, stride):
    out = norm(state, f"{name}.bn1", conv(state, f"{name}.conv1", x, stride=stride)).clamp(min=0)
    out = norm(state, f"{name}.bn2", conv(state, f"{name}.conv2", out))
    if f"{name}.cbam.ChannelGate.mlp.1.weight" in state:
        out = gates(state, f"{name}.cbam", out)
    return (out + shortcut(state, name, x, stride)).clamp(min=0)


def gates(state, name, x):
    def mlp(pooled):
        inner, outer = f"{name}.ChannelGate.mlp.1", f"{name}.ChannelGate.mlp.3"
        hidden = (pooled @ state[f"{inner}.weight"].T + state[f"{inner}.bias"]).clamp(min=0)
        return hidden @ state[f"{outer}.weight"].T + state[f"{outer}.bias"]

    batch, channels = x.shape[:2]
    flat = x.reshape(batch, channels, -1)
    channel = 1 / (1 + torch.exp(-(mlp(flat.sum(2) / flat.shape[2]) + mlp(flat.max(2).values))))
    x = x * channel.reshape(batch, channels, 1, 1)
    summary = torch.stack([x.max(1).values, x.sum(1) / channels], dim=1)
    place = norm(state, f"{name}.SpatialGate.spatial.bn", conv(state, f"{name}.SpatialGate.spatial.conv", summary))
    return x / (1 + torch.exp(-place))


def multi_scale_block(state, name, x, stride):
    out = norm(state, f"{name}.bn1", conv(state, f"{name}.conv1", x, stride=stride)).clamp(min=0)
    width = out.shape[1] // 4
    total = shortcut(state, name, x, stride)
    for chain in (1, 2):
        pieces, before = [], None
        for group in (1, 2, 3, 4):
            piece = out[:, (group - 1) * width:group * width]
            piece = piece if before is None else before.clamp(min=0) + piece
            before = norm(state, f"{name}.bn{chain}_2_{group}", conv(state, f"{name}.conv{chain}_2_{group}", piece))
            pieces.append(before)
        total = total + torch.cat(pieces, dim=1)
    return total.clamp(min=0)


def stage(state, name, x, stride, block):
    return block(state, f"{name}.1", block(state, f"{name}.0", x, stride), 1)


def plain_manet(state, x):
    """Every step by name, as section 7 of the facts has them: (B, 3, 224, 224) to the maps and the embedding."""
    steps = {}
    x = F.max_pool2d(norm(state, "bn1", conv(state, "conv1", x, stride=2)).clamp(min=0), 3, 2, 1)
    x = steps["layer1"] = stage(state, "layer1", x, 1, plain_block)
    x = steps["layer2"] = stage(state, "layer2", x, 2, plain_block)
    whole = torch.zeros((len(x), 512, 14, 14))
    for quarter, (top, left) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1)), start=1):
        part = x[:, :, 14 * top:14 * top + 14, 14 * left:14 * left + 14]
        part = steps[f"layer3_1_p{quarter}"] = stage(state, f"layer3_1_p{quarter}", part, 2, plain_block)
        part = steps[f"layer4_1_p{quarter}"] = stage(state, f"layer4_1_p{quarter}", part, 1, plain_block)
        whole[:, :, 7 * top:7 * top + 7, 7 * left:7 * left + 7] = part
    x = steps["layer3_2"] = stage(state, "layer3_2", x, 2, multi_scale_block)
    x = steps["layer4_2"] = stage(state, "layer4_2", x, 2, multi_scale_block)
    steps[""] = torch.cat([whole.mean((2, 3)), x.mean((2, 3))], dim=1)
    return steps


# ----------------------------------------------------------------------------------------------------------- tests
def test_the_entries_are_those_of_the_published_checkpoints(state):
    lines = sorted(f"{name}\t{tuple(tensor.shape)}\t{str(tensor.dtype).removeprefix('torch.')}"
                   for name, tensor in state.items())
    assert len(lines) == 692 and hashlib.sha256("\n".join(lines).encode()).hexdigest() == KEYS_SHA256
    assert sum(tensor.numel() for name, tensor in state.items() if "running" not in name and tensor.ndim) == 50_547_214


def test_the_table_of_keys_is_the_one_in_the_facts(real):
    lines = (real.parent / "facts" / "manet_state_dict.tsv").read_text().splitlines()
    assert hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest() == KEYS_SHA256


def test_each_step_is_what_plain_functions_give(state, pictures):
    network = MANet().eval()
    network.load_state_dict({name: value for name, value in state.items() if not name.startswith("fc_")})
    steps: dict[str, torch.Tensor] = {}
    names = ["layer1", "layer2", "layer3_2", "layer4_2", *(f"layer{n}_1_p{q}" for n in (3, 4) for q in (1, 2, 3, 4))]
    for name in names:
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: steps.__setitem__(name, output.clone()))
    x = pictures.permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        steps[""] = network(x)
        plain = plain_manet(state, x)
    assert set(plain) == set(steps) and steps[""].shape == (2, 1024)
    for name, expected in plain.items():
        error = (steps[name] - expected).abs().max() / expected.abs().max()
        assert error < 1e-4, (name, error)
    assert [tuple(steps[name].shape[1:]) for name in ("layer2", "layer3_1_p1", "layer4_1_p4", "layer4_2")] == \
        [(128, 28, 28), (256, 7, 7), (512, 7, 7), (512, 7, 7)]


def test_a_checkpoint_gives_features_and_both_heads_as_one_classifier(state, file, pictures):
    encoder = load_encoder("manet", weights=str(file), device="cpu", precision="fp32",
                           classes=class_order("affectnet7"))
    how = encoder.preprocessing
    assert how == preset("manet").preprocessing and (how.mean, how.std, how.rule) == ((0.0,) * 3, (1.0,) * 3, "both")
    with torch.no_grad():
        features = plain_manet(state, pictures.permute(0, 3, 1, 2) / 255)[""]
        local, of_all = (features[:, 512 * (branch - 1):512 * branch] @ state[f"fc_{branch}.weight"].T
                         + state[f"fc_{branch}.bias"] for branch in (1, 2))
    ours = encoder.encode(pictures)
    np.testing.assert_allclose(ours, features, rtol=1e-3, atol=1e-4 * float(features.abs().max()))
    logits = 0.6 * local + 0.4 * of_all
    close = 1e-3 * float(logits.abs().max())
    np.testing.assert_allclose(encoder.classifier.logits(ours), logits, rtol=1e-3, atol=close)
    assert encoder.classifier.classes == class_order("affectnet7") and encoder.dim == 1024


def test_a_file_that_lacks_an_entry_is_refused(state, tmp_path):
    from twofold.data.utils.errors import InputError

    broken = {name: value for name, value in state.items() if name != "layer4_2.1.bn2_2_4.running_mean"}
    torch.save({"state_dict": broken}, tmp_path / "broken.pth")
    with pytest.raises(InputError, match=r"1 missing \(layer4_2\.1\.bn2_2_4\.running_mean\); .* like MA-Net with 7"):
        load_encoder("manet", weights=str(tmp_path / "broken.pth"), device="cpu", precision="fp32")
