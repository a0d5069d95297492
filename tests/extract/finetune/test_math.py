"""One step, the learning rates, the layers and the groups against plain formulas."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from twofold.data.utils.errors import InputError
from twofold.extract.encoders.registry import build
from twofold.extract.finetune.data import Images
from twofold.extract.finetune.finetune import finetune
from twofold.extract.finetune.model import (
    Classifier,
    build_optimizer,
    freeze,
    initial_model,
    layers_of,
    learning_rate,
)
from twofold.extract.finetune.settings import PRESETS, resolve
from twofold.extract.finetune.targets import accuracy_and_f1

PLAIN = {"flip": 0.0, "shift": 0.0, "rotate": 0.0, "crop": 1.0, "jitter": 0.0}


@pytest.mark.parametrize("accumulate, smoothing", [(1, 0.1), (4, 0.1), (1, 0.0)])
def test_loss_and_gradients_of_a_step_equal_a_plain_loop(loop_of, accumulate, smoothing):
    loop = loop_of(target="both", label_smoothing=smoothing, class_weights=0.5, accumulate=accumulate,
                   backbone="timm:test_vit", **PLAIN)
    training, model = loop, loop.model
    plain = copy.deepcopy(model).train()
    batch = loop.order(0)[:16]
    loss = loop.backward(batch)
    images = training.images.read(batch).permute(0, 3, 1, 2).float()
    logits = plain(training.images.preprocessing.normalize(images)).split(training.loss.widths, 1)
    expected = torch.zeros(())
    for block, target in zip(logits, training.splits.targets.values(), strict=True):
        truth, weight = torch.from_numpy(target.labels[batch]), target.class_weights
        block, truth = block[truth >= 0], truth[truth >= 0]
        each = nn.functional.cross_entropy(block, truth, label_smoothing=smoothing, reduction="none")
        expected = expected + (each * weight[truth]).sum() / weight[truth].sum()
        if not smoothing:
            torch.testing.assert_close((each * weight[truth]).sum() / weight[truth].sum(),
                                       nn.functional.cross_entropy(block, truth, weight))
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_images_that_do_not_fit_in_memory_are_decoded_whenever_they_are_read(loop_of):
    cached = loop_of(target="basic").images
    rows = np.array(list(cached.sha256))[[5, 0, 3]]
    decoded = Images(cached.keys, rows, cached.roots, cached.preprocessing, memory=0, progress=False)
    assert torch.equal(decoded.read(rows), cached.read(rows)) and decoded.sha256.keys() == set(rows)


def test_warm_up_and_cosine_equal_the_formulas():
    settings = resolve(preset="unified", chosen={"batch_size": 512})
    full, least = 5e-4 * 512 / 256, 1e-6
    for epoch in np.linspace(0, 100, 41):
        expected = full * epoch / 5 if epoch < 5 else least + (full - least) * 0.5 * (
            1 + math.cos(math.pi * (epoch - 5) / 95))
        assert learning_rate(settings, float(epoch), []) == pytest.approx(expected)


def test_steps_and_plateaus():
    steps = resolve(preset="quick", chosen={"schedule": "step", "warmup": 0.0, "lr": 0.01})
    rates = [learning_rate(steps, epoch, []) for epoch in (0, 14.9, 15, 30)]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.0001])
    plateau = resolve(preset="quick", chosen={"schedule": "plateau", "warmup": 0.0, "lr": 0.01, "lr_factor": 0.5,
                                              "patience": 2, "min_lr": 0.004})
    rates = [learning_rate(plateau, len(scores), scores) for scores in
             ([0.5], [0.5, 0.4, 0.5], [0.5, 0.4, 0.5, 0.3], [0.5] * 7, [0.5, 0.6, 0.6, 0.6])]
    assert rates == pytest.approx([0.01, 0.01, 0.005, 0.004, 0.01])


def test_layer_decay_gives_each_block_its_rate():
    import timm

    model = Classifier(timm.create_model("test_vit", num_classes=0), 64, {"basic": 7})
    settings = resolve(preset="quick", chosen={"layer_decay": 0.65, "weight_decay": 0.05})
    groups = build_optimizer(model, settings).param_groups
    scale = {id(parameter): (group["lr_scale"], group["weight_decay"]) for group in groups
             for parameter in group["params"]}
    depth = len(model.encoder.blocks)
    for name, parameter in model.named_parameters():
        place = name.removeprefix("encoder.")
        whole = {"heads": depth + 1, "norm": depth}  # timm counts the last norm to the last block
        part, number = place.split(".")[0], place.split(".")[1:2]
        layer = int(number[0]) + 1 if part == "blocks" else whole.get(part, 0)
        lr, decay = scale[id(parameter)]
        assert lr == pytest.approx(0.65 ** (depth + 1 - layer)), name
        none = parameter.ndim <= 1 or "pos_embed" in name or "cls_token" in name
        assert decay == (0.0 if none else 0.05), name


def test_the_fused_optimiser_takes_the_same_steps():
    settings, weights = resolve(preset="quick", chosen={}), []
    for fused in (False, True):
        torch.manual_seed(0)
        model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(12, 8)), 8, {"basic": 7})
        optimizer = build_optimizer(model, settings, fused=fused)
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.arange(24.0).reshape(2, 3, 2, 2)).square().sum().backward()
            optimizer.step()
        weights.append(model.heads["basic"].weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-7)


def test_last_layers_and_head_alone_learn():
    from torchvision.models import mobilenet_v3_small

    network = mobilenet_v3_small(weights=None)
    network.classifier = nn.Sequential()
    model = Classifier(network, 576, {"basic": 7})
    count = 1 + max(place for name, place in layers_of(model).items() if name.startswith("encoder."))
    freeze(model, "last:2")
    learning = {name.split(".")[2] for name, each in model.named_parameters()
                if each.requires_grad and name.startswith("encoder.")}
    assert learning == {"11", "12"} and count == 13
    freeze(model, "head")
    assert {name.split(".")[0] for name, each in model.named_parameters() if each.requires_grad} == {"heads"}
    with pytest.raises(InputError, match="has 13 layers"):
        freeze(model, "last:14")


def test_a_frozen_encoder_stays_as_it_was(request_for):
    from safetensors.numpy import load_file

    first = load_file(finetune(request_for("a.safetensors", train="head", epochs=1)).request.out)
    second = load_file(finetune(request_for("b.safetensors", train="head", epochs=2)).request.out)
    encoder = [name for name in first if not name.startswith("twofold.")]
    assert all(np.array_equal(first[name], second[name]) for name in encoder)


def test_scores_equal_scikit_learn(draw):
    from sklearn.metrics import accuracy_score, f1_score

    truth, prediction = draw.integers(0, 5, 200), draw.integers(0, 5, 200)
    theirs = accuracy_score(truth, prediction), f1_score(truth, prediction, average="macro")
    assert accuracy_and_f1(truth, prediction, 5) == pytest.approx(theirs)


def test_presets_are_the_authors_settings():
    common = {"optimizer": "adamw", "lr_batch": 256, "weight_decay": 0.05, "erasing": 0.25, "mixup": 0.8, "cutmix": 1.0,
              "rand_augment": "rand-m9-mstd0.5-inc1", "label_smoothing": 0.1, "warmup": 5.0, "schedule": "cosine",
              "min_lr": 1e-6, "epochs": 100}
    own = {"unified": {"lr": 5e-4, "layer_decay": 0.65, "drop_path": 0.1, "target": "basic", "classes": "basic8"},
           "compound": {"lr": 1e-3, "layer_decay": 0.75, "drop_path": 0.2, "batch_size": 64, "target": "compound",
                        "classes": "cexpr7"}}
    for name, facts in own.items():
        settings = resolve(preset=name, chosen={})
        assert {key: getattr(settings, key) for key in common | facts} == common | facts
    paper = resolve(preset="paper", chosen={})
    assert (paper.optimizer, paper.lr, paper.batch_size, paper.epochs) == ("adam", 5e-5, 128, 100)
    assert set(PRESETS) == {"quick", "unified", "compound", "paper"}


@pytest.mark.parametrize("rate", [0.1, 0.2])
def test_it_grows_with_depth_as_in_mae(rate):
    blocks = build("vit_mae", checkpoint=None, drop_path=rate).network.blocks
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([rate * number / 11 for number in range(12)])


def test_a_network_without_paths_refuses_it(tmp_path):
    with pytest.raises(InputError, match="torchvision:mobilenet_v2 has no paths to drop"):
        initial_model("torchvision:mobilenet_v2", weights="random:0", folder=tmp_path,
                      settings=resolve(preset="quick", chosen={"drop_path": 0.1}), widths={"basic": 7})
