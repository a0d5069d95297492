"""From faces to a weights file that `extract` takes."""

import json

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.torch import save_file

from twofold.cache.store import Store
from twofold.data.labels import builtin_taxonomy
from twofold.data.utils.errors import InputError
from twofold.extract.finetune.finetune import finetune


def metadata_of(path):
    with safe_open(path, framework="np") as file:
        return file.metadata()


@pytest.mark.parametrize("backbone", ["timm:test_resnet", "timm:test_vit", "torchvision:mobilenet_v3_small"])
def test_what_it_writes_extracts(cli, faces, request_for, tmp_path, backbone):
    request = request_for(backbone=backbone, target="both", epochs=1)
    report = finetune(request)
    assert report.exit_code == 0 and report.outcome.progress.best_epoch == 0
    done = cli("extract", faces.path, "--root", faces.root, "--store", tmp_path / "store", "--backbones", backbone,
               "--weights", f"{backbone}={request.out}", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    file = Store(tmp_path / "store").find(backbone, "original")
    recipe, classifier = file.recipe, file.classifier
    assert classifier is not None and classifier.classes == builtin_taxonomy("basic7").classes
    assert classifier.taught is not None and len(classifier.taught.sha256) == len(load_file(
        request.out)["twofold.taught.sha256"]) > 0
    assert recipe.preprocessing["size"] == [48, 48] and recipe.weights.startswith("sha256:")


def test_the_file_says_how_it_came_about(request_for, faces):
    request = request_for(target="basic")
    report = finetune(request)
    metadata, tensors = metadata_of(request.out), load_file(request.out)
    assert metadata["backbone"] == "timm:test_resnet" and metadata["started_from"] == "random:0"
    assert metadata["basic_classes"].split(",")[0] == "surprise"
    assert json.loads(metadata["settings"])["epochs"] == 2
    assert json.loads(metadata["preprocessing"])["size"] == 48
    best = report.outcome.progress.history[report.outcome.progress.best_epoch]
    assert json.loads(metadata["validation"])["val_basic_macro_f1"] == pytest.approx(best.score, abs=1e-6)
    test = faces.table.table["split"] == "test"
    assert len(tensors["twofold.taught.sha256"]) == int((~test & (faces.table.table["basic"] != "")).sum())
    assert not list(request.out.parent.glob("*.state"))
    history = request.out.with_suffix(".history.csv").read_text().splitlines()
    assert len(history) == 3 and history[0].startswith("epoch,loss,rate,val_loss,val_basic_accuracy")


def test_the_same_command_gives_the_same_weights(request_for):
    first, second = (load_file(finetune(request_for(name, mixup=0.2, erasing=0.3, drop_path=0.1)).out)
                     for name in ("a.safetensors", "b.safetensors"))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_an_output_that_exists_is_refused(request_for):
    request = request_for()
    request.out.write_text("mine")
    with pytest.raises(InputError, match="is there already and is not a file of `finetune`"):
        finetune(request)
    assert request.out.read_text() == "mine"


def test_a_vision_transformer_learns_and_extracts_at_another_size(cli, faces, request_for, tmp_path):
    torch.manual_seed(0)
    state = timm.create_model("test_vit").state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "start.safetensors")
    finetune(request_for(backbone="timm:test_vit", weights=str(tmp_path / "start.safetensors"), epochs=1))
    done = cli("extract", faces.path, "--root", faces.root, "--store", tmp_path / "store", "--backbones",
               "timm:test_vit", "--weights", f"timm:test_vit={tmp_path / 'weights.safetensors'}", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    recipe = Store(tmp_path / "store").files()[0].recipe
    assert recipe.preprocessing["size"] == [48, 48] and recipe.architecture == "timm.test_vit"
