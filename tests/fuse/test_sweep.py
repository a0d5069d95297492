"""Sweeps: every combination once, failures as rows, continued after a stop, the winner a normal run."""

import csv
import os
import signal
import time

import numpy as np
import pytest
import torch

from tests.fuse.conftest import recipe
from twofold.cache.feature_file import FeatureFile
from twofold.cache.feature_writer import write_feature_file
from twofold.data.utils.errors import InputError
from twofold.fuse.core.settings import resolve
from twofold.fuse.fuse import fuse
from twofold.fuse.sweep import plan, sweep

TOML = """
heads = ["linear", "mlp", "gated"]
seeds = 2
[settings]
epochs = 15
batch_size = 64
lr = 0.01
warmup = 1
[grid]
hidden = [8, 24]
"""


@pytest.mark.slow
def test_a_sweep_continues_and_its_winner_reproduces(make_store, tmp_path):
    store, out = make_store(), tmp_path / "sweep"
    config = tmp_path / "sweep.toml"
    config.write_text(TOML)
    first = sweep([store], config, out=out, jobs=2)
    assert len(first.trials) == 3 * 3 * 2 and first.exit_code == 0 and first.trials[0].settings["backbones"] == [
        "timm:a", "timm:b"]
    rows = list(csv.DictReader((out / "leaderboard.csv").open(encoding="utf-8")))
    order = [float(row["val_macro_f1"]) for row in rows]
    assert order == sorted(order, reverse=True) and "test" not in " ".join(rows[0])
    for trial in list((out / "trials").glob("*.json"))[:5]:
        trial.write_text(trial.read_text()[:20])  # as a full disk would leave it
    second = sweep([store], config, out=out, jobs=1)
    assert second.reused == 13
    again = list(csv.DictReader((out / "leaderboard.csv").open(encoding="utf-8")))
    assert [row["trial"] for row in again] == [row["trial"] for row in rows]
    again = fuse([store], resolve(config=out / "best/run.json"), out=tmp_path / "again")
    assert (tmp_path / "again/predictions.csv").read_bytes() == (out / "best/predictions.csv").read_bytes()
    assert again.figures[-1].predictions.system.val_score == pytest.approx(first.trials[0].score)


@pytest.mark.slow
def test_a_killed_sweep_keeps_what_was_finished(make_store, forked, tmp_path):
    store, out, config = make_store(), tmp_path / "sweep", tmp_path / "sweep.toml"
    config.write_text(TOML)
    running, until = forked("sweep", store, "--config", config, "--out", out, "--jobs", "1"), time.monotonic() + 60
    while len(list(out.glob("trials/*.json"))) < 3 and time.monotonic() < until:
        time.sleep(0.02)
    running.signal(signal.SIGKILL)
    running.finish()
    kept = len(list(out.glob("trials/*.json")))
    assert 3 <= kept < 18 and not (out / "best").exists()
    assert sweep([store], config, out=out, jobs=1).reused == kept


def test_what_fails_is_a_row_with_its_reason(make_store, tmp_path):
    config = tmp_path / "sweep.toml"
    config.write_text('backbones = [["timm:a"], ["timm:lost"]]\nheads = ["linear", "tree"]\n[settings]\nepochs = 2\n')
    threads = torch.get_num_threads()
    torch.set_num_threads((os.cpu_count() or 1) + 1)  # what no share of the cores comes to
    try:
        made = sweep([make_store()], config, out=tmp_path / "out", jobs=1)
        assert torch.get_num_threads() == (os.cpu_count() or 1) + 1  # an encoder may run in this process after it
    finally:
        torch.set_num_threads(threads)
    assert made.exit_code == 1 and [bool(trial.error) for trial in made.trials] == [False, True, True, True]
    assert "tree" in made.text() and "timm:lost" in (tmp_path / "out/leaderboard.csv").read_text()


def test_several_files_of_one_backbone_are_chosen_apart(make_store, tmp_path):
    store, config = make_store(), tmp_path / "sweep.toml"
    first = FeatureFile(store / "a.original.h5")
    write_feature_file(store / "again.h5", recipe=recipe("a", weights="sha256:" + "1" * 64), dim=12,
                       keys=list(first.keys), sha256=list(first.sha256), failures={},
                       features=np.asarray(first.read_rows(np.arange(first.rows)), np.float16))
    config.write_text('backbones = "all"\nheads = ["linear"]\nseeds = 1\n[settings]\nepochs = 1\n')
    made = sweep([store], config, out=tmp_path / "out", jobs=1)
    names = {f"timm:a@{file.fingerprint[:8]}" for file in (first, FeatureFile(store / "again.h5"))} | {"timm:b"}
    assert {name for trial in made.trials for name in trial.settings["backbones"]} == names
    assert made.exit_code == 0 and len(made.trials) == 7


@pytest.mark.parametrize(("text", "message"), [
    ("heads = [", "not a TOML"), ("head = 'mlp'", "unknown head"), ("backbones = 'some'", "backbones is 'some'"),
    ("[ablation]\nlr = [0.1]", "scored on folds"), ("[ablation]\nfolds = [3]", "same samples"),
    ("[ablation]\nextra_views = [['flip']]", "same samples"),
    ("[ablation]\nlr = 0.1\n[settings]\nfolds = 3", "list of values for lr"),
    ("heads = ['mlp', 'linear']\n[ablation]\nlr = [0.1]\n[settings]\nfolds = 3", "changes one base"),
    ("heads = []", "heads must be"), ("[grid]\nlr = 0.1", "list of values"), ("[grid]\nlearning = [1]", "no setting"),
])
def test_a_configuration_that_makes_no_sense_is_named(make_store, tmp_path, text, message):
    config = tmp_path / "sweep.toml"
    config.write_text(text)
    with pytest.raises(InputError, match=message):
        plan(config, [make_store()])


ABLATION = """
seeds = 2
[settings]
folds = 3
epochs = 10
batch_size = 64
lr = 0.01
warmup = 1
hidden = 16
[ablation]
lr = [0.01, 1e-7]
head = ["linear", "tree"]
"""


@pytest.mark.slow
def test_an_ablation_changes_one_setting_at_a_time_and_compares_on_the_same_faces(make_store, tmp_path):
    store, config = make_store(), tmp_path / "a.toml"
    config.write_text(ABLATION)
    made = sweep([store], config, out=tmp_path / "out", jobs=1)
    base, slow = made.ablated[:2]  # lr = 0.01 is no change, and a tree is no head
    assert [row["change"] for row in made.ablated] == ["no change", "lr = 1e-07", "head = linear"]
    assert made.exit_code == 1 and made.best is None and not (tmp_path / "out/best").exists()
    assert base["samples"] == 420 and base["against_no_change"] is None
    assert base["macro_f1"] > 0.95 > 0.5 > slow["macro_f1"]
    assert slow["against_no_change"]["interval"][1] < 0 and slow["against_no_change"]["difference"] == pytest.approx(
        slow["macro_f1"] - base["macro_f1"])
    plain = fuse([store], resolve(changes=made.trials[0].settings | {"head": "mlp", "lr": 0.01}), out=None)
    assert plain.figures[-1].score == pytest.approx(base["macro_f1"])
    again = sweep([store], config, out=tmp_path / "out", jobs=1)
    assert again.reused == 3 and again.ablated == made.ablated
    text = made.text()
    assert "420 samples of all folds" in text and "lr = 1e-07" in text and "tree" in text
