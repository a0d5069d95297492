"""The manifest verbs as a person types them."""

import json

import numpy as np
import pytest

from twofold.data.manifest import read_manifest


@pytest.mark.parametrize(("reader", "options"), [
    ("rafdb", ["--part", "both", "--images", "original"]), ("rafdb", ["--part", "compound"]), ("rafce", []),
    ("affectnet", ["--classes", "basic7"]), ("fer2013", []), ("folder", [])])
def test_each_reader_writes_a_manifest(reader, options, request, cli, tmp_path, put):
    root = tmp_path if reader == "folder" else request.getfixturevalue(reader)
    put(tmp_path / "anger/1.png") if reader == "folder" else None
    done = cli("manifest", reader, root, *options, "-o", tmp_path / "out.csv")
    assert done.returncode == 0, done.stderr
    faces = read_manifest(tmp_path / "out.csv")
    assert done.stdout.startswith(f"{len(faces)} samples -> ") and len(faces) > 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".tmp")]


def test_json_says_the_same(rafce, cli, tmp_path):
    done = cli("manifest", "rafce", rafce, "-o", tmp_path / "out.csv", "--json")
    record = json.loads(done.stdout)
    assert record["samples"] == 14 and record["split"] == {"train": 5, "test": 5, "val": 4}
    assert record["notes"] == ["RAF-CE: 14 samples here, 4,549 as published"] and "warning: RAF-CE" in done.stderr


def test_fer2013_with_votes_and_unpacked(fer2013, cli, tmp_path):
    done = cli("manifest", "fer2013", fer2013 / "fer2013.csv", "--ferplus", fer2013 / "fer2013new.csv", "--unpack",
               tmp_path / "png", "-o", tmp_path / "out.csv")
    assert done.returncode == 0 and "happily_surprised 3" in done.stdout, done.stderr
    assert len(list((tmp_path / "png").iterdir())) == 11


def test_older_affectnet_cut_out(older_affectnet, cli, tmp_path):
    done = cli("manifest", "affectnet", older_affectnet, "--crop", tmp_path / "crops", "-o", tmp_path / "out.csv")
    assert done.returncode == 0 and len(list((tmp_path / "crops").rglob("*.jpg"))) == 16, done.stderr


def test_cexpr_with_template(cexpr, cli, tmp_path):
    done = cli("manifest", "cexpr", cexpr / "frames", "--template", cexpr / "template.txt", "-o", tmp_path / "out.csv")
    assert done.returncode == 0 and "whole videos are not there: 03" in done.stderr


def test_the_exact_command_of_the_readme(real, cli, tmp_path):
    done = cli("manifest", "csv", real / "faces_ferplus/labels.csv", "--key", "image", "--split", "split", "--basic",
               "basic", "--compound", "compound", "--group", "dup_group", "-o", "fer.csv", cwd=tmp_path)
    assert done.returncode == 0 and "5,564 samples -> fer.csv" in done.stdout
    assert "train 4,324, test 633, val 607" in done.stdout


def test_folds_and_splits(rafdb, cli, tmp_path):
    cli("manifest", "rafdb", rafdb, "-o", tmp_path / "out.csv")
    done = cli("manifest", "split", tmp_path / "out.csv", "--folds", 4, "-o", tmp_path / "folds.csv")
    assert done.returncode == 0 and set(read_manifest(tmp_path / "folds.csv").table["fold"]) == set("0123")


@pytest.mark.parametrize(("words", "says"), [
    (["rafdb", "none"], "none: no such folder"), (["imagenet", "x"], "imagenet"), (["csv", "none.csv"], "no such file"),
    (["folder", "."], "no images"), (["rafdb", ".", "--part", "x"], "choose from basic, compound, both"),
    (["csv", "t.csv", "--classes", "emotions"], "unknown classes 'emotions': choose from cexpr7")])
def test_what_a_person_gets_wrong_is_one_sentence(words, says, cli, tmp_path):
    (tmp_path / "t.csv").write_text("key\na.png\n")
    done = cli("manifest", *words, "-o", "out.csv", cwd=tmp_path)
    assert done.returncode == 2 and says in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out.csv").exists()


def test_an_output_that_cannot_be_written(rafce, cli, tmp_path):
    done = cli("manifest", "rafce", rafce, "-o", tmp_path / "none/out.csv")
    assert done.returncode == 2 and "out.csv: cannot be written: its folder is missing" in done.stderr


def test_no_faces_is_an_error_that_says_why(affectnet, cli, tmp_path):
    for path in [*affectnet.glob("*/annotations/*_exp.npy")]:
        np.save(path, np.array("9"))
    done = cli("manifest", "affectnet", affectnet, "-o", tmp_path / "out.csv")
    assert done.returncode == 2 and "19 samples labelled 9 (uncertain) are left out" in done.stderr
    assert "no samples" in done.stderr.splitlines()[-1] and not (tmp_path / "out.csv").exists()


def test_an_output_of_check_needs_something_to_write(rafce, cli, tmp_path):
    cli("manifest", "rafce", rafce, "-o", tmp_path / "out.csv")
    done = cli("manifest", "check", tmp_path / "out.csv", "--root", rafce, "-o", tmp_path / "grouped.csv")
    assert done.returncode == 2 and "--group-duplicates" in done.stderr
