"""From samples to a weights file that `extract` takes; classes of one's own; one stage after another."""

import json

import pytest
import timm
from safetensors.numpy import load_file
from safetensors.torch import save_file

from twofold.cache.store import Store
from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import Manifest, build_manifest, write_manifest
from twofold.data.utils.errors import InputError
from twofold.extract.finetune.finetune import finetune
from twofold.extract.finetune.settings import resolve
from twofold.extract.weights.read import read_checkpoint, safetensors_metadata


@pytest.mark.parametrize("backbone", ["timm:test_resnet", "timm:test_vit", "torchvision:mobilenet_v3_small"])
def test_what_it_writes_extracts(cli, faces, request_for, tmp_path, backbone):
    weights = "random:0"
    if backbone == "timm:test_vit":  # starts at another size than that of its weights
        state = timm.create_model("test_vit").state_dict()
        save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "start.safetensors")
        weights = str(tmp_path / "start.safetensors")
    request = request_for(backbone=backbone, target="both", epochs=1, weights=weights)
    report = finetune(request)
    assert report.exit_code == 0 and report.progress.best_epoch == 0
    done = cli("extract", faces.path, "--root", faces.root, "--store", tmp_path / "store", "--backbones", backbone,
               "--weights", f"{backbone}={request.out}", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    file = Store(tmp_path / "store").find(backbone, "original")
    recipe, classifier = file.recipe, file.classifier
    assert classifier is not None and classifier.classes == builtin_taxonomy("basic7").classes
    assert classifier.training_samples is not None and len(classifier.training_samples.sha256) == len(load_file(
        request.out)["twofold.taught.sha256"]) > 0
    assert recipe.preprocessing["size"] == [48, 48] and recipe.weights.startswith("sha256:")
    assert recipe.architecture == backbone.replace(":", ".")


def test_the_file_says_how_it_came_about(request_for, faces):
    request = request_for(target="basic")
    report = finetune(request)
    assert request.out.stat().st_mode == request.out.with_suffix(".history.csv").stat().st_mode  # by the umask
    metadata, tensors = safetensors_metadata(request.out), load_file(request.out)
    assert metadata["backbone"] == "timm:test_resnet" and metadata["started_from"] == "random:0"
    assert metadata["basic_classes"].split(",")[0] == "surprise"
    assert json.loads(metadata["settings"])["epochs"] == 2
    assert json.loads(metadata["preprocessing"])["size"] == 48
    best = report.progress.history[report.progress.best_epoch]
    assert json.loads(metadata["validation"])["val_basic_macro_f1"] == pytest.approx(best.score, abs=1e-6)
    test = faces.table.table["split"] == "test"
    assert len(tensors["twofold.taught.sha256"]) == int((~test & (faces.table.table["basic"] != "")).sum())
    assert not list(request.out.parent.glob("*.state"))
    history = request.out.with_suffix(".history.csv").read_text().splitlines()
    assert len(history) == 3 and history[0].startswith("epoch,loss,rate,val_loss,val_basic_macro_f1")


def test_an_output_that_exists_is_refused(request_for):
    request = request_for()
    request.out.write_text("mine")
    with pytest.raises(InputError, match="is there already and is not a file of `finetune`"):
        finetune(request)
    assert request.out.read_text() == "mine"


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
    assert report.request.settings.target == "mood" and list(report.progress.history[-1].scores) == ["mood"]
    file = tmp_path / "weights.safetensors"
    settings = json.loads(read_checkpoint(file).metadata["settings"])
    assert settings["classes"] == "moods" and str(tmp_path) not in json.dumps(read_checkpoint(file).metadata)
    done = cli("extract", path, "--root", faces.root, "--store", tmp_path / "store", "--backbones",
               "timm:test_resnet", "--weights", f"timm:test_resnet={file}", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert Store(tmp_path / "store").files()[0].classifier.classes == CLASSES


def test_classes_alone_say_what_is_learned(own, request_for):
    targets = {name: resolve(preset="quick", chosen={"classes": name}).targets
               for name in ("cexpr7", "basic8", "rafce14,basic7", own[1])}
    assert list(targets.values()) == [("compound",), ("basic",), ("basic", "compound"), ("mood",)]
    with pytest.raises(InputError, match="'moods' stand in a column: use --target mood"):
        resolve(preset="compound", chosen={"classes": own[1]})
    with pytest.raises(InputError, match="no column 'mood' of labels"):
        finetune(request_for(classes=own[1]))


def taught(path) -> set[bytes]:
    return {row.tobytes() for row in load_file(path)["twofold.taught.sha256"]}


def test_the_second_stage_knows_the_faces_of_the_first_and_says_how_many_are_of_test(request_for, faces, tmp_path):
    table = faces.table.table.copy()
    test = table["split"] == "test"
    table.loc[test, "split"] = "train"  # the leak: the first stage learns the second one's test faces
    write_manifest(Manifest(table), tmp_path / "leaky.csv")
    first = finetune(request_for("basic.safetensors", manifest=tmp_path / "leaky.csv", target="basic", epochs=1))
    second = finetune(request_for("compound.safetensors", weights=str(first.request.out), target="compound", epochs=1))
    alone = finetune(request_for("alone.safetensors", target="compound", epochs=1))
    assert taught(second.request.out) == taught(first.request.out) | taught(alone.request.out)
    names = [{row.tobytes() for row in load_file(report.request.out)["twofold.taught.groups"]}
             for report in (first, second)]
    assert names[0] <= names[1]
    assert f"the initial weights were trained on {int(test.sum())} of {int(test.sum())} test samples" in second.text()
    assert "initial weights" not in alone.text()


def test_each_fold_starts_from_the_same_folds_encoder_and_from_no_other(request_for, tmp_path):
    chosen = {"folds": 2, "epochs": 1}
    finetune(request_for("basic.safetensors", target="basic", **chosen))
    finetune(request_for("both.safetensors", weights=str(tmp_path / "basic.safetensors"), target="compound", **chosen))
    facts = [safetensors_metadata(tmp_path / f"both.fold{fold}of2.safetensors") for fold in (1, 2)]
    starts = [safetensors_metadata(tmp_path / f"basic.fold{fold}of2.safetensors") for fold in (1, 2)]
    assert len({fact["fold_set"] for fact in facts} | {start["fold_set"] for start in starts}) == 2
    assert facts[0]["started_from"] != facts[1]["started_from"]
    for fold in (1, 2):
        first, second = (tmp_path / f"{name}.fold{fold}of2.safetensors" for name in ("basic", "both"))
        assert taught(first) <= taught(second)
    with pytest.raises(InputError, match=r"was trained on \d+ of the \d+ samples that wrong.fold1of2.safetensors is"):
        finetune(request_for("wrong.safetensors", weights=str(tmp_path / "basic.fold2of2.safetensors"),
                             target="compound", **chosen))
    (tmp_path / "basic.fold2of2.safetensors").rename(tmp_path / "basic.safetensors")
    with pytest.raises(InputError, match=r"basic\.safetensors was trained on"):  # a file that is there is meant itself
        finetune(request_for("wrong.safetensors", weights=str(tmp_path / "basic.safetensors"), target="compound",
                             **chosen))
    with pytest.raises(InputError, match=r"weights of timm:test_resnet: \. is not a file"):
        finetune(request_for("wrong.safetensors", weights=".", target="compound", **chosen))
    assert not list(tmp_path.glob("wrong*"))


def test_an_encoder_of_the_same_faces_in_other_groups_is_not_taken_for_finished(request_for, faces, tmp_path):
    out = finetune(request_for("first.safetensors", target="basic", epochs=1)).request.out
    stamp = out.stat().st_mtime_ns
    finetune(request_for("first.safetensors", target="basic", epochs=1))
    assert out.stat().st_mtime_ns == stamp  # finished: nothing to do
    table = faces.table.table.copy()
    table["group"] = [f"{name}, renamed" for name in table["group"]]  # the same faces teach; the file names old groups
    write_manifest(Manifest(table), tmp_path / "renamed.csv")
    with pytest.raises(InputError, match=r"first.safetensors exists and is of another training"):
        finetune(request_for("first.safetensors", manifest=tmp_path / "renamed.csv", target="basic", epochs=1))
