"""Clips as samples, from a store of frames to predictions: trained, scored, evaluated and predicted by the clip."""

import json

import numpy as np
import pandas as pd
import pytest

from tests.fuse.conftest import quick, recipe
from twofold.cache.feature_writer import write_feature_file
from twofold.cache.store import Store
from twofold.data.utils.errors import InputError
from twofold.fuse.core.settings import DEFAULT_POOL
from twofold.fuse.core.units import pool_frames
from twofold.fuse.evaluate import evaluate
from twofold.fuse.experiment import prepare
from twofold.fuse.fuse import fuse
from twofold.fuse.predict import PredictOptions, predict
from twofold.fuse.runs.read import read_run

EMOTIONS = ("anger", "fear", "sadness")


def write_clips(folder, *, clips=90, seed=0, order_only=False, dim=6, columns=None):
    """A store of clips of 5 to 9 frames, three emotions, 15 people; returns it and (clips,) lists of features.

    The emotion shifts the mean of the frames, or with order_only decides whether they rise, fall, or rise and fall.
    """
    folder.mkdir()
    generator = np.random.default_rng(seed)
    rows, frames = [], []
    for clip in range(clips):
        label, count = clip % 3, int(generator.integers(5, 10))
        values = 0.3 * generator.normal(size=(count, dim)) + generator.normal(size=(1, dim))
        if order_only:
            line = np.linspace(-2, 2, count)
            values[:, 0] += line if label == 0 else line[::-1] if label == 1 else np.append(line[::2], line[1::2][::-1])
        else:
            values[:, label] += 3
        frames.append(values.astype(np.float16))
        rows += [{"key": f"c{clip:03d}/{frame:06d}.png", "split": "", "basic": EMOTIONS[label], "compound": "",
                  "group": f"person {clip // 3 % 15}", "source": f"c{clip:03d}.mp4", "frame": str(frame)}
                 for frame in range(count)]
    table = pd.DataFrame(rows).assign(**(columns or {}))
    table.to_csv(folder / "manifest.csv", index=False)
    order = generator.permutation(len(table))  # files have an order of their own
    write_feature_file(folder / "net.h5", recipe=recipe("net"), dim=dim, keys=table["key"].to_numpy()[order].tolist(),
                       sha256=[f"{seed * 10**6 + row:064x}" for row in order],
                       features=np.concatenate(frames)[order], failures={})
    return folder, frames


def settings(**given):
    return quick(classes="basic3.toml" if "classes" not in given else given.pop("classes"), unit="source", folds=5,
                 head="logreg", **given)


@pytest.fixture
def classes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "basic3.toml").write_text('name = "basic3"\ntarget = "basic"\nclasses = ["anger", "fear", "sadness"]\n')


def test_clips_are_read_pooled_whatever_the_file_holds_them_in(tmp_path, classes):
    store, frames = write_clips(tmp_path / "s")
    features = prepare([store], settings()).features
    expected = np.stack([pool_frames(each.astype(np.float32), DEFAULT_POOL) for each in frames])
    assert features.matrix == pytest.approx(expected, abs=1e-6) and features.dim == 42
    streamed = prepare([store], settings(memory_gb=1e-9)).features
    assert streamed.matrix is None
    rows = np.random.default_rng(0).permutation(90)[:40]
    assert (streamed.read(rows) == features.matrix[rows]).all()
    assert len(set(features.sha256)) == 90 and features.keys[3] == "c003.mp4"
    mean = prepare([store], settings(pool=("mean",))).features
    assert mean.matrix == pytest.approx(expected[:, :6], abs=1e-6)


def test_a_run_of_clips_is_scored_evaluated_and_predicts_by_the_clip(tmp_path, classes):
    store, _ = write_clips(tmp_path / "s")
    fusion = fuse([store], settings(), out=tmp_path / "run")
    figures = fusion.figures[-1]
    assert len(figures.predictions) == 90 and figures.groups == 15 and figures.of["accuracy"].value > 0.9
    saved = pd.read_csv(tmp_path / "run/predictions.csv")
    assert sorted(saved["key"]) == [f"c{clip:03d}.mp4" for clip in range(90)]
    assert json.loads((tmp_path / "run/run.json").read_text())["settings"]["unit"] == "source"
    again = evaluate(tmp_path / "run", store)  # each clip by the fold that has not seen it
    assert again.figures.of["accuracy"].value == pytest.approx(figures.of["accuracy"].value)
    new, _ = write_clips(tmp_path / "new", clips=60, seed=5)
    predict(read_run(tmp_path / "run"), new, PredictOptions(), out=tmp_path / "p.csv")
    table = pd.read_csv(tmp_path / "p.csv")
    assert table["key"].tolist() == [f"c{clip:03d}.mp4" for clip in range(60)]
    assert (table["prediction"] == [EMOTIONS[clip % 3] for clip in range(60)]).mean() > 0.85


def test_what_is_only_in_the_order_is_learned_from_steps_in_time(tmp_path, classes):
    """Rise, fall, or rise and fall, of the same values and of any length: at chance without the order."""
    store, _ = write_clips(tmp_path / "s", clips=240, order_only=True)
    accuracy = {pool: fuse([store], settings(pool=pool), out=None).figures[-1].of["accuracy"].value
                for pool in (DEFAULT_POOL, ("mean", "slope"), ("steps8",))}
    assert accuracy[DEFAULT_POOL] < 0.45 and accuracy["mean", "slope"] > 0.75 and accuracy["steps8",] > 0.95, accuracy


def test_a_clip_of_which_frames_failed_is_that_of_the_others(tmp_path, classes):
    store, frames = write_clips(tmp_path / "s")
    table = pd.read_csv(store / "manifest.csv", dtype=str)
    added = table.assign(key=table["key"].str.replace(".png", "x.png"))
    alone = added[added["source"] == "c000.mp4"].assign(source="other.mp4", key=lambda rows: "o" + rows["key"])
    pd.concat([table, added, alone]).to_csv(store / "manifest.csv", index=False)
    features = prepare([store], settings()).features
    assert len(features) == 90 and features.matrix[4] == pytest.approx(
        pool_frames(frames[4].astype(np.float32), DEFAULT_POOL), abs=1e-6)
    fuse([store], settings(), out=tmp_path / "run")
    done = predict(read_run(tmp_path / "run"), store, PredictOptions(), out=tmp_path / "p.csv")
    assert done.exit_code == 1 and "1 samples have no features" in "\n".join(done.lines)


def test_frames_that_an_encoder_was_tuned_with_make_their_clip_a_seen_one(tmp_path, classes):
    store, _ = write_clips(tmp_path / "s")
    features = prepare([store], settings()).features
    first = Store(store).find("timm:net", "original").sha256
    key = Store(store).find("timm:net", "original").keys.tolist()[7]
    held = features.holds(np.array([first[7]]))
    assert features.keys[held].tolist() == [f"{key[:4]}.mp4"]


def test_a_clip_that_has_lost_a_frame_is_still_the_one_that_was_learned(tmp_path, classes):
    store, _ = write_clips(tmp_path / "s", columns={"group": ""})
    fuse([store], settings(), out=tmp_path / "run")
    table = pd.read_csv(store / "manifest.csv", dtype=str)
    table[table["frame"] != "0"].to_csv(store / "manifest.csv", index=False)
    run = read_run(tmp_path / "run")
    features, _ = run.features(Store(store))
    assert (run.seen.unseen(features, np.arange(90)).sum(axis=1) == 1).all()  # by its own fold alone
    assert run.seen.unseen(features, np.arange(0)).shape == (0, 5)


def test_what_clips_cannot_do_is_said(tmp_path, classes):
    store, _ = write_clips(tmp_path / "s")
    with pytest.raises(InputError, match="no column clip"):
        prepare([store], quick(classes="basic3.toml", unit="clip", folds=5))
    other, _ = write_clips(tmp_path / "other", columns={"basic": "anger"})
    table = pd.read_csv(other / "manifest.csv", dtype=str)
    table.loc[1, "basic"] = "fear"
    table.to_csv(other / "manifest.csv", index=False)
    with pytest.raises(InputError, match=r"'c000\.mp4' differ in the column 'basic'"):
        prepare([other], settings())
    fuse([store], settings(), out=tmp_path / "run")
    with pytest.raises(InputError, match="smooth"):
        predict(read_run(tmp_path / "run"), store, PredictOptions(smooth="box:3"), out=tmp_path / "p.csv")
    with pytest.raises(InputError, match="answers once a source"):
        read_run(tmp_path / "run").require_single_images()
