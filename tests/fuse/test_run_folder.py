"""What lies at the place of an output: only a verb's own files are replaced, whole, and when asked for."""

import contextlib
import os
import shutil

import numpy as np
import pytest

import twofold
from tests.fuse.conftest import write_manifest, write_store
from twofold.data.utils.errors import InputError
from twofold.fuse.fuse import fuse
from twofold.fuse.runs.read import PENDING, read_run
from twofold.fuse.runs.schema import FILES
from twofold.fuse.settings import resolve
from twofold.fuse.sweep import sweep

QUICK = {"epochs": 1, "hidden": 8, "seeds": 1, "batch_size": 64}


def settings(**changes):
    return resolve(changes=QUICK | changes)


def _weights(path):
    return {name: values.numpy().copy() for name, values in read_run(path).head.state_dict().items()}


def _same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_a_run_of_other_settings_is_replaced_only_when_asked_for(make_store, tmp_path, cli):
    store, out = make_store(rows=210), tmp_path / "run"
    fuse([store], settings(), out=out)
    first = _weights(out)
    fuse([store], settings(), out=out)  # the same again
    with pytest.raises(InputError, match="a run with other hidden, lr: --overwrite"):
        fuse([store], settings(hidden=9, lr=0.01), out=out)
    assert _same(_weights(out), first)
    done = cli("fuse", store, "--out", out, "--epochs", 1, "--seeds", 1, "--hidden", 9, "--overwrite")
    assert done.returncode == 0 and not _same(_weights(out), first)
    rows = [line.split(",") for line in (store / "manifest.csv").read_text().splitlines()[1:]]
    rows[0][3] = "sadly_angry"
    write_manifest(store, rows)
    with pytest.raises(InputError, match="with other"):
        fuse([store], settings(hidden=9), out=out)


def test_what_else_lies_in_the_folder_of_a_run_stays(make_store, tmp_path):
    store, out = make_store(rows=210), tmp_path / "run"
    fuse([store], settings(), out=out)
    (out / "notes.txt").write_text("years of thought")
    (out / "figures").mkdir()
    (out / "figures" / "a.png").write_bytes(b"drawn by hand")
    fuse([store], settings(hidden=9), out=out, overwrite=True)
    assert (out / "notes.txt").read_text() == "years of thought"
    assert (out / "figures" / "a.png").read_bytes() == b"drawn by hand"
    assert {path.name for path in out.iterdir()} == {*FILES, "notes.txt", "figures"}


@pytest.fixture(scope="module")
def old_and_new(tmp_path_factory):
    """A folder with `store`, a run `old` and another one `new`. Read only."""
    folder = tmp_path_factory.mktemp("runs")
    store = write_store(folder, rows=210)
    fuse([store], settings(), out=folder / "old")
    fuse([store], settings(hidden=9), out=folder / "new")
    return folder


@pytest.mark.parametrize("call", range(0, 20, 2))
def test_a_crash_at_any_rename_leaves_the_old_run_or_the_new(old_and_new, tmp_path, monkeypatch, call):
    store, out, new = old_and_new / "store", tmp_path / "run", settings(hidden=9)
    shutil.copytree(old_and_new / "old", out)
    before, after, calls = _weights(out), _weights(old_and_new / "new"), []
    assert not _same(before, after)

    def counted(original):
        def wrapped(*arguments):
            calls.append(original.__name__)
            if len(calls) == call + 1:
                raise KeyboardInterrupt
            return original(*arguments)
        return wrapped

    with monkeypatch.context() as patch:
        for name in ("replace", "rename", "fsync"):
            patch.setattr(os, name, counted(getattr(os, name)))
        with contextlib.suppress(KeyboardInterrupt):
            fuse([store], new, out=out, overwrite=True)
    state = _weights(out)
    assert _same(state, before) or _same(state, after)
    expected = read_run(old_and_new / ("old" if _same(state, before) else "new"))
    now = read_run(out)  # every reader sees the same run
    assert now.predictions.keys == expected.predictions.keys
    assert np.array_equal(now.predictions.probabilities, expected.predictions.probabilities)
    assert now.metrics.systems[-1].confusion == expected.metrics.systems[-1].confusion
    assert twofold.Run(out).figures["macro_f1"].tolist() == [each.macro_f1 for each in expected.metrics.systems]
    fuse([store], new, out=out, overwrite=True)  # and the next one works
    assert _same(_weights(out), after) and not (out / PENDING).exists()


def test_a_sweep_goes_on_in_its_own_folder_only(make_store, tmp_path):
    store, out, config = make_store(rows=210), tmp_path / "sweep", tmp_path / "sweep.toml"

    def run(grid, **options):
        config.write_text(f"heads = ['linear']\nbackbones = [['timm:a']]\nseeds = 1\n[settings]\nepochs = 1\n"
                          f"[grid]\nhidden = {grid}\n")
        return sweep([store], config, out=out, jobs=1, **options)

    run([4])
    (out / "notes.txt").write_text("mine")
    assert run([4, 5]).reused == 1  # more trials: the same sweep
    with pytest.raises(InputError, match="holds 2 trials of another sweep"):
        run([6])
    done = run([5, 6], overwrite=True)
    assert done.reused == 1 and len(list((out / "trials").iterdir())) == 2
    assert (out / "notes.txt").read_text() == "mine"
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "thesis.txt").write_text("years of work")
    out = tmp_path / "else"
    with pytest.raises(InputError, match="is not a sweep"):
        run([4])
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
