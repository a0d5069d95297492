"""`predict`: the probabilities of `evaluate`, block by block, and what it refuses."""

import functools
import json
import sys

import numpy as np
import pandas as pd
import pytest

from tests.fuse.conftest import write_store
from twofold.cache.store import Store
from twofold.data.labels import BASIC
from twofold.data.utils.errors import InputError
from twofold.fuse import predict as module
from twofold.fuse.core.settings import resolve
from twofold.fuse.evaluate import evaluate
from twofold.fuse.fuse import fuse
from twofold.fuse.predict import PredictOptions, predict
from twofold.fuse.runs.read import read_run

QUICK = {"epochs": 6, "lr": 3e-3, "warmup": 1, "hidden": 16, "seeds": 2, "batch_size": 64}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The run of a head, trained once on the `store` beside it. Read only."""
    folder = tmp_path_factory.mktemp("predict")
    write_store(folder)

    @functools.cache
    def run(head="mlp"):
        fuse([folder / "store"], resolve(changes=QUICK | {"head": head}), out=folder / head)
        return read_run(folder / head)

    return run


def table(path):
    return pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")


@pytest.mark.parametrize("head", ["mlp", "gated", "late", "logreg", "paper", "zeroshot"])
def test_predict_gives_what_evaluate_and_the_run_itself_say(trained, tmp_path, head, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ROWS", 64)  # 420 faces are seven blocks
    run = trained(head)
    store = run.path.parent / "store"
    done = predict(run, store, PredictOptions(), out=tmp_path / "out.csv")
    rows = {row["key"]: row for row in table(tmp_path / "out.csv")}
    assert done.values["rows"] == 420 and done.exit_code == 0 and sum(done.values["calls"].values()) == 420
    said = evaluate(run.path, store, split="all", allow_seen=True).figures.predictions
    keys = Store(store).files()[0].keys
    for key, expected in zip(said.key, said.calibrated, strict=True):
        row = rows[key]
        assert [float(row[name]) for name in run.taxonomy.classes] == pytest.approx(expected, abs=2e-6)
        assert row["prediction"] == run.taxonomy.classes[expected.argmax()]
    for line in table(run.path / "predictions.csv"):
        assert rows[line["key"]]["prediction"] == line["prediction"]
    shares = [name for name in rows[keys[0]] if name.startswith("share ")]
    assert len(shares) == (2 if head in ("gated", "late") else 0)
    if shares:
        mean = [np.mean([float(row[name]) for row in rows.values()]) for name in shares]
        assert mean == pytest.approx(list(said.system.stream_weights.values()), abs=1e-4)
        assert sum(mean) == pytest.approx(1, abs=1e-4)


def test_rows_keep_the_order_of_the_manifest_whatever_that_of_the_files(trained, make_store, tmp_path):
    run, _ = trained(), make_store()
    predict(run, tmp_path / "store", PredictOptions(), out=tmp_path / "a.csv")
    path = tmp_path / "store/manifest.csv"
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([header, *lines[::-1]]) + "\n")
    predict(run, tmp_path / "store", PredictOptions(), out=tmp_path / "b.csv")
    second = (tmp_path / "b.csv").read_text().splitlines()[1:]
    assert [line.partition(",")[0] for line in second] == [line.partition(",")[0] for line in lines[::-1]]
    turned = table(tmp_path / "b.csv")[::-1]
    for one, other in zip(table(tmp_path / "a.csv"), turned, strict=True):
        assert one["key"] == other["key"] and one["prediction"] == other["prediction"]


def test_top_threshold_and_basic(trained, tmp_path):
    run = trained("paper")
    options = PredictOptions(top=3, threshold=0.9, basic=True)
    done = predict(run, run.path.parent / "store", options, out=tmp_path / "out.csv")
    rows, classes = table(tmp_path / "out.csv"), run.taxonomy.classes
    assert 0 < done.values["calls"]["uncertain"] < 420
    for row in rows:
        best = sorted(classes, key=lambda name: -float(row[name]))
        assert {row["top1"], row["top2"], row["top3"]} == set(best[:3]) and row["top1"] == best[0]
        assert row["prediction"] == (best[0] if float(row[best[0]]) >= 0.9 else "uncertain")
    assert {row["basic"] for row in rows} <= set(BASIC) and len({row["basic"] for row in rows}) > 1


def test_faces_without_features_are_counted_and_left_out_or_interpolated(trained, make_store, tmp_path):
    run = trained()
    store = make_store(rows=20, seed=1, drop=[("a", 4), ("b", 5)])
    done = predict(run, store, PredictOptions(), out=tmp_path / "out.csv")
    assert (done.values["rows"], done.values["left_out"], done.exit_code) == (18, 2, 1)
    assert "2 x not in the store" in done.values["notes"]
    plain = {row["key"]: row for row in table(tmp_path / "out.csv")}
    done = predict(run, store, PredictOptions(smooth="none", overwrite=True), out=tmp_path / "out.csv")
    assert (done.values["rows"], done.values["interpolated"], done.exit_code) == (20, 2, 0)
    rows = table(tmp_path / "out.csv")
    assert [row["face"] for row in rows].count("no") == 2
    for name in run.taxonomy.classes:
        at3, at6 = (float(plain[f"store/{row:05d}.png"][name]) for row in (3, 6))
        assert float(rows[4][name]) == pytest.approx(at3 + (at6 - at3) / 3, abs=2e-6)
        assert float(rows[5][name]) == pytest.approx(at3 + (at6 - at3) * 2 / 3, abs=2e-6)


def test_another_recipe_is_refused_and_another_precision_said(trained, make_store, tmp_path, caplog):
    run = trained()
    make_store(name="other", changes={"weights": "sha256:" + "1" * 64})
    with pytest.raises(InputError, match="weights"):
        predict(run, tmp_path / "other", PredictOptions(), out=tmp_path / "out.csv")
    make_store(name="half", changes={"precision": "bf16"})
    predict(run, tmp_path / "half", PredictOptions(), out=tmp_path / "half.csv")
    assert "bf16" in caplog.text and not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("options, reason", [
    ({"threshold": 1.5}, "probability"), ({"top": 8}, "7 classes"), ({"smooth": "box:2"}, "box:N"),
    ({"basic": True}, "no basic"), ({"fill": True}, "--submission"),
])
def test_options_that_make_no_sense_are_refused(trained, tmp_path, options, reason):
    with pytest.raises(InputError, match=reason):
        predict(trained(), trained().path.parent / "store", PredictOptions(**options), out=tmp_path / "out.csv")
    with pytest.raises(InputError, match="its folder is missing"):
        predict(trained(), trained().path.parent / "store", PredictOptions(), out=tmp_path / "nowhere/out.csv")


def test_a_failed_write_leaves_the_old_file(trained, tmp_path, monkeypatch):
    (tmp_path / "out.csv").write_text("key,prediction\nold")
    monkeypatch.setattr(pd.DataFrame, "to_csv", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predict(trained(), trained().path.parent / "store", PredictOptions(overwrite=True), out=tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().endswith("old") and not list(tmp_path.glob(".tmp-*"))


def test_a_table_is_what_its_name_says(trained, tmp_path, cli, monkeypatch):
    """CSV under the name of Parquet is what nobody can read; `evaluate` writes what it scores, too."""
    run = trained().path
    store = run.parent / "store"
    for verb in ("predict", "evaluate"):
        for name in ("table.csv", "table.parquet"):
            done = cli(verb, run, store, "-o", tmp_path / f"{verb}-{name}", "--json")
            assert done.returncode == 0 and json.loads(done.stdout), done.stderr
            again = cli(verb, run, store, "-o", tmp_path / f"{verb}-{name}", "--overwrite")
            assert again.returncode == 0, again.stderr
        text, parquet = pd.read_csv(tmp_path / f"{verb}-table.csv"), pd.read_parquet(tmp_path / f"{verb}-table.parquet")
        pd.testing.assert_frame_equal(parquet, text, check_dtype=False)
        assert parquet["sadly_angry"].dtype.kind == "f"
        done = cli(verb, run, store, "-o", tmp_path / "table.xlsx")
        assert done.returncode == 2 and ".csv or .parquet" in done.stderr
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        done = cli(verb, run, store, "-o", tmp_path / "x.parquet")
        assert done.returncode == 2 and "pip install 'twofold[parquet]'" in done.stderr
        monkeypatch.undo()
    scored = pd.read_parquet(tmp_path / "evaluate-table.parquet")
    figures = json.loads((run / "metrics.json").read_text())["systems"][-1]
    assert len(scored) == figures["n"]
    assert (scored["truth"] == scored["prediction"]).mean() == pytest.approx(figures["accuracy"])
