"""One sentence and nothing half-written, whatever a person asks for."""

import math
import shutil
from dataclasses import replace

import pandas as pd
import pytest

from twofold.data.manifest import build_manifest, write_manifest
from twofold.data.utils.errors import InputError
from twofold.extract.finetune import loop
from twofold.extract.finetune.finetune import finetune
from twofold.extract.finetune.settings import resolve


@pytest.fixture
def changed(faces, tmp_path):
    """The manifest with its table changed, written beside."""
    def write(change) -> object:
        table = change(faces.table.table.copy())
        write_manifest(build_manifest(pd.DataFrame(table), source="test"), tmp_path / "changed.csv")
        return tmp_path / "changed.csv"

    return write


def test_a_class_with_one_face(request_for, changed):
    def one_left(table):
        lonely = (table["basic"] == "fear") & (table["split"] == "train")
        return table.drop(table.index[lonely][1:])

    with pytest.raises(InputError, match=r"too few training samples of fear \(1\)"):
        finetune(request_for(manifest=changed(one_left)))


def test_a_class_without_faces_is_said(request_for, changed):
    report = finetune(request_for(manifest=changed(lambda table: table[table["basic"] != "fear"])))
    assert report.text().count("no training samples of fear: the basic classifier never predicts it") == 1


def test_no_validation_possible(request_for, changed):
    def one_group(table):
        table["group"], table["split"] = "one", "train"
        return table

    with pytest.raises(InputError, match="cannot be split"):
        finetune(request_for(manifest=changed(one_group)))


def test_no_label_of_the_taxonomy(request_for, changed):
    def unlabelled(table):
        table["basic"] = ""
        return table

    with pytest.raises(InputError, match="no sample has a basic label of basic7"):
        finetune(request_for(manifest=changed(unlabelled)))


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


def test_a_loss_that_is_no_number_ends_with_the_last_good_weights(request_for, monkeypatch):
    original = loop.Training.backward

    def poisoned(self, batch):
        return math.nan if self.progress.epoch == 1 else original(self, batch)

    monkeypatch.setattr(loop.Training, "backward", poisoned)
    request = request_for(epochs=3)
    report = finetune(request)
    assert report.exit_code == 1 and request.out.exists()
    assert "the loss was not finite any more" in report.text() and "last good epoch" in report.text()
    assert len(report.progress.history) == 1


def test_a_loss_that_is_no_number_at_once_writes_nothing(request_for, monkeypatch):
    monkeypatch.setattr(loop.Training, "backward", lambda self, batch: math.nan)
    request = request_for()
    report = finetune(request)
    assert report.exit_code == 1 and "nothing was written" in report.text() and not request.out.exists()


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
