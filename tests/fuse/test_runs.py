"""A run's folder: from a stranger it is checked value by value; a new run replaces an old one whole, when asked to."""

import contextlib
import json
import math
import os
import shutil
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import twofold
from tests.fuse.conftest import edit_record, write_manifest, write_store
from twofold.cache.recipe import Recipe
from twofold.data.utils.errors import InputError
from twofold.extract.engine.task import Encoders
from twofold.extract.streams import MatchingEncoders
from twofold.fuse.core.settings import PENDING, resolve
from twofold.fuse.fuse import fuse
from twofold.fuse.runs.read import read_run
from twofold.fuse.runs.schema import FILES
from twofold.fuse.sweep import sweep

QUICK = {"epochs": 1, "hidden": 8, "seeds": 2, "batch_size": 64}


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """A trained run, for each test to copy."""
    folder = tmp_path_factory.mktemp("honest")
    fuse([write_store(folder, rows=210)], resolve(changes=QUICK), out=folder / "run")
    return folder / "run"


@pytest.fixture
def run(honest, tmp_path):
    return shutil.copytree(honest, tmp_path / "run")


def _set(record, place, value):
    *path, last = place
    for name in path:
        record = record[name]
    record[last] = value


ATTACKS = [  # the place of a value of run.json, and what stands there
    (("head", "hidden"), 1_000_000),  # 8 GB
    (("head", "members"), 99_998),  # 7.7 GB
    (("head", "hidden"), 10**30), (("head", "dropout"), 10**400), (("head", "dims"), [-12, 8]),
    (("head", "dims"), [True, 8]), (("head", "dims"), [12]), (("streams",), []), (("streams",), None),
    (("streams", 0, "backbone"), ["timm:a"]), (("streams", 0, "recipe", "view"), {}),
    (("streams", 0, "view"), ["original"]), (("streams", 0, "recipe"), 7),
    (("streams", 0, "recipe", "backbone"), "timm:vit_giant_patch14_224"),
    (("streams", 0, "recipe", "preprocessing"), {"size": math.nan}), (("streams", 0, "dim"), 13),
    (("streams", 0, "fingerprint"), "0" * 16), (("settings",), ["head", "mlp"]), (("settings", "x" * 10**6), 1),
    (("settings", "seeds"), 10**9), (("temperature",), math.nan), (("temperature",), 0),
    (("temperatures",), [math.inf]), (("temperatures",), [1.0, 1.0]), (("faces",), [{}] * 3),
    (("classes_name",), "rafdb11"), (("classes_name",), "\x1b[31m" + "x" * 10**6),
    (("head", "classes"), ["happily_surprised"] * 7),
    (("head", "classes"), list(range(7))), (("head", "kind"), "tree"), (("head", "kind"), ["mlp"]),
    (("head", "evil"), 1), (("version",), [1] * 10**6)]


@pytest.mark.parametrize(("place", "value"), ATTACKS, ids=lambda part: str(part)[:30])
def test_a_record_that_makes_no_sense_is_one_sentence_before_anything_is_allocated(run, cli, place, value):
    record = json.loads((run / "run.json").read_text())
    _set(record, place, value)
    (run / "run.json").write_text(json.dumps(record))
    tracemalloc.start()
    with pytest.raises(InputError) as refusal:
        read_run(run)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6 and len(str(refusal.value)) < 1500 and "\n" not in str(refusal.value)
    done = cli("predict", run, run, "-o", run / "out.csv")
    assert done.returncode == 2 and "Traceback" not in done.stderr and "\x1b" not in done.stderr


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", '{"version": 1}', "[" * 10**5, '"' + "x" * 10**6 + '"',
                                  '{"version": 1' + "0" * 9999 + "}", "\udcff"])
def test_a_record_that_is_no_record_is_one_sentence(run, text):
    (run / "run.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as refusal:
        read_run(run)
    assert len(str(refusal.value)) < 500


def _weights(run, change):
    state = load_file(run / "head.safetensors")
    change(state)
    save_file(state, run / "head.safetensors")


@pytest.mark.parametrize("change", [
    lambda state: state["mean"].fill_(math.nan), lambda state: state["body.mlp.last.bias"].fill_(math.inf),
    lambda state: state["std"].zero_(), lambda state: state["std"].neg_(), lambda state: state.pop("mean"),
    lambda state: state.update(more=torch.zeros(1)), lambda state: state.update(mean=state["mean"][..., :-1].clone()),
    lambda state: state.update(mean=state["mean"].double()),
])
def test_weights_that_do_not_fit_or_are_no_numbers_are_refused(run, change):
    _weights(run, change)
    with pytest.raises(InputError, match="head"):
        read_run(run)


def _header(run, change):
    path = run / "head.safetensors"
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length:])


@pytest.mark.parametrize("change", [
    lambda header: header["mean"].update(data_offsets=[0, 10**15]), lambda header: header["mean"].update(shape="x"),
    lambda header: header["mean"].update(data_offsets=[10**12, 10**12 + 160]), lambda header: header.update(mean=[1]),
    lambda header: header["mean"].update(data_offsets=[-160, 0]), lambda header: header["mean"].pop("data_offsets"),
    lambda header: header.update({f"t{k}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
                                  for k in range(50_000)}),
])
def test_a_header_that_lies_is_refused(run, change):
    _header(run, change)
    with pytest.raises(InputError, match=r"head\.safetensors"):
        read_run(run)


def test_a_file_cut_anywhere_or_with_any_byte_after_it_is_refused(run):
    content = (run / "head.safetensors").read_bytes()
    for cut in [0, 1, 7, 8, 9, 100, 700, len(content) // 2, len(content) - 1]:
        (run / "head.safetensors").write_bytes(content[:cut])
        with pytest.raises(InputError, match=r"head\.safetensors"):
            read_run(run)
    (run / "head.safetensors").write_bytes(content + b"\0")
    with pytest.raises(InputError, match=r"head\.safetensors"):
        read_run(run)


def test_random_changes_of_the_record_never_end_in_another_error(run):
    text = (run / "run.json").read_text()
    generator = np.random.default_rng(0)
    junk = [None, -1, 0, 1e308, "", "x", [], {}, [[]], True, 2**70]

    def places(value, path=()):
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for name, inner in items:
            yield (*path, name)
            yield from places(inner, (*path, name))

    every = list(places(json.loads(text)))
    for place in every:
        record = json.loads(text)
        _set(record, place, junk[generator.integers(len(junk))])
        (run / "run.json").write_text(json.dumps(record))
        try:
            read_run(run)
        except InputError as refusal:
            assert len(str(refusal)) < 1500


def _of_a_giant(run, weights, name="timm:vit_giant_patch14_224"):
    """Let the run want a network of a billion weights."""
    def change(record):
        record["streams"][0]["backbone"] = name
        record["streams"][0]["recipe"] |= {"backbone": name, "weights": weights}

    return Recipe.from_json(json.dumps(edit_record(run, change)["streams"][0]["recipe"]))


@pytest.mark.parametrize(("dim", "weights", "says"), [
    (12, "random:0", "gives 1408 features, not the 12"), (1408, "random:0", "1,011 million numbers"),
    (1408, "sha256:" + "0" * 64, "nothing in the hub")])
def test_a_giant_is_refused_before_it_is_built(run, tmp_path, monkeypatch, dim, weights, says):
    """It took 4.7 GB and 28 s: now its widths and names are looked up where tensors have no memory."""
    recipe = _of_a_giant(run, weights)
    monkeypatch.setenv("TWOFOLD_WEIGHTS", str(tmp_path))

    def load(_, source):
        if source.weights != "hub":  # which is tried last
            pytest.fail("it is built")
        raise InputError("nothing in the hub")

    monkeypatch.setattr(Encoders, "load", load)
    save_file({"conv1.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=says):
        MatchingEncoders([recipe], device="cpu", dims=[dim], weights=[
            f"{recipe.backbone}={tmp_path / 'other.safetensors'}"] if dim > 12 else []).load_all()


def test_a_giant_is_refused_by_predict(run, cli, tmp_path):
    from PIL import Image

    _of_a_giant(run, "random:0")
    (tmp_path / "faces").mkdir()
    Image.new("RGB", (64, 64), "grey").save(tmp_path / "faces" / "a.png")
    (tmp_path / "faces.csv").write_text("key\na.png\n")
    done = cli("predict", run, tmp_path / "faces.csv", "--root", tmp_path / "faces", "-o", tmp_path / "out.csv")
    assert done.returncode == 2 and "gives 1408 features, not the 12" in done.stderr, done.stderr


def settings(**changes):
    return resolve(changes=QUICK | {"seeds": 1} | changes)


def _state(path):
    return {name: values.numpy().copy() for name, values in read_run(path).head.state_dict().items()}


def _same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_a_run_of_other_settings_is_replaced_only_when_asked_for(make_store, tmp_path, cli):
    store, out = make_store(rows=210), tmp_path / "run"
    fuse([store], settings(), out=out)
    first = _state(out)
    fuse([store], settings(), out=out)  # the same again
    with pytest.raises(InputError, match="a run with other hidden, lr: --overwrite"):
        fuse([store], settings(hidden=9, lr=0.01), out=out)
    assert _same(_state(out), first)
    (out / "figures").mkdir()
    (out / "figures" / "a.png").write_bytes(b"drawn by hand")
    done = cli("fuse", store, "--out", out, "--epochs", 1, "--seeds", 1, "--hidden", 9, "--overwrite")
    assert done.returncode == 0 and not _same(_state(out), first)
    assert {path.name for path in out.iterdir()} == {*FILES, "figures"}  # what else lies there stays
    assert (out / "figures" / "a.png").read_bytes() == b"drawn by hand"
    rows = [line.split(",") for line in (store / "manifest.csv").read_text().splitlines()[1:]]
    rows[0][3] = "sadly_angry"
    write_manifest(store, rows)
    with pytest.raises(InputError, match="with other"):
        fuse([store], settings(hidden=9), out=out)


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
    before, after, calls = _state(out), _state(old_and_new / "new"), []
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
    state = _state(out)
    assert _same(state, before) or _same(state, after)
    expected = read_run(old_and_new / ("old" if _same(state, before) else "new"))
    now = read_run(out)  # every reader sees the same run
    assert all(np.array_equal(getattr(now.predictions, name), getattr(expected.predictions, name))
               for name in ("key", "group", "target", "outputs"))
    assert now.metrics.systems[-1].confusion == expected.metrics.systems[-1].confusion
    assert resolve(config=out / "run.json").hidden == now.settings.hidden == expected.settings.hidden
    assert twofold.Run(out).figures["macro_f1"].tolist() == [each.macro_f1 for each in expected.metrics.systems]
    fuse([store], new, out=out, overwrite=True)  # and the next one works
    assert _same(_state(out), after) and not (out / PENDING).exists()


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


@pytest.mark.parametrize("ragged", [lambda row: f"{row},0.5", lambda row: f"{row},", lambda row: row.rpartition(",")[0],
                                    lambda row: row.partition(",")[2], lambda row: f"{row},,,"])
def test_a_row_of_predictions_with_more_or_fewer_cells_is_refused(run, ragged):
    """pandas would take the first cells for an index, or fill those that are missing."""
    path = run / "predictions.csv"
    head, *rows = path.read_text().splitlines()
    assert len(read_run(run).predictions.key)
    tests = [number for number, row in enumerate(rows) if ",test," in row]
    for place in (tests[0], tests[-1]):
        path.write_text("\n".join([head, *rows[:place], ragged(rows[place]), *rows[place + 1:]]) + "\n")
        with pytest.raises(InputError, match=r"predictions\.csv"):
            _ = read_run(run).predictions
