"""POSTER++ against the key table of the published checkpoints and against a plain re-computation of each step."""

import hashlib

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from twofold.extract.encoders.posterv2 import PosterV2

#: SHA-256 over the 747 lines "name<TAB>shape<TAB>dtype" of a published 7-class checkpoint, sorted
KEYS_SHA256 = "d14da1051503155db8edbe9cc4c3bf0c1634fe79fcffa24a6da103a2865e5238"

LANDMARK_STAGES = (  # name, blocks, stride of the first, groups come from the weights
    ("conv_23", 1, 2), ("conv_3", 4, 1), ("conv_34", 1, 2), ("conv_4", 6, 1), ("conv_45", 1, 2), ("conv_5", 2, 1),
)


def noisy(network: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """A state dict in which nothing is at its starting value, norms' statistics and scales included."""
    draw = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in network.state_dict().items():
        normal = torch.randn(tensor.shape, generator=draw)
        if not tensor.is_floating_point():
            state[name] = tensor
        elif name.endswith("running_var"):
            state[name] = 0.5 + torch.rand(tensor.shape, generator=draw)
        elif "gamma" in name or name.endswith("norm.weight") or (tensor.ndim == 1 and name.endswith("weight")):
            state[name] = 0.75 + 0.25 * normal
        elif tensor.ndim >= 2 and name.endswith("weight"):
            state[name] = normal * tensor[0].numel() ** -0.5
        else:
            state[name] = 0.1 * normal
    return state


@pytest.fixture(scope="module")
def network() -> PosterV2:
    network = PosterV2(7).eval()
    network.load_state_dict(noisy(network, 0), strict=True)
    return network


@pytest.fixture(scope="module")
def state(network) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.randn((2, 3, 224, 224), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def seen(network, pictures) -> dict[str, torch.Tensor]:
    """What each step of the network gives, and the embedding under ""."""
    steps: dict[str, torch.Tensor] = {}
    parts = ["face_landback", "ir_back", "VIT.norm", "VIT.se_block"]
    parts += [f"{part}{number}" for part in ("conv", "window", "attn", "ffn") for number in (1, 2, 3)]
    hooks = [network.get_submodule(part).register_forward_hook(
        lambda _module, _inputs, output, part=part: steps.__setitem__(part, output)) for part in parts]
    with torch.no_grad():
        steps[""] = network(pictures)
    for hook in hooks:
        hook.remove()
    return steps


# ----------------------------------------------------------------------- the same steps, in plain tensor arithmetic
def norm2d(state, name, x):
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return (x - mean[:, None, None]) / (var + 1e-5).sqrt()[:, None, None] * weight[:, None, None] + bias[:, None, None]


def layer_norm(state, name, x, eps):
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def prelu(state, name, x):
    return torch.where(x > 0, x, x * state[f"{name}.weight"][:, None, None])


def linear(state, name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def conv(state, name, x, *, stride=1):
    weight = state[f"{name}.weight"]
    groups = x.shape[1] // weight.shape[1]
    return F.conv2d(x, weight, state.get(f"{name}.bias"), stride, weight.shape[-1] // 2, groups=groups)


def conv_block(state, name, x, *, stride=1):
    return prelu(state, f"{name}.prelu", norm2d(state, f"{name}.bn", conv(state, f"{name}.conv", x, stride=stride)))


def depth_wise(state, name, x, *, stride):
    out = conv_block(state, f"{name}.conv_dw", conv_block(state, f"{name}.conv", x), stride=stride)
    return norm2d(state, f"{name}.project.bn", conv(state, f"{name}.project.conv", out))


def landmarks(state, x):
    x = conv_block(state, "face_landback.conv1", x, stride=2)
    x = conv_block(state, "face_landback.conv2_dw", x)
    maps = []
    for stage, blocks, stride in LANDMARK_STAGES:
        if stride == 2:
            x = depth_wise(state, f"face_landback.{stage}", x, stride=2)
            continue
        for block in range(blocks):
            x = x + depth_wise(state, f"face_landback.{stage}.model.{block}", x, stride=1)
        maps.append(x)
    return [*maps[:2], conv_block(state, "face_landback.conv_6_sep", maps[2])]


def image_stages(state, x):
    x = prelu(state, "ir_back.input_layer.2", norm2d(state, "ir_back.input_layer.1",
                                                     conv(state, "ir_back.input_layer.0", x)))
    maps = []
    for stage, units in (("body1", 3), ("body2", 4), ("body3", 14)):
        for unit in range(units):
            name, stride = f"ir_back.{stage}.{unit}", 2 if unit == 0 else 1
            out = conv(state, f"{name}.res_layer.1", norm2d(state, f"{name}.res_layer.0", x))
            out = conv(state, f"{name}.res_layer.3", prelu(state, f"{name}.res_layer.2", out), stride=stride)
            out = norm2d(state, f"{name}.res_layer.4", out)
            if f"{name}.shortcut_layer.0.weight" in state:
                x = norm2d(state, f"{name}.shortcut_layer.1", conv(state, f"{name}.shortcut_layer.0", x, stride=stride))
            else:
                x = x[:, :, ::stride, ::stride]
            x = x + out
        maps.append(x)
    return maps


def attention(state, number, face, tokens, side):
    """Head by head, with the bias looked up cell by cell from its definition."""
    heads = tokens.shape[-1] // 32
    query = face.permute(0, 2, 3, 1).reshape(len(face), side * side, -1)
    keys, values = linear(state, f"attn{number}.qkv", tokens).chunk(2, dim=-1)
    cells = [(row, column) for row in range(side) for column in range(side)]
    width = 2 * side - 1
    index = torch.tensor([[(a - c + side - 1) * width + (b - d + side - 1) for c, d in cells] for a, b in cells])
    mixed = []
    for head in range(heads):
        part = slice(32 * head, 32 * head + 32)
        scores = query[..., part] * 32**-0.5 @ keys[..., part].transpose(1, 2)
        scores = (scores + state[f"attn{number}.relative_position_bias_table"][index, head]).exp()
        mixed.append(scores / scores.sum(-1, keepdim=True) @ values[..., part])
    return linear(state, f"attn{number}.proj", torch.cat(mixed, dim=-1))


def feed_forward(state, number, attended, shortcut):
    name = f"ffn{number}"
    x = shortcut + state[f"{name}.gamma1"] * attended
    hidden = gelu(linear(state, f"{name}.mlp.fc1", layer_norm(state, f"{name}.norm", x, 1e-5)))
    return x + state[f"{name}.gamma2"] * linear(state, f"{name}.mlp.fc2", hidden)


def transformer(state, tokens):
    x = torch.cat([state["VIT.cls_token"].repeat(len(tokens), 1, 1), tokens], dim=1) + state["VIT.pos_embed"]
    for block in ("VIT.blocks.0", "VIT.blocks.1"):
        qkv = linear(state, f"{block}.attn.qkv", layer_norm(state, f"{block}.norm1", x, 1e-6))
        mixed = []
        for head in range(8):
            query, key, value = (part[..., 96 * head:96 * head + 96] for part in qkv.chunk(3, dim=-1))
            mixed.append((query @ key.transpose(1, 2) * 96**-0.5).softmax(-1) @ value)
        x = x + linear(state, f"{block}.attn.proj", torch.cat(mixed, dim=-1))
        hidden = gelu(linear(state, f"{block}.mlp.fc1", layer_norm(state, f"{block}.norm2", x, 1e-6)))
        x = x + linear(state, f"{block}.mlp.fc2", hidden)
    return layer_norm(state, "VIT.norm", x, 1e-6)[:, 0]


def gate(state, x):
    hidden = linear(state, "VIT.se_block.linear1", x).clamp(min=0)
    return x / (1 + (-linear(state, "VIT.se_block.linear2", hidden)).exp())


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


# ------------------------------------------------------------------------------------------------------------ tests
def test_the_network_has_the_entries_of_the_published_checkpoints(network):
    lines = sorted(f"{name}\t{tuple(tensor.shape)}\t{tensor.dtype}" for name, tensor in network.state_dict().items())
    assert len(lines) == 747
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == KEYS_SHA256
    assert round(sum(weight.numel() for weight in network.parameters()) / 1e6, 2) == 58.32


def test_the_golden_number_is_that_of_the_key_table(real):
    lines = (real.parent / "facts" / "posterv2_state_dict.tsv").read_text().splitlines()
    assert hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest() == KEYS_SHA256


def test_both_branches(state, pictures, seen):
    small = pictures[:, :, ::2, ::2]
    for part, expected in (("face_landback", landmarks(state, small)), ("ir_back", image_stages(state, small))):
        for actual, plain in zip(seen[part], expected, strict=True):
            close(actual, plain)
    assert [tuple(x.shape[1:]) for x in seen["face_landback"]] == [(64, 28, 28), (128, 14, 14), (512, 7, 7)]
    assert [tuple(x.shape[1:]) for x in seen["ir_back"]] == [(64, 56, 56), (128, 28, 28), (256, 14, 14)]


@pytest.mark.parametrize("number, side", [(1, 28), (2, 14), (3, 7)])
def test_each_scale(state, seen, number, side):
    face = seen["face_landback"][number - 1]
    face = conv(state, "last_face_conv", face) if number == 3 else face
    picture = conv(state, f"conv{number}", seen["ir_back"][number - 1], stride=2)
    close(seen[f"conv{number}"], picture)
    tokens = layer_norm(state, f"window{number}.norm", picture.permute(0, 2, 3, 1).reshape(2, side * side, -1), 1e-5)
    close(seen[f"window{number}"], tokens)
    attended = attention(state, number, face, tokens, side)
    close(seen[f"attn{number}"], attended)
    close(seen[f"ffn{number}"], feed_forward(state, number, attended, tokens))


def test_the_transformer_and_the_gate(state, seen):
    maps = [seen[f"ffn{number}"].reshape(2, side, side, -1).permute(0, 3, 1, 2)
            for number, side in ((1, 28), (2, 14), (3, 7))]
    embedded = (conv(state, "embed_q.1", conv(state, "embed_q.0", maps[0], stride=2), stride=2),
                conv(state, "embed_k.0", maps[1], stride=2), conv(state, "embed_v.proj", maps[2]))
    expected = transformer(state, torch.cat([x.reshape(2, 768, 49).permute(0, 2, 1) for x in embedded], dim=1))
    close(seen["VIT.norm"], expected)
    close(seen["VIT.se_block"], gate(state, expected))
    torch.testing.assert_close(seen[""], seen["VIT.se_block"])


def test_every_used_weight_changes_the_embedding_and_no_other(network, pictures, seen):
    """Zeroing an entry changes the embedding exactly if `trimmed` keeps it: nothing useful is dropped, nothing kept."""
    kept = set(PosterV2(7).trimmed().state_dict())
    x = F.interpolate(pictures[:1], size=112).repeat_interleave(2, 2).repeat_interleave(2, 3)  # the same 112 pixels
    probes = ["VIT.cls_token", "VIT.se_block.linear1.bias", "attn2.relative_position_bias_table", "last_face_conv.bias",
              "ir_back.body3.13.res_layer.4.weight", "face_landback.conv_5.model.1.project.bn.bias", "embed_q.1.bias",
              "VIT.CON1.weight", "VIT.patch_embed.proj.bias", "VIT.IRLinear1.bias", "VIT.IRLinear2.weight",
              "VIT.eca_block.conv.weight", "VIT.blocks.1.conv.bias", "ir_back.output_layer.3.weight",
              "face_landback.output_layer.linear.weight"]
    with torch.no_grad():
        before = network(x)
        for name in probes:
            tensor = network.get_parameter(name)
            saved = tensor.clone()
            tensor.zero_()
            changed = not torch.equal(network(x), before)
            tensor.copy_(saved)
            assert changed == (name in kept), name


def test_trimming_changes_no_value_and_frees_a_quarter(network, pictures, seen, state):
    small = PosterV2(7).eval()
    small.load_state_dict(state)
    before = sum(weight.numel() for weight in small.parameters())
    small.trimmed()
    assert sum(weight.numel() for weight in small.parameters()) < 0.76 * before
    with torch.no_grad():
        np.testing.assert_array_equal(small(pictures).numpy(), seen[""].numpy())


def test_eight_classes_change_the_head_alone():
    seven, eight = PosterV2(7).state_dict(), PosterV2(8).state_dict()
    assert [name for name in seven if seven[name].shape != eight[name].shape] == \
        ["VIT.head.linear.weight", "VIT.head.linear.bias"]
