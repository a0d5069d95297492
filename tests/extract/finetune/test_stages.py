"""One stage after the other: an encoder knows whom the one that it started from was taught with."""

import pytest
from safetensors.numpy import load_file

from twofold.data.manifest import Manifest, write_manifest
from twofold.data.utils.errors import InputError
from twofold.extract.finetune.finetune import finetune
from twofold.extract.weights.read import safetensors_metadata


def taught(path) -> set[bytes]:
    return {row.tobytes() for row in load_file(path)["twofold.taught.sha256"]}


def test_the_second_stage_knows_the_faces_of_the_first_and_says_how_many_are_of_test(request_for, faces, tmp_path):
    table = faces.table.table.copy()
    test = table["split"] == "test"
    table.loc[test, "split"] = "train"  # the leak: the first stage learns the second one's test faces
    write_manifest(Manifest(table), tmp_path / "leaky.csv")
    first = finetune(request_for("basic.safetensors", manifest=tmp_path / "leaky.csv", target="basic", epochs=1))
    second = finetune(request_for("compound.safetensors", weights=str(first.out), target="compound", epochs=1))
    alone = finetune(request_for("alone.safetensors", target="compound", epochs=1))
    assert taught(second.out) == taught(first.out) | taught(alone.out)
    names = [{row.tobytes() for row in load_file(path)["twofold.taught.groups"]} for path in (first.out, second.out)]
    assert names[0] <= names[1]
    assert f"{int(test.sum())} of {int(test.sum())} test faces taught the encoder that this one starts from" in \
        second.text()
    assert "starts from" not in alone.text()


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
    with pytest.raises(InputError, match=r"was taught with \d+ of the \d+ faces that wrong.fold1of2.safetensors is"):
        finetune(request_for("wrong.safetensors", weights=str(tmp_path / "basic.fold2of2.safetensors"),
                             target="compound", **chosen))
    (tmp_path / "basic.fold2of2.safetensors").rename(tmp_path / "basic.safetensors")
    with pytest.raises(InputError, match=r"basic\.safetensors was taught with"):  # a file that is there is meant itself
        finetune(request_for("wrong.safetensors", weights=str(tmp_path / "basic.safetensors"), target="compound",
                             **chosen))
    with pytest.raises(InputError, match=r"weights of timm:test_resnet: \. is not a file"):
        finetune(request_for("wrong.safetensors", weights=".", target="compound", **chosen))
    assert not list(tmp_path.glob("wrong*"))


def test_an_encoder_of_the_same_faces_in_other_groups_is_not_taken_for_finished(request_for, faces, tmp_path):
    out = finetune(request_for("first.safetensors", target="basic", epochs=1)).out
    stamp = out.stat().st_mtime_ns
    finetune(request_for("first.safetensors", target="basic", epochs=1))
    assert out.stat().st_mtime_ns == stamp  # finished: nothing to do
    table = faces.table.table.copy()
    table["group"] = [f"{name}, renamed" for name in table["group"]]  # the same faces teach; the file names old groups
    write_manifest(Manifest(table), tmp_path / "renamed.csv")
    with pytest.raises(InputError, match=r"first.safetensors exists and is of another training"):
        finetune(request_for("first.safetensors", manifest=tmp_path / "renamed.csv", target="basic", epochs=1))
