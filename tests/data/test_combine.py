"""Manifests merged, split and folded."""

import pandas as pd
import pytest

from twofold.data.manifest import build_manifest, read_manifest
from twofold.data.merge import assign_fold_column, drop_leaking_samples, merge, merge_by_key, rename_splits, resplit
from twofold.data.utils.errors import InputError


def made(count: int = 90, **columns):
    table = {"key": [f"{row}.png" for row in range(count)],
             "basic": [("anger", "fear", "neutral")[row % 3] for row in range(count)]}
    return build_manifest(pd.DataFrame({**table, **columns}), source="x")


def test_keys_and_groups_get_the_dataset_in_front():
    both = merge({"a": made(2, group=["g", ""]), "b": made(2, group=["g", ""], age=["3", "4"])})
    assert both.keys == ["a/0.png", "a/1.png", "b/0.png", "b/1.png"]
    assert both.table["group"].tolist() == ["a/g", "", "b/g", ""]
    assert both.table["dataset"].tolist() == ["a", "a", "b", "b"] and both.table["age"].tolist() == ["", "", "3", "4"]


@pytest.mark.parametrize("name", ["", "a/b", "..", "a=b"])
def test_names_that_cannot_stand_in_a_key(name):
    with pytest.raises(InputError, match="cannot name a dataset"):
        merge({name: made(1)})


def test_new_splits_keep_groups_and_proportions():
    faces = resplit(made(group=[str(row // 2) for row in range(90)]), val=0.1, test=0.2, target="auto", seed=0).table
    assert faces["split"].value_counts().to_dict() == pytest.approx({"train": 63, "test": 18, "val": 9}, abs=3)
    assert faces.groupby("group")["split"].nunique().max() == 1
    assert faces.groupby("split")["basic"].nunique().min() == 3


def test_only_the_named_split_is_divided():
    before = made(split=["test"] * 30 + ["train"] * 60)
    after = resplit(before, val=0.25, test=0, target="basic", seed=0, only="train").table["split"]
    assert (after[:30] == "test").all() and after[30:].value_counts().to_dict() == {"train": 45, "val": 15}


def test_a_group_left_on_two_sides_is_said():
    before = made(split=["test"] * 30 + ["train"] * 60, group=["x"] + [""] * 58 + ["x"] + [""] * 30)
    assert "1 groups are in several splits (the first is x)" in resplit(
        before, val=0.25, test=0, target="basic", seed=0, only="train").notes


def test_leaks_can_be_left_out():
    before = made(split=["test"] * 30 + ["train"] * 60, group=["x"] + [""] * 58 + ["x"] + [""] * 30)
    clean = drop_leaking_samples(before, "train")
    assert len(clean) == 89 and "59.png" not in clean.keys and "0.png" in clean.keys
    after = resplit(clean, val=0.25, test=0, target="basic", seed=0, only="train")
    assert after.notes == ("1 samples of train are left out: their groups are in other splits too",)
    assert drop_leaking_samples(clean, "train").table.equals(clean.table)


def test_folds():
    faces = assign_fold_column(made(group=[str(row // 3) for row in range(90)]), folds=5, target="basic", seed=0).table
    assert faces["fold"].value_counts().to_dict() == dict.fromkeys("01234", 18)
    assert faces.groupby("group")["fold"].nunique().max() == 1
    part = assign_fold_column(made(split=["test"] * 30 + ["train"] * 60), folds=3, target="basic", seed=0,
                              only="train").table
    assert set(part["fold"][:30]) == {""} and set(part["fold"][30:]) == {"0", "1", "2"}


@pytest.mark.parametrize("shares", [{"val": 0, "test": 0}, {"val": 0.5, "test": 0.5}, {"val": -0.1, "test": 0.5}])
def test_shares_that_leave_nothing(shares):
    with pytest.raises(InputError, match="leave nothing to split"):
        resplit(made(), **shares, target="auto", seed=0)


def test_other_errors():
    with pytest.raises(InputError, match="no samples to split in val"):
        resplit(made(), val=0.1, test=0.1, target="auto", seed=0, only="val")
    with pytest.raises(InputError, match="choose from auto, compound, basic"):
        resplit(made(), val=0.1, test=0.1, target="cexpr7", seed=0)


def test_the_unified_set_from_the_command_line(cli, affectnet, tmp_path, put):
    """The paper's: AffectNet-8 and RAF-DB basic, each with its own root."""
    for split in ("train", "test"):
        for number in range(1, 8):
            put(tmp_path / f"raf/basic/{split}/{number}/x.jpg", number)
    assert cli("manifest", "affectnet", affectnet, "-o", tmp_path / "a.csv").returncode == 0
    done = cli("manifest", "rafdb", tmp_path / "raf", "--part", "basic", "-o", tmp_path / "r.csv")
    assert done.returncode == 0 and "warning: RAF-DB basic train: 7 samples here, 12,271 as published" in done.stderr
    done = cli("manifest", "merge", f"affectnet={tmp_path / 'a.csv'}", f"rafdb={tmp_path / 'r.csv'}", "-o",
               tmp_path / "unified.csv")
    assert done.returncode == 0 and done.stdout.startswith("30 samples"), done.stderr
    assert read_manifest(tmp_path / "unified.csv").keys[16].startswith("rafdb/basic/test/1/")
    checked = cli("manifest", "check", tmp_path / "unified.csv", "--root", f"affectnet={affectnet}",
                  "--root", f"rafdb={tmp_path / 'raf'}")
    assert "every image can be read" in checked.stdout
    wrong = cli("manifest", "merge", tmp_path / "a.csv", "-o", tmp_path / "x.csv")
    assert wrong.returncode == 2 and "NAME=FACES.csv" in wrong.stderr


def test_manifests_of_one_root_are_united_by_key():
    a = build_manifest(pd.DataFrame({"key": ["1", "2"], "split": ["train", ""], "age": ["3", ""]}), source="a")
    b = build_manifest(pd.DataFrame({"key": ["3", "2"], "split": ["", "test"], "basic": ["fear", ""]}), source="b")
    both = merge_by_key({"a": a, "b": b}).table
    assert both["key"].tolist() == ["1", "2", "3"] and both["split"].tolist() == ["train", "test", ""]
    assert both["basic"].tolist() == ["", "", "fear"] and both["age"].tolist() == ["3", "", ""]


def test_manifests_that_contradict_each_other():
    a, b = made(5, split="train"), made(5, split=["train", "test", "test", "", "train"])
    with pytest.raises(InputError, match=r"A and B contradict each other: 'split' of '1\.png' is 'train' in one and "
                                         r"'test' in the other \(and so of 1 more samples\)"):
        merge_by_key({"A": a, "B": b})


def test_splits_are_renamed():
    faces = build_manifest(pd.DataFrame({"key": list("abc"), "split": ["train", "val", ""]}), source="x")
    assert list(rename_splits(faces, ["val=test"]).table["split"]) == ["train", "test", ""]
    assert list(rename_splits(faces, ["val=train", "train=val", "=test"]).table["split"]) == ["val", "train", "test"]
    for wrong, says in ((["val"], "is not OLD=NEW"), (["val=dev"], "is not OLD=NEW"),
                        (["test=val"], "no sample is in"),
                        (["val=train"], "would make two splits one"), (["val=test", "val=train"], "each OLD once")):
        with pytest.raises(InputError, match=says):
            rename_splits(faces, wrong)
