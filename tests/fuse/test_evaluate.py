"""Several runs on the same faces, side by side."""

import json

import numpy as np
import pytest

from tests.fuse.conftest import edit_manifest, quick
from twofold.data.labels import builtin_taxonomy
from twofold.data.utils.errors import InputError
from twofold.fuse.evaluate import evaluate, evaluate_all
from twofold.fuse.fuse import fuse


@pytest.fixture
def runs(make_store, tmp_path):
    """A store, and runs on its first backbone, its second, and both."""
    store = make_store()
    for name, backbones in {"a": ["timm:a"], "b": ["timm:b"], "both": ["timm:a", "timm:b"]}.items():
        fuse([store], quick(epochs=6, hidden=16, seeds=1, backbones=backbones), out=tmp_path / name)
    return store, [tmp_path / name for name in ("a", "b", "both")]


def test_runs_side_by_side_have_the_figures_they_have_alone(runs):
    store, paths = runs
    found = evaluate_all(paths, store)
    for path, one in zip(paths, found.each, strict=True):
        assert one.figures.scores.accuracy == evaluate(path, store).figures.scores.accuracy
    text = found.text()
    assert all(str(path) in text for path in paths) and "against" in text and "by sign flips of groups" in text
    best = max(found.each[:2], key=lambda one: one.figures.score)
    gain = found.each[2].figures.score - best.figures.score
    assert found.best_other == str(best.run) and np.isclose(found.comparison.difference, gain)


def test_the_papers_table_of_ones_own_faces(cli, runs):
    store, paths = runs
    done = cli("evaluate", *paths, store, "--table", "paper")
    assert done.returncode == 0, done.stderr
    rows = {line[:23].strip(): line[23:].split() for line in done.stdout.splitlines()}
    assert rows["Compound Expression"] == ["#1", "#2", "#3"] and "397-image split only" in done.stdout
    records = json.loads(cli("evaluate", *paths, store, "--table", "paper", "--json").stdout)["runs"]
    assert rows["Sadly Angry"] == [f"{100 * one['per_class']['sadly_angry']['recall']:.2f}" for one in records]
    alone = cli("evaluate", paths[0], store, "--table", "paper")
    assert alone.returncode == 0 and "#2" not in alone.stdout


def test_runs_that_cannot_stand_side_by_side(cli, make_store, runs, tmp_path):
    store, paths = runs
    with pytest.raises(InputError, match="unknown table 'latex'"):
        evaluate_all(paths, store, table="latex")
    eleven = make_store(name="eleven")  # the same faces under a longer list of classes
    table = (eleven / "manifest.csv").read_text().splitlines()
    for row, name in enumerate(builtin_taxonomy("rafdb11").classes * 4):
        key, split, basic, _, group = table[row + 1].split(",")
        table[row + 1] = ",".join((key, split if row > 22 else "train", basic, name, group))
    (eleven / "manifest.csv").write_text("\n".join(table) + "\n")
    fuse([eleven], quick(epochs=6, hidden=16, seeds=1, classes="rafdb11"), out=tmp_path / "run11")
    done = cli("evaluate", tmp_path / "run11", paths[0], store)
    assert done.returncode == 2 and "different classes" in done.stderr, done.stderr
    edit_manifest(store, lambda row, cells: cells | {"mood": "ab"[row % 2], "other": "ab"[row // 2 % 2]})
    for target in ("mood", "other"):
        fuse([store], quick(seeds=1, epochs=1, classes="a,b", target=target), out=tmp_path / target)
    with pytest.raises(InputError, match="were scored by other classes or labels"):
        evaluate_all([tmp_path / "mood", tmp_path / "other"], store)
    short = make_store(name="short", drop=[("b", row) for row in range(0, 420, 7)])
    with pytest.raises(InputError, match="extract what is missing"):
        evaluate_all(paths, short, split="all")
