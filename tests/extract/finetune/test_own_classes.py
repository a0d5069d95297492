"""Classes of one's own, in a column of their own, teach like any others."""

import json

import pytest

from twofold.cache.store import Store
from twofold.data.manifest import build_manifest, write_manifest
from twofold.data.utils.errors import InputError
from twofold.extract.finetune.finetune import finetune
from twofold.extract.finetune.settings import resolve
from twofold.extract.weights.read import read_checkpoint

CLASSES = ("ruhig, still", "gespannt", "آرام\u200cتر")  # a comma, umlauts, and a joiner that no printable letter is


@pytest.fixture
def own(faces, tmp_path):
    """The drawn faces with labels of one's own beside the others, and the file of the classes."""
    table = faces.table.table.copy()
    mood = {"neutral": 0, "happiness": 0, "anger": 1, "fear": 1, "sadness": 2, "disgust": 2}
    table["mood"] = [CLASSES[mood[basic]] if basic in mood else "" for basic in table["basic"]]
    write_manifest(build_manifest(table, source="test"), tmp_path / "own.csv")
    (tmp_path / "moods.toml").write_text(f'target = "mood"\nclasses = {json.dumps(CLASSES)}', encoding="utf-8")
    return tmp_path / "own.csv", str(tmp_path / "moods.toml")


def test_they_travel_into_the_features(own, faces, request_for, cli, tmp_path):
    path, toml = own
    report = finetune(request_for(manifest=path, classes=toml))
    assert report.settings.target == "mood" and list(report.outcome.progress.history[-1].scores) == ["mood"]
    file = tmp_path / "weights.safetensors"
    settings = json.loads(read_checkpoint(file).metadata["settings"])
    assert settings["classes"] == "moods" and str(tmp_path) not in json.dumps(read_checkpoint(file).metadata)
    done = cli("extract", path, "--root", faces.root, "--store", tmp_path / "store", "--backbones",
               "timm:test_resnet", "--weights", f"timm:test_resnet={file}", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert Store(tmp_path / "store").files()[0].classifier.classes == CLASSES


def test_a_manifest_without_the_column_is_said(own, request_for):
    with pytest.raises(InputError, match="no column 'mood' of labels"):
        finetune(request_for(classes=own[1]))


def test_classes_alone_say_what_is_learned(own):
    targets = {name: resolve(preset="quick", chosen={"classes": name}).targets
               for name in ("cexpr7", "basic8", "rafce14,basic7", own[1])}
    assert list(targets.values()) == [("compound",), ("basic",), ("basic", "compound"), ("mood",)]
    with pytest.raises(InputError, match="'moods' stand in a column: use --target mood"):
        resolve(preset="compound", chosen={"classes": own[1]})
