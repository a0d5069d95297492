"""Presets of vision transformers against timm's own tables, on the meta device, and of ONNX models on small ones."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.extract.encoders import noisy, save_onnx
from twofold.data.utils.errors import InputError
from twofold.extract.encoders import registry
from twofold.extract.encoders.presets import clip_entries, find_preset, preset, published_weights
from twofold.extract.encoders.registry import build, check_fit, load_encoder
from twofold.extract.streams import MatchingEncoders, parse_streams
from twofold.extract.weights.load import check_shapes, resample_position_embeddings
from twofold.extract.weights.read import Checkpoint

timm = pytest.importorskip("timm")
#: preset to what timm calls the published weights, and to what its file may hold besides: another one's pooling
VITS = {"clip_b16": ("vit_base_patch16_clip_quickgelu_224.openai", ""),
        "siglip2_b16": ("vit_base_patch16_siglip_gap_256.v2_webli", "vit_base_patch16_siglip_256"),
        "dinov2_b14": ("vit_base_patch14_dinov2.lvd142m", ""),
        "dinov3_b16": ("vit_base_patch16_dinov3.lvd1689m", "")}


def table(name: str, pooling: str = "") -> dict[str, torch.Tensor]:
    """Names and shapes of timm's weights file."""
    with torch.device("meta"):
        whole = dict(timm.create_model(name).state_dict())
        other = timm.create_model(pooling).state_dict() if pooling else {}
    return whole | {key: value for key, value in other.items() if key.startswith("attn_pool.")}


def clip_table(width: int, blocks: int, tokens: int, patch: int) -> dict[str, torch.Size]:
    """Names and shapes of `visual` in openai/CLIP's model.py, class VisionTransformer, and some of its text tower."""
    shapes = {"class_embedding": (width,), "positional_embedding": (tokens, width), "proj": (width, 512),
              "conv1.weight": (width, 3, patch, patch), "ln_pre.weight": (width,), "ln_pre.bias": (width,),
              "ln_post.weight": (width,), "ln_post.bias": (width,)}
    for block in range(blocks):
        part = {"attn.in_proj_weight": (3 * width, width), "attn.in_proj_bias": (3 * width,),
                "attn.out_proj.weight": (width, width), "attn.out_proj.bias": (width,),
                "mlp.c_fc.weight": (4 * width, width), "mlp.c_fc.bias": (4 * width,),
                "mlp.c_proj.weight": (width, 4 * width), "mlp.c_proj.bias": (width,)}
        part |= {f"ln_{n}.{kind}": (width,) for n in (1, 2) for kind in ("weight", "bias")}
        shapes |= {f"transformer.resblocks.{block}.{name}": shape for name, shape in part.items()}
    return {f"visual.{name}": torch.Size(shape) for name, shape in shapes.items()} | {
        "logit_scale": torch.Size(()), "positional_embedding": torch.Size((77, 512)),
        "transformer.resblocks.0.ln_1.weight": torch.Size((512,))}


def check(name: str, tensors: dict[str, torch.Tensor]):
    """The network of a preset, once the tensors are exactly its weights, by names and shapes."""
    checkpoint = Checkpoint(path=Path("file.pth"), format="safetensors", tensors=tensors)
    with torch.device("meta"):
        built = build(name, checkpoint=checkpoint)
        tensors = dict(built.entries or tensors)
        said = ""
        if built.resized:
            tensors, said = resample_position_embeddings(built.network, tensors)
    check_shapes(built.network, replace(checkpoint, tensors=tensors), heads=built.heads)
    return built, said


@pytest.mark.parametrize("name", VITS)
def test_a_vision_transformer_loads_what_timm_publishes_strictly(name):
    theirs, other = VITS[name]
    known, config, tensors = preset(name), timm.get_pretrained_cfg(theirs), table(theirs, other)
    built, said = check(name, tensors)
    assert ("37 x 37 to 16 x 16" in said) == (name == "dinov2_b14") and (not said) == (name != "dinov2_b14")
    side = known.preprocessing.size
    with torch.device("meta"):
        features = built.network.eval()(torch.empty(2, 3, side, side))
    assert features.shape == (2, known.dim) and built.classifier({}, dim=known.dim) is None
    assert published_weights(name).hub == config.hf_hub_id and known.hub in known.page
    assert (known.preprocessing.mean, known.preprocessing.std) == (config.mean, config.std)
    assert known.preprocessing.interpolation == config.interpolation
    assert known.licence.lower().split()[0][:6] in (config.license.lower()[:6], "mit")
    pooled = {"avg": "mean of patch tokens", "token": "class token"}[built.network.global_pool]
    assert known.tap.startswith(pooled) and isinstance(built.network.fc_norm, torch.nn.Identity)
    kept = next(key for key in tensors if "blocks.11." in key)
    for wrong, sentence in (({key: value for key, value in tensors.items() if key != kept}, f"1 missing .{kept}"),
                            (tensors | {"fc.weight": tensors[kept]}, "1 unexpected .fc.weight"),
                            (tensors | {kept: tensors[kept][:5]}, "1 mis-shaped")):
        with pytest.raises(InputError, match=sentence):
            check(name, wrong)
    with pytest.raises(InputError, match=r"does not take faces of 100 pixels: its patches have 1[46]"):
        build(f"{name}?size=100", checkpoint=None)


def test_farl_is_the_visual_tower_of_a_clip(monkeypatch):
    """The whole file, as its authors load it into openai/CLIP, into a network with quick GELU; nothing may lack."""
    tensors = {name: torch.empty(shape, device="meta") for name, shape in clip_table(768, 12, 197, 16).items()}
    built, said = check("farl", tensors)
    assert not said and built.network.norm_pre.eps == 1e-5
    assert type(built.network.blocks[0].mlp.act).__name__ == "QuickGELU" and built.network.global_pool == "token"
    with pytest.raises(InputError, match=r"1 missing .blocks.7.attn.qkv.bias"):
        check("farl", {name: tensor for name, tensor in tensors.items() if "blocks.7.attn.in_proj_b" not in name})
    with pytest.raises(InputError, match=r"1 unexpected .ln_mid.weight"):
        check("farl", tensors | {"visual.ln_mid.weight": torch.empty(768, device="meta")})
    monkeypatch.setattr(registry, "read_checkpoint", lambda path, entry: Checkpoint(
        path=path, format="torch", tensors=tensors))
    check_fit("farl", Path("farl.pth"))
    with pytest.raises(InputError, match="not the weights of this network"):
        check_fit("vit_mae", Path("farl.pth"))


def test_clips_names_become_what_timm_makes_of_them():
    """Values, too: timm's own conversion of a small tower is the oracle."""
    from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

    shapes = {name: torch.empty(shape) for name, shape in clip_table(8, 2, 5, 4).items()}
    tensors = noisy(shapes)
    network = VisionTransformer(img_size=8, patch_size=4, embed_dim=8, depth=2, num_heads=2, pre_norm=True,
                                num_classes=512)
    visual = {name: tensor for name, tensor in tensors.items() if name.startswith("visual.")}
    theirs = {name: tensor for name, tensor in checkpoint_filter_fn(visual, network).items()
              if not name.startswith("head.")}
    ours = clip_entries(tensors)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    alone = {name.removeprefix("visual."): tensor for name, tensor in visual.items()}
    assert clip_entries(alone).keys() == ours.keys() and clip_entries(theirs) is None


@pytest.fixture
def emotieff(tmp_path, monkeypatch) -> Path:
    """A weights folder with a small model, means of columns and a linear layer to eight classes, named as B0."""
    pytest.importorskip("onnx")
    monkeypatch.setenv("TWOFOLD_WEIGHTS", str(tmp_path))
    weight = np.random.default_rng(0).standard_normal((672, 8)).astype(np.float32)
    nodes = [("ReduceMean", "pixels axes", "means", {"keepdims": 0}), ("Flatten", "means", "flat", None),
             ("Gemm", "flat weight bias", "logits", None)]
    return save_onnx(tmp_path / "enet_b0_8_best_vgaf.onnx", nodes, {
        "axes": np.array((2,), np.int64), "weight": weight, "bias": np.zeros(8, np.float32)},
        shape=["n", 3, 224, 224], outputs=("logits",))


def test_a_preset_may_be_an_onnx_model_and_says_its_classes(emotieff):
    known, encoder = preset("emotieff_b0"), load_encoder("emotieff_b0", precision="bf16", device="cpu")
    assert (encoder.name, encoder.dim, encoder.precision) == (f"onnx:{emotieff.stem}", 672, "fp32")
    assert encoder.preprocessing == known.preprocessing and encoder.tap == "flat"
    assert encoder.classifier.classes == ("anger", "contempt", "disgust", "fear", "happiness", "neutral", "sadness",
                                          "surprise")
    streams = parse_streams(["emotieff_b0"], precision="bf16")
    recipe = streams[0].recipe(load_encoder("emotieff_b0", device="cpu"))
    found = MatchingEncoders([recipe], device="cpu").find(0)[1]  # as `predict` does, from the weights folder
    assert found.preprocessing == known.preprocessing and found.weights == encoder.weights
    with pytest.raises(InputError, match=r"no weights for emotieff_b2: .*enet_b2_8.onnx"):
        load_encoder("emotieff_b2", device="cpu")
    with pytest.raises(InputError, match="emotieff_b0 is an ONNX model"):
        build("emotieff_b0", checkpoint=None)
    other = find_preset("emotieff_b2")
    assert other.preprocessing.size == 260 and other.url.endswith("/onnx/enet_b2_8.onnx") and other.dim == 1408
