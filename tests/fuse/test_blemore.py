"""BLEMORE from a store of clips with its names to the file that is handed in, on drawn features."""

import csv
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from tests.fuse.conftest import quick, recipe
from twofold.cache.feature_writer import write_feature_file
from twofold.data.readers.blemore import EMOTIONS
from twofold.data.utils.errors import InputError
from twofold.fuse.core.blends import Blends
from twofold.fuse.evaluate import evaluate
from twofold.fuse.fuse import fuse
from twofold.fuse.predict import PredictOptions, check_options, predict
from twofold.fuse.runs.read import read_run

NAMES = tuple(EMOTIONS.values())


def _write(folder, clips, seed):
    """A store of clips (source, group, fold, shares) of 2 to 5 frames whose features are the shares and noise."""
    folder.mkdir()
    generator, rows, features = np.random.default_rng(seed), [], []
    for source, group, fold, shares in clips:
        for frame in range(generator.integers(2, 6)):
            rows.append([f"{source}/{frame:06d}.png", "test" if group == source else "train", "", "", group, source,
                         str(frame), fold, *(f"{100 * share:.0f}" if sum(shares) else "" for share in shares)])
            features.append(np.append(shares, generator.normal(0, 0.1, 6)) + generator.normal(0, 0.03, 12))
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["key", "split", "basic", "compound", "group", "source", "frame", "fold",
                                     *(f"p_{name}" for name in NAMES)], *rows])
    write_feature_file(folder / "net.h5", recipe=recipe("net"), dim=12, keys=[row[0] for row in rows], failures={},
                       sha256=[f"{seed * 10**6 + row:064x}" for row in range(len(rows))],
                       features=np.array(features, np.float16))
    return folder


def _clips(actors=15):
    """Each actor shows the six emotions and three of the pairs; fold by actor."""
    pairs = [(a, b) for a in range(6) for b in range(a + 1, 6) if 4 not in (a, b)]
    clips = []
    for actor in range(actors):
        for c in range(6):
            clips.append((f"A{actor}_{c}.mov", f"A{actor}", str(actor % 5), np.eye(6)[c]))
        for number in range(6):
            a, b = pairs[(actor + 3 * number) % 10]
            share = (0.5, 0.7, 0.3)[(actor + number) % 3]
            clips.append((f"A{actor}_mix{number}.mov", f"A{actor}", str(actor % 5),
                          share * np.eye(6)[a] + (1 - share) * np.eye(6)[b]))
    return clips


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blemore")
    store = _write(folder / "train", _clips(), 1)
    settings = quick(classes="blemore6", unit="source", pool=("mean",), folds=5, epochs=60, seeds=1, lr=1e-2,
                     label_smoothing=0.0, compound_mixup=0.0)
    return folder, store, fuse([store], settings, out=folder / "run")


def test_blends_are_scored_by_presence_and_salience(trained):
    folder, store, fusion = trained
    figures = fusion.figures[-1]
    assert isinstance(fusion.task, Blends) and len(figures.predictions) == 180 and figures.groups == 15
    for key in ("presence", "salience"):
        assert figures.of[key].value > 0.45, figures.of[key]
        low, high = figures.of[key].interval
        assert low < figures.of[key].value < high
    run = read_run(folder / "run")
    assert all(0 < value < 1 for each in run.calibrations for value in each.thresholds[:2])
    again = evaluate(folder / "run", store).figures
    assert again.of["salience"].value == pytest.approx(figures.of["salience"].value)
    saved = run.predictions  # as the answers in predictions.csv say, whatever the thresholds were
    target, decided = run.task.compared(Blends.metrics[0], saved)
    assert ((target > 0) == (decided > 0)).all(axis=1).mean() == pytest.approx(figures.of["presence"].value)


def test_a_submission_has_the_emotions_of_each_video(trained, tmp_path):
    folder, *_ = trained
    run = read_run(folder / "run")
    shares = [np.eye(6)[0], 0.7 * np.eye(6)[1] + 0.3 * np.eye(6)[5], 0.5 * np.eye(6)[2] + 0.5 * np.eye(6)[3]]
    clips = [(f"test_{number:04d}.mov", f"test_{number:04d}.mov", "", shares[number % 3]) for number in range(30)]
    store = _write(tmp_path / "test", [(*clip[:3], clip[3]) for clip in clips], 2)
    template = tmp_path / "template.json"
    template.write_text(json.dumps({"predictions": {clip[0]: [] for clip in reversed(clips)}}))
    out = tmp_path / "answers.json"
    done = predict(run, store, PredictOptions(template=template), out=out)
    assert done.exit_code == 0
    answers = json.loads(out.read_text())["predictions"]
    assert list(answers) == [clip[0] for clip in reversed(clips)]
    expected = [[{"emotion": "ang", "salience": 100.0}],
                [{"emotion": "disg", "salience": 70.0}, {"emotion": "sad", "salience": 30.0}],
                [{"emotion": "fea", "salience": 50.0}, {"emotion": "hap", "salience": 50.0}]]
    right = [sorted(map(str, answers[clip[0]])) == sorted(map(str, expected[number % 3]))
             for number, clip in enumerate(clips)]
    assert np.mean(right) > 0.5, answers
    zipped = tmp_path / "answers.zip"
    predict(run, store, PredictOptions(template=template), out=zipped)
    with zipfile.ZipFile(zipped) as archive:
        assert json.loads(archive.read("template.json")) == {"predictions": answers}
    first = zipped.read_bytes()
    predict(run, store, PredictOptions(template=template, overwrite=True), out=zipped)
    assert zipped.read_bytes() == first
    table = tmp_path / "table.csv"
    predict(run, store, PredictOptions(), out=table)
    lines = list(csv.DictReader(table.open()))
    assert len(lines) == 30 and lines[0]["prediction"] == "anger" and " + " in lines[1]["prediction"]


def test_blends_of_frames_make_no_events(trained, tmp_path):
    run = read_run(trained[0] / "run")
    with pytest.raises(InputError, match="events are of classes, not of labels, numbers, blends"):
        check_options(PredictOptions(events=tmp_path / "e.csv"), replace(run, settings=replace(run.settings, unit="")),
                      None, inputs=())


def test_videos_that_are_missing_and_templates_of_others_are_refused(trained, tmp_path):
    folder, store, _ = trained
    run, options = read_run(folder / "run"), PredictOptions
    template, out = tmp_path / "template.json", tmp_path / "o.json"
    template.write_text(json.dumps({"predictions": {"A0_0.mov": [], "A1_1.mov": [], "gone.mov": []}}))
    with pytest.raises(InputError, match=r"1 whole videos of the template have no face: gone\.mov"):
        predict(run, store, options(template=template), out=out)
    predict(run, store, options(template=template, fill=True), out=out)
    assert len(json.loads(out.read_text())["predictions"]["gone.mov"]) in (1, 2)
    for content, message in (('{"predictions": {}}', "no list of emotions"), ('{"answers": 1}', "predictions"),
                             ('{"predictions": {"a.mov": 3}}', "no list"), ("image_location,x\n", "cexpr7")):
        template.write_text(content)
        with pytest.raises(InputError, match=message):
            check_options(options(template=template), run, tmp_path / "n.json", inputs=())
    template.write_text(json.dumps({"predictions": {"A0_0.mov": []}}))
    (tmp_path / "mine.json").write_text('{"predictions": {"b.mov": []}}')
    with pytest.raises(InputError, match="not a submission for this template"):
        check_options(options(template=template, overwrite=True), run, tmp_path / "mine.json", inputs=())
