"""The event files of `fuse` and `sweep`, read back by TensorBoard's own reader."""

import csv
import json
import sys

import pytest

from twofold.fuse.runs.tensorboard import OURS


def scalars(folder):
    """(step, value) lists by tag."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator",
                                      reason="TensorBoard is optional")
    events = accumulator.EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.fixture(autouse=True)
def reader():
    pytest.importorskip("tensorboard", reason="TensorBoard is optional")


@pytest.mark.parametrize("folds", [0, 2])
def test_curves_and_figures_of_a_run(make_store, cli, tmp_path, folds):
    words = ("fuse", make_store(rows=210), "--epochs", 3, "--seeds", 2, "--hidden", 8, "--folds", folds,
             "--out", tmp_path / "run", "--tensorboard", tmp_path / "board")
    (tmp_path / "board/curves").mkdir(parents=True)
    (tmp_path / "board/curves/events.out.tfevents.1.mine").write_bytes(b"mine")
    for _ in range(2):  # the second time in place of the first
        done = cli(*words)
        assert done.returncode == 0, done.stderr
    with (tmp_path / "run/history.csv").open() as file:
        rows = list(csv.DictReader(file))
    for fold in range(folds or 1):
        for seed in range(2):
            name = f"fold{fold}-seed{seed}" if folds else f"seed{seed}"
            assert len(list((tmp_path / "board/curves" / name).iterdir())) == 1
            curves = scalars(tmp_path / "board/curves" / name)
            lines = [row for row in rows if row["fold"] == str(fold) and row["member"] == str(seed)]
            assert len(lines) == 3
            for tag in ("loss", "val_macro_f1", "val_accuracy", "lr"):
                assert curves[tag] == [(int(row["epoch"]), pytest.approx(float(row[tag]), rel=1e-5)) for row in lines]
    systems = json.loads((tmp_path / "run/metrics.json").read_text())["systems"]
    names = sorted(path.name for path in (tmp_path / "board/systems").iterdir())
    assert names == ["1 timm-a", "2 timm-b", "3 fusion of all 2"]
    for name, system in zip(names, systems, strict=True):
        shown = scalars(tmp_path / "board/systems" / name)
        assert shown["test/macro_f1"] == [(0, pytest.approx(system["macro_f1"]))]
    assert (tmp_path / "board/curves/events.out.tfevents.1.mine").read_bytes() == b"mine"


def test_trials_of_a_sweep(make_store, cli, tmp_path):
    (tmp_path / "sweep.toml").write_text(
        'heads = ["linear"]\nseeds = 1\n[settings]\nepochs = 2\n[grid]\nlr = [0.1, 0.2]')
    store = make_store({"a": ("ab", 6)}, rows=140)
    done = cli("sweep", store, "--config", tmp_path / "sweep.toml", "--out", tmp_path / "sweep", "--jobs", 1,
               "--tensorboard", tmp_path / "board", "--json")
    assert done.returncode == 0, done.stderr
    board = json.loads(done.stdout)["leaderboard"]
    assert {path.name for path in (tmp_path / "board").iterdir()} == {"best", *(trial["trial"] for trial in board)}
    for trial in board:
        folder = tmp_path / "board" / trial["trial"]
        assert scalars(folder / "trial")["val_macro_f1"][0][1] == pytest.approx(trial["val_macro_f1"])
        assert [step for step, _ in scalars(folder / "curves/seed0")["loss"]] == [0, 1]
        (path,) = (folder / "trial").glob(f"*{OURS}")
        assert b"_hparams_/session_start_info" in path.read_bytes()


def test_without_tensorboard_nothing_is_trained(make_store, cli, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    done = cli("fuse", make_store(rows=70), "--out", tmp_path / "run", "--tensorboard", tmp_path / "board")
    assert done.returncode == 2 and "pip install tensorboard" in done.stderr
    assert not (tmp_path / "run").exists() and not (tmp_path / "board").exists()
