"""The manifest verbs as a person types them."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import twofold
from twofold.data.manifest import read_manifest


@pytest.mark.parametrize(("words", "samples", "says"), [
    ("rafdb {rafdb} --part both --images original", 36, "warning: RAF-DB"),
    ("rafce {rafce}", 14, "warning: RAF-CE: 14 samples here, 4,549 as published"),
    ("affectnet {affectnet} --classes basic7", 14, "2 samples of contempt"),
    ("affectnet {older_affectnet} --crop crops", 16, "AffectNet has no test split"),
    ("fer2013 {fer2013}", 12, "FER2013 train: 8 samples here"),
    ("fer2013 {fer2013}/fer2013.csv --ferplus {fer2013}/fer2013new.csv --unpack crops", 11, "without a face"),
    ("rafml {rafml}", 3, "RAF-ML: 3 samples here, 4,908 as published"),
    ("blemore {blemore}", 5, "a sample is a video: `crop "),
    ("mafw {mafw} --part single", 2, "not in the single lists"),
    ("cexpr {cexpr}/frames --template {cexpr}/template.txt", 7, "whole videos are not there: 03"),
    ("folder {folder}", 1, "")])
def test_each_reader_writes_a_manifest(words, samples, says, request, cli, tmp_path, put):
    name = words.partition("{")[2].partition("}")[0]
    root = put(tmp_path / "folder/anger/1.png").parents[1] if name == "folder" else request.getfixturevalue(name)
    words = [*words.format(**{name: root}).split(), "-o", "out.csv"]
    done = cli("manifest", *words, cwd=tmp_path)
    assert done.returncode == 0 and says in done.stderr, done.stderr
    assert len(read_manifest(tmp_path / "out.csv")) == samples and done.stdout.startswith(f"{samples} samples -> ")
    assert "crops" not in words or len(list(tmp_path.rglob("crops/**/*.*g"))) == samples
    record = json.loads(cli("manifest", *words, "--json", cwd=tmp_path).stdout)
    assert record["samples"] == samples == sum(record["split"].values()) and any(says in note for note in (
        *record["notes"], done.stderr))


def test_the_commands_of_the_readme(rafdb, rafce, affectnet, fer2013, cexpr, rafml, blemore, mafw, tmp_path, put, cli):
    """Each dataset's folder is the one in which all these small copies lie."""
    texts = [(Path(twofold.__file__).parent / f"data/{name}.md").read_text(encoding="utf-8")
             for name in ("README", "LABELS")]
    text = "\n".join(texts)
    assert max(len(each.splitlines()) for each in texts) <= 150
    for name in ("RAF-DB", "RAF-CE", "AffectNet", "FER2013", "RAF-ML"):
        (tmp_path / name).symlink_to(".")
    (tmp_path / "votes.csv").write_text("image,votes_happy,votes_angry\na.png,6,4\nb.png,0,0\n")
    (tmp_path / "basic-labels.csv").write_text("key,basic\na.png,happiness\nc.png,fear\n")
    put(tmp_path / "blemore-faces/crop.json")
    (tmp_path / "blemore-faces/faces.csv").write_text("key,source\na.png,train/A102_ang_int1_ver1.mov\n")
    put(tmp_path / "folders/anger/1.png")
    (tmp_path / "TABLE.csv").write_text("image,label,subject\n" + "".join(
        f"{row}.png,{('happily_surprised', 'sadly_angry')[row % 2]},p{row}\n" for row in range(40)))
    (tmp_path / "words.csv").write_text("key,basic\na.png,glücklich\nb.png,unklar\n", encoding="utf-8")
    cli("manifest", "rafdb", "RAF-DB", "--part", "basic", "-o", "basic.csv", cwd=tmp_path)
    commands = re.findall(r"(?:^|`)twofold (manifest [^`\n]+)", text, re.MULTILINE)
    assert len(commands) >= 24
    for words in map(shlex.split, commands):
        done = cli(*words, cwd=tmp_path)
        assert done.returncode == 0, (words, done.stderr)


@pytest.mark.parametrize(("words", "says"), [
    ("rafdb none", "none: no such folder"), ("imagenet x", "imagenet"), ("csv none.csv", "no such file"),
    ("folder .", "no images"), ("rafdb . --part x", "choose from basic, compound, both"),
    ("csv t.csv --classes emotions", "unknown classes 'emotions': choose from cexpr7"),
    ("csv t.csv -o none/out.csv", "out.csv: cannot be written: its folder is missing"),
    ("check t.csv --root .", "--group-duplicates")])
def test_what_a_person_gets_wrong_is_one_sentence(words, says, cli, tmp_path):
    (tmp_path / "t.csv").write_text("key\na.png\n")
    done = cli("manifest", *words.split(), *([] if "-o" in words else ["-o", "out.csv"]), cwd=tmp_path)
    assert done.returncode == 2 and says in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out.csv").exists()


def test_no_faces_is_an_error_that_says_why(affectnet, cli, tmp_path):
    for path in [*affectnet.glob("*/annotations/*_exp.npy")]:
        np.save(path, np.array("9"))
    done = cli("manifest", "affectnet", affectnet, "-o", tmp_path / "out.csv")
    assert done.returncode == 2 and "19 samples labelled 9 (uncertain) are left out" in done.stderr
    assert "no samples" in done.stderr.splitlines()[-1] and not (tmp_path / "out.csv").exists()


def test_a_store_of_faces_named_as_formulas_verifies(tmp_path, cli, put):
    for number, name in enumerate(("-a.jpg", "=b.jpg", "@c.jpg", "plain.jpg")):
        put(tmp_path / "faces/anger" / name, number)
        put(tmp_path / "flat" / name, number)
    (tmp_path / "keys.csv").write_text("key\n-a.jpg\n=b.jpg\n@c.jpg\nplain.jpg\n")
    done = cli("extract", tmp_path / "keys.csv", "--root", tmp_path / "flat", "--store", tmp_path / "store",
               "--backbones", "timm:test_resnet", "--weights", "timm:test_resnet=random:0", "--device", "cpu",
               "--precision", "fp32", "--batch-size", "4")
    assert done.returncode == 0, done.stderr
    assert "'=b.jpg" in (tmp_path / "store/manifest.csv").read_text()
    verified = cli("cache", "verify", tmp_path / "store", "--root", tmp_path / "flat")
    assert verified.returncode == 0 and "not in" not in verified.stdout, verified.stdout
