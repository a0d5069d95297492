"""Low-rank adapters: merged weights are the adapted network, nothing else changes; checkpointing; --dry-run."""

import copy
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from twofold.data.utils.errors import InputError
from twofold.extract.finetune.estimate import Estimate
from twofold.extract.finetune.finetune import finetune
from twofold.extract.finetune.lora import merge_adapters

VIT = {"backbone": "timm:test_vit", "lr": 0.01}


@pytest.mark.parametrize("copied", [False, True])  # as the average of the weights is a copy
def test_merged_weights_equal_adapters_on_top(loop_of, copied):
    model = loop_of(train="lora:4", **VIT).model.eval()
    encoder, images = model.encoder, torch.rand(3, 3, 48, 48)
    frozen = encoder(images)
    layer = encoder.blocks[1].attn.qkv
    weight = layer.weight.detach().clone()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in encoder.named_parameters():
        assert parameter.requires_grad == (".adapter." in name)
        if name.endswith("adapter.up"):
            parameter.data.normal_(generator=generator)
    if copied:
        encoder = copy.deepcopy(encoder)
        for name, parameter in model.encoder.named_parameters():
            if name.endswith("adapter.up"):
                parameter.data.zero_()
        layer = encoder.blocks[1].attn.qkv
    adapted = encoder(images)
    plain = weight + layer.adapter.up @ layer.adapter.down
    merge_adapters(encoder)
    torch.testing.assert_close(layer.weight, plain)
    torch.testing.assert_close(encoder(images), adapted, rtol=1e-5, atol=1e-5)
    assert (adapted - frozen).abs().max() > 0.1
    if copied:
        torch.testing.assert_close(model.encoder(images), frozen)


@pytest.mark.parametrize("further", [{}, {"ema": 0.5}])
def test_what_it_writes_is_a_usual_file_of_which_linear_layers_alone_have_changed(request_for, further):
    start = load_file(finetune(request_for("start.safetensors", train="head", **VIT)).request.out)
    report = finetune(request_for("tuned.safetensors", train="lora:4", **VIT, **further))
    assert all(name.startswith("heads.") or ".adapter." in name for name in report.progress.best)
    tuned = load_file(report.request.out)
    assert start.keys() == tuned.keys()
    changed = {name for name in start if not np.array_equal(start[name], tuned[name])}
    linear = {name for name in start if re.search(r"blocks.*(qkv|proj|fc[12])\.weight", name)}
    assert {name for name in changed if not name.startswith("twofold.")} == linear
    difference = tuned["blocks.0.mlp.fc1.weight"] - start["blocks.0.mlp.fc1.weight"]
    assert np.linalg.matrix_rank(difference, tol=1e-5) == 4


def test_checkpointing_changes_no_value_and_asks_for_freed_memory(request_for, monkeypatch):
    asked = []
    monkeypatch.setattr("twofold.extract.finetune.finetune.set_allocator",
                        lambda *, keep_freed: asked.append(keep_freed))
    usual, anew = (load_file(finetune(request_for(f"{on}.safetensors", checkpointing=on, drop_path=0.1, epochs=1,
                                                  **VIT)).request.out) for on in (False, True))
    assert all(np.array_equal(usual[name], anew[name]) for name in usual) and asked == [True, False]


def test_a_dry_run_says_parameters_and_memory(request_for):
    found = {}
    for name, chosen in {"all": {}, "lora": {"train": "lora:2"}, "anew": {"checkpointing": True},
                         "small": {"accumulate": 8}}.items():
        request = replace(request_for(backbone="timm:test_vit", batch_size=64, **chosen), dry=True)
        found[name] = finetune(request)
        assert isinstance(found[name], Estimate) and not list(request.out.parent.glob("*.safetensors"))
    every, lora = found["all"], found["lora"]
    assert every.trained == every.parameters and lora.parameters - lora.trained == every.parameters - 7 * 65
    assert found["anew"].memory < 0.8 * every.memory and found["small"].memory < 0.4 * every.memory
    assert every.whole == 16 * every.parameters and lora.whole == 4 * lora.parameters + 12 * lora.trained
    assert f"{lora.parameters:,} parameters, {lora.trained:,} of them trained" in lora.text()


@pytest.mark.parametrize(("chosen", "message"), [
    ({"train": "lora:0"}, "lora:RANK with a number from 1"),
    ({"train": "lora:65", "backbone": "timm:test_vit"}, "the thinnest layer of timm:test_vit has 64 channels"),
    ({"train": "lora:2", "backbone": "timm:test_resnet"}, "has no linear layers"),
    ({"checkpointing": True, "backbone": "timm:test_resnet"}, "use --frozen-norms"),
    ({"checkpointing": True, "frozen_norms": True, "backbone": "torchvision:mobilenet_v3_small"}, "cannot compute"),
])
def test_what_cannot_be_adapted(request_for, chosen, message):
    with pytest.raises(InputError, match=message):
        finetune(request_for(**chosen))
