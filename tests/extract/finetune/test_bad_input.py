"""One sentence and nothing half-written, whatever a person asks for."""

import math
import shutil
from dataclasses import replace

import pytest

from twofold.data.manifest import build_manifest, write_manifest
from twofold.data.utils.errors import InputError
from twofold.extract.finetune import loop
from twofold.extract.finetune.finetune import finetune
from twofold.extract.finetune.settings import resolve


def one_left(table):
    lonely = (table["basic"] == "fear") & (table["split"] == "train")
    return table.drop(table.index[lonely][1:])


@pytest.mark.parametrize("change, message", [
    (one_left, r"too few training samples of fear \(1\)"),
    (lambda table: table.assign(group="one", split="train"), "cannot be split"),
    (lambda table: table.assign(basic=""), "no sample has a basic label of basic7"),
    (lambda table: table[table["basic"] != "fear"], ""),
])
def test_manifests_that_nothing_is_learned_of(request_for, faces, tmp_path, change, message):
    table = build_manifest(change(faces.table.table.copy()), source="test")
    write_manifest(table, tmp_path / "changed.csv")
    request = request_for(manifest=tmp_path / "changed.csv")
    if not message:  # a class without samples is only said
        assert finetune(request).text().count(
            "no training samples of fear: the basic classifier never predicts it") == 1
        return
    with pytest.raises(InputError, match=message):
        finetune(request)


@pytest.mark.parametrize(("chosen", "message"), [
    ({"classes": "cexpr7", "target": "basic"}, "are compound expressions: use --target compound"),
    ({"classes": "nothing"}, "unknown classes"),
    ({"train": "last:0"}, "choose all, head, or last:N"),
    ({"train": "none"}, "choose all, head, or last:N"),
    ({"lr": 0.0}, "it must be above 0"),
    ({"label_smoothing": 1.0}, "it must be at least 0 and below 1"),
    ({"epochs": 0}, "it must be at least 1"),
    ({"optimizer": "lion"}, "choose from adamw, adam"),
    ({"folds": 1}, "take 2 or more"),
    ({"target": "nothing"}, "choose from basic, compound, both"),
    ({"seed": 10**20}, "seed 100000000000000000000: it must be"),
    ({"size": 100_000}, "size 100000: it must be"),
    ({"rand_augment": "x"}, "rand-augment 'x': timm takes rand"),
    ({"rand_augment": "rand-mx"}, "timm takes rand"),
])
def test_settings_that_do_not_hold(chosen, message):
    with pytest.raises(InputError, match=message):
        resolve(preset="quick", chosen=chosen)


def test_weights_of_another_architecture(request_for, tmp_path):
    made = finetune(request_for("small.safetensors", epochs=1)).request.out
    with pytest.raises(InputError, match="not the weights of this network"):
        finetune(request_for(backbone="torchvision:mobilenet_v3_small", weights=str(made)))
    assert not (tmp_path / "weights.safetensors").exists()


def test_onnx_models_and_sizes_that_do_not_fit(request_for):
    with pytest.raises(InputError, match="ONNX model cannot be trained"):
        finetune(request_for(backbone="onnx:model.onnx"))
    with pytest.raises(InputError, match=r"does not take images of 7 pixels|choose another"):
        finetune(request_for(backbone="timm:test_vit", size=7))


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_loss_that_is_no_number_ends_with_the_last_good_weights(request_for, monkeypatch, epoch):
    original, request = loop.Training.backward, request_for(epochs=3)
    monkeypatch.setattr(loop.Training, "backward", lambda self, batch: math.nan if self.progress.epoch == epoch else
                        original(self, batch))
    report = finetune(request)
    assert report.exit_code == 1 and "the loss was not finite any more" in report.text()
    assert len(report.progress.history) == epoch and request.out.exists() == (epoch > 0)
    assert ("last good epoch" if epoch else "nothing was written") in report.text()


def test_out_of_memory_makes_the_parts_smaller(request_for, monkeypatch):
    original, sizes = loop.augment, []

    def limited(images, *rest):
        if len(images) > 4:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes")
        sizes.append(len(images))
        return original(images, *rest)

    monkeypatch.setattr(loop, "augment", limited)
    report = finetune(request_for(epochs=1))
    assert report.exit_code == 0 and report.progress.parts == 4 and set(sizes) == {4}


def test_labels_are_not_blamed_for_images_that_cannot_be_read(request_for, faces, tmp_path):
    shutil.copytree(faces.root, tmp_path / "faces")
    table = faces.table.table
    validation = [tmp_path / "faces" / key for key in table["key"][table["split"] == "val"]]
    for path in validation:
        path.write_bytes(b"not an image")
    request = replace(request_for(), roots=[str(tmp_path / "faces")])
    with pytest.raises(InputError, match=r"\d+ of \d+ image files cannot be read \(.*, and without them: no basic"):
        finetune(request)
