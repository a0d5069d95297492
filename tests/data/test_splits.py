"""Manifests merged, split and folded: no group on two sides, classes in proportion."""

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import build_manifest, merge, merge_by_key, read_manifest
from twofold.data.splits import (
    assign_fold_column,
    assign_folds,
    drop_leaking_samples,
    rename_splits,
    resplit,
    stratified_group_folds,
    stratified_group_split,
)
from twofold.data.utils.errors import InputError

FACES = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "1", "2", "3", "4", "5", "6"])),
                 min_size=2, max_size=60)
LEAKY = {"split": ["test"] * 30 + ["train"] * 60, "group": ["x"] + [""] * 58 + ["x"] + [""] * 30}


def made(count: int = 90, **columns):
    table = {"key": [f"{row}.png" for row in range(count)],
             "basic": [("anger", "fear", "neutral")[row % 3] for row in range(count)]}
    return build_manifest(pd.DataFrame({**table, **columns}), source="x")


@settings(deadline=None)
@given(FACES, st.integers(2, 5), st.floats(0.05, 0.95), st.integers(0, 5))
def test_no_group_stands_on_two_sides(faces, folds, fraction, seed):
    labels, groups = zip(*faces, strict=True)
    for parts, divide in ((2, lambda: stratified_group_split(labels, groups, fraction=fraction, seed=seed)),
                          (folds, lambda: stratified_group_folds(labels, groups, folds=folds, seed=seed))):
        if len(set(groups) - {""}) + groups.count("") < parts:
            with pytest.raises(InputError, match=f"groups of samples cannot be split into {parts} subsets"):
                divide()
            continue
        sides = divide()
        assert sides.shape == (len(faces),) and set(sides.tolist()) <= set(range(parts))
        grouped = pd.DataFrame({"group": groups, "side": sides}).query("group != ''")
        assert grouped.empty or grouped.groupby("group")["side"].nunique().max() == 1


def test_single_faces_split_in_exact_proportion():
    labels = ["a"] * 800 + ["b"] * 150 + ["c"] * 50
    held = stratified_group_split(labels, [""] * 1000, fraction=0.2, seed=0)
    assert [int(held[np.array(labels) == name].sum()) for name in "abc"] == [160, 30, 10]
    fold = stratified_group_folds(labels, [""] * 1000, folds=5, seed=0)
    assert np.bincount(fold).tolist() == [200] * 5


def test_grouped_faces_split_nearly_in_proportion_and_repeat_by_seed():
    draw = np.random.default_rng(0)
    groups = draw.integers(0, 120, 2000).astype(str)
    labels = draw.choice(list("abcd"), 2000, p=[0.6, 0.25, 0.1, 0.05])
    held, again, other = (stratified_group_split(labels, groups, fraction=0.25, seed=seed) for seed in (1, 1, 2))
    for name in "abcd":
        assert held[labels == name].mean() == pytest.approx(0.25, abs=0.04)
    assert (held == again).all() and (held != other).any()


def test_it_is_quick_for_many_faces():
    draw, start = np.random.default_rng(0), time.perf_counter()
    held = stratified_group_split(draw.choice(list("abcdefg"), 300_000), [""] * 300_000, fraction=0.1, seed=0)
    assert held.sum() == pytest.approx(30_000, abs=7) and time.perf_counter() - start < 20


@pytest.mark.parametrize(("call", "says"), [
    *((lambda fraction=fraction: stratified_group_split("ab", ["", ""], fraction=fraction, seed=0), "between 0 and 1")
      for fraction in (0, 1, -0.5, float("nan"))),
    (lambda: stratified_group_folds("ab", ["", ""], folds=1, seed=0), "at least two"),
    *((lambda val=val, test=test: resplit(made(), val=val, test=test, target="auto", seed=0), "leave nothing to split")
      for val, test in ((0, 0), (0.5, 0.5), (-0.1, 0.5))),
    (lambda: resplit(made(), val=0.1, test=0.1, target="auto", seed=0, only="val"), "no samples to split in val"),
    (lambda: resplit(made(mood="a"), val=0.1, test=0.1, target="key", seed=0), "choose from auto, compound, basic, mo"),
    *((lambda name=name: merge({name: made(1)}), "cannot name a dataset") for name in ("", "a/b", "..", "a=b")),
    (lambda: merge_by_key({"A": made(5, split="train"), "B": made(5, split=["train", "test", "test", "", "train"])}),
     r"A and B contradict each other: 'split' of '1\.png' is 'train' in one and 'test' in the other \(and so of 1 mo"),
    *((lambda renames=renames: rename_splits(made(2, split=["train", "val"]), renames), says) for renames, says in (
        (["val"], "is not OLD=NEW"), (["val=dev"], "is not OLD=NEW"), (["test=val"], "no sample is in"),
        (["val=train"], "would make two splits one"), (["val=test", "val=train"], "each OLD once")))])
def test_what_cannot_be_divided_or_merged_is_one_sentence(call, says):
    with pytest.raises(InputError, match=says):
        call()


def test_new_splits_keep_groups_and_proportions():
    faces = resplit(made(group=[str(row // 2) for row in range(90)]), val=0.1, test=0.2, target="auto", seed=0).table
    assert faces["split"].value_counts().to_dict() == pytest.approx({"train": 63, "test": 18, "val": 9}, abs=3)
    assert faces.groupby("group")["split"].nunique().max() == 1
    assert faces.groupby("split")["basic"].nunique().min() == 3
    own = resplit(made(200, mood=["b", "a", "a", "a"] * 50), val=0.1, test=0.2, target="mood", seed=0).table
    assert (own.loc[own["split"] == "test", "mood"] == "b").mean() == pytest.approx(0.25, abs=0.03)


def test_only_the_named_split_is_divided_and_leaks_are_said_or_left_out():
    divide = {"val": 0.25, "test": 0, "target": "basic", "seed": 0, "only": "train"}
    after = resplit(made(split=LEAKY["split"]), **divide).table["split"]
    assert (after[:30] == "test").all() and after[30:].value_counts().to_dict() == {"train": 45, "val": 15}
    before = made(**LEAKY)
    assert "1 groups are in several splits (the first is x)" in resplit(before, **divide).notes
    clean = drop_leaking_samples(before, "train")
    assert len(clean) == 89 and "59.png" not in clean.keys and "0.png" in clean.keys
    assert resplit(clean, **divide).notes == (
        "1 samples of train are left out: their groups are in other splits too",)
    assert drop_leaking_samples(clean, "train").table.equals(clean.table)


def test_folds():
    faces = assign_fold_column(made(group=[str(row // 3) for row in range(90)]), folds=5, target="basic", seed=0).table
    assert faces["fold"].value_counts().to_dict() == dict.fromkeys("01234", 18)
    assert faces.groupby("group")["fold"].nunique().max() == 1
    part = assign_fold_column(made(split=LEAKY["split"]), folds=3, target="basic", seed=0, only="train").table
    assert set(part["fold"][:30]) == {""} and set(part["fold"][30:]) == {"0", "1", "2"}


def soft(count: int = 90, **columns):
    """A third has the hard label anger, the others the soft labels fear or happiness, and the last no label."""
    hard = ["anger" if row % 3 == 0 else "" for row in range(count)]
    shares = {"fear": 1, "happiness": 2}
    table = {f"p_{name}": ["1" if row < count - 1 and (row % 3 == shares.get(name, 3) or name == "anger") else "0"
                           for row in range(count)] for name in builtin_taxonomy("basic7").classes}
    table |= {f"p_{name}": ["3" if row < count - 1 and row % 3 == place else cell
                            for row, cell in enumerate(table[f"p_{name}"])] for name, place in shares.items()}
    return made(count, **{"basic": hard} | table | columns)


def test_soft_labels_are_divided_in_proportion_of_their_largest_share():
    for faces in (soft(), soft(basic="")):
        table = assign_fold_column(faces, folds=3, target="auto", seed=0).table
        assert [table.loc[table["p_fear"] == "3", "fold"].value_counts()[fold] for fold in "012"] == [10, 10, 10]
        held = resplit(faces, val=0, test=0.2, target="basic", seed=0).table
        assert (held.loc[held["split"] == "test", "p_happiness"] == "3").sum() in (5, 6)
    fold = assign_folds(soft(), builtin_taxonomy("basic7"), folds=3, seed=0)
    assert np.bincount(fold[1:-1:3]).tolist() == [10, 10, 10] and fold[-1] == -1 and (fold[:-1] >= 0).all()
    without = made(basic=["anger", "fear", ""] * 30, p_fear="1")  # no soft labels of all the classes
    assert (assign_folds(without, builtin_taxonomy("basic7"), folds=3, seed=0)[2::3] == -1).all()


def test_splits_are_renamed():
    faces = build_manifest(pd.DataFrame({"key": list("abc"), "split": ["train", "val", ""]}), source="x")
    assert list(rename_splits(faces, ["val=test"]).table["split"]) == ["train", "test", ""]
    assert list(rename_splits(faces, ["val=train", "train=val", "=test"]).table["split"]) == ["val", "train", "test"]


def test_keys_and_groups_get_the_dataset_in_front():
    both = merge({"a": made(2, group=["g", ""]), "b": made(2, group=["g", ""], age=["3", "4"])})
    assert both.keys == ["a/0.png", "a/1.png", "b/0.png", "b/1.png"]
    assert both.table["group"].tolist() == ["a/g", "", "b/g", ""]
    assert both.table["dataset"].tolist() == ["a", "a", "b", "b"] and both.table["age"].tolist() == ["", "", "3", "4"]


def test_manifests_of_one_root_are_united_by_key():
    a = build_manifest(pd.DataFrame({"key": ["1", "2"], "split": ["train", ""], "age": ["3", ""]}), source="a")
    b = build_manifest(pd.DataFrame({"key": ["3", "2"], "split": ["", "test"], "basic": ["fear", ""]}), source="b")
    both = merge_by_key({"a": a, "b": b}).table
    assert both["key"].tolist() == ["1", "2", "3"] and both["split"].tolist() == ["train", "test", ""]
    assert both["basic"].tolist() == ["", "", "fear"] and both["age"].tolist() == ["3", "", ""]


def test_a_column_called_source_stays_where_manifests_are_united():
    one = build_manifest(pd.DataFrame({"key": ["a", "b"], "source": ["v.mp4", "w.mp4"]}), source="x")
    two = build_manifest(pd.DataFrame({"key": ["b"], "p_anger": ["1"]}), source="y")
    table = merge_by_key({"one": one, "two": two}).table
    assert table[["source", "p_anger"]].to_numpy().tolist() == [["v.mp4", ""], ["w.mp4", "1"]]


def test_far_more_folds_than_samples_are_one_sentence():
    with pytest.raises(InputError, match="2 groups of samples cannot be split into 99999999999999999999 subsets"):
        stratified_group_folds(["a", "b"], ["", ""], folds=99999999999999999999, seed=0)
    with pytest.raises(InputError, match="on two sides: name smaller groups in the column group, or leave it empty"):
        stratified_group_folds(["a", "b"], ["g", "g"], folds=2, seed=0)


def test_soft_labels_are_united_whole(tmp_path, cli):
    votes = made(3, basic="", p_fear=["3", "", ""], p_anger=["", "", "1"])
    shares = made(3, p_fear=["", "0.5", ""], p_anger=["", "0.5", "1"], p_sadly_angry=["1", "", ""])
    both = merge_by_key({"a": votes, "b": shares})
    assert both.table[["p_fear", "p_anger", "p_sadly_angry"]].to_numpy().tolist() == [
        ["3", "", "1"], ["0.5", "0.5", ""], ["", "1", ""]]
    for name, faces in (("a", votes), ("b", made(3, basic="fear", p_anger=["0.5", "", ""]))):
        faces.table.to_csv(tmp_path / f"{name}.csv", index=False)
    words = ["manifest", "merge", "--by-key", "-o", tmp_path / "c.csv", tmp_path / "a.csv"]
    done = cli(*words, tmp_path / "b.csv")
    assert done.returncode == 2 and "'soft basic label' of '0.png' is '3, ' in one and ', 0.5' in the" in done.stderr
    made(3, basic="fear", p_anger="").table.to_csv(tmp_path / "b.csv", index=False)
    assert cli(*words, tmp_path / "b.csv").returncode == 0
    table = read_manifest(tmp_path / "c.csv").table
    assert table["basic"].tolist() == ["fear"] * 3 and table["p_fear"].tolist() == ["3", "", ""]


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
