"""`predict`: the probabilities of `evaluate`, block by block, and what it refuses; frames of a video: interpolation and
smoothing against rows worked out by hand, and a mock challenge."""

import functools
import json
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter1d

from tests.fuse.conftest import write_store
from twofold.cache.feature_writer import write_feature_file
from twofold.cache.store import Store
from twofold.data.labels import BASIC, basic_emotions, builtin_taxonomy
from twofold.data.readers.cexpr import HEADER
from twofold.data.utils.errors import InputError
from twofold.fuse import predict as module
from twofold.fuse.core.kinds import Classification
from twofold.fuse.core.settings import resolve
from twofold.fuse.evaluate import evaluate
from twofold.fuse.fuse import fuse
from twofold.fuse.predict import PredictOptions, predict
from twofold.fuse.runs.read import read_run
from twofold.fuse.smoothing import frame_numbers, parse_window, smooth_video, smooth_videos
from twofold.fuse.submission import FrameTemplate, read_template

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


@pytest.mark.parametrize("head", ["linear", "mlp", "gated", "late", "logreg", "paper", "zeroshot"])
def test_predict_gives_what_evaluate_and_the_run_itself_say(trained, tmp_path, head, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ROWS", 64)  # 420 faces are seven blocks
    run = trained(head)
    store = run.path.parent / "store"
    forced = PredictOptions(second=0.0) if run.basics else PredictOptions()
    done = predict(run, store, forced, out=tmp_path / "out.csv")
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


def test_top_threshold_second_and_basic(trained, tmp_path):
    run = trained("paper")
    options = PredictOptions(top=3, threshold=0.9, second=0.12)
    done = predict(run, run.path.parent / "store", options, out=tmp_path / "out.csv")
    assert f"{done.values['calls']['none']} of 420 answers are `none`" in done.values["notes"][-1]
    rows, classes = table(tmp_path / "out.csv"), run.taxonomy.classes
    assert 0 < done.values["calls"]["uncertain"] < 420
    for row in rows:
        best = sorted(classes, key=lambda name: -float(row[name]))
        assert {row["top1"], row["top2"], row["top3"]} == set(best[:3]) and row["top1"] == best[0]
        shown = min(float(row[emotion]) for emotion in basic_emotions(best[0])) >= 0.12
        assert row["prediction"] == ("none" if not shown else best[0] if float(row[best[0]]) >= 0.9 else "uncertain")
        assert row["basic"] == max(BASIC, key=lambda name: float(row[name]))
        assert sum(float(row[name]) for name in BASIC) == pytest.approx(1, abs=1e-5)
    assert len({row["basic"] for row in rows}) > 1 and {"none", "uncertain"} < {row["prediction"] for row in rows}


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
    ({"second": 0.2}, "no basic"), ({"second": -1}, "not a share"), ({"fill": True}, "--submission"),
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


NAN = float("nan")


def column(*values):
    return np.array(values, np.float32)[:, None]


@pytest.mark.parametrize("scores, at, weights, expected", [
    ((NAN, 0.2, NAN, NAN, 0.8, NAN), None, "none", [0.2, 0.2, 0.4, 0.6, 0.8, 0.8]),  # a line, and edges repeat
    ((0, NAN, 1), (1, 2, 5), "none", [0, 0.25, 1]),  # frames that are no rows count as frames without a face
    ((1, 0, NAN), (5, 1, 2), "none", [1, 0, 0.25]),  # in any order
    ((0, 0, 0, 3, 6), None, "box:3", [0, 0, 1, 3, 5]),  # 0 0 0 3 6, edges repeated: 0 0 | 0 0 0 3 6 | 6 6
    ((0, 0, 0, 3, 6), None, "box:5", [0, 0.6, 1.8, 3, 4.2]),
    ((0, NAN, 2, 5), None, "box:3", [1 / 3, 1, 8 / 3, 4])])  # filled before smoothed: 0 1 2 5 -> 1/3, 3/3, 8/3, 12/3
def test_gaps_are_filled_and_frames_smoothed(scores, at, weights, expected):
    frames = np.arange(len(scores)) if at is None else np.array(at)
    assert smooth_video(column(*scores), frames, parse_window(weights))[:, 0] == pytest.approx(expected)


@pytest.mark.parametrize("deviation", [2, 30])
def test_the_gaussian_is_scipys(deviation):
    line = np.random.default_rng(0).random(40).astype(np.float32)
    ours = smooth_video(line[:, None], np.arange(40), parse_window(f"gauss:{deviation}"))[:, 0]
    assert ours == pytest.approx(gaussian_filter1d(line, deviation, mode="nearest"))


@pytest.mark.parametrize("text", ["box:5", "gauss:2", "gauss:0.1", "none"])
def test_probabilities_stay_probabilities(text):
    scores = np.random.default_rng(0).dirichlet(np.ones(7), 20).astype(np.float32)
    scores[[0, 5, 6, 19]] = NAN
    out = smooth_video(scores, np.arange(20), parse_window(text))
    assert out.min() >= 0 and out.sum(axis=1) == pytest.approx(np.ones(20), abs=1e-5)


@pytest.mark.parametrize("text", ["box:4", "box:0", "box:-3", "box", "box:2.5", "gauss:0", "gauss:nan", "gauss:-1",
                                  "gauss:inf", "median:3", ""])
def test_other_smoothing_is_refused(text):
    with pytest.raises(InputError, match="box:N"):
        parse_window(text)


def test_a_video_is_a_group_or_else_a_folder_and_none_reaches_into_another():
    keys = ["a/1.jpg", "b/1.jpg", "a/2.jpg", "c/9.jpg", "c/8.jpg"]
    scores, faceless = smooth_videos(column(1, NAN, NAN, 0, 4), keys, ["", "", "", "g", "g"], parse_window("box:3"))
    assert faceless == ["b"]
    assert scores[:, 0] == pytest.approx([1, NAN, 1, 4 / 3, 8 / 3], nan_ok=True)


@pytest.mark.parametrize("keys, reason", [
    (["01/1.jpg", "01/anna.jpg"], "anna.jpg has no frame number"), (["a/1.jpg", "b/1.jpg"], "same number"),
    (["a/1.jpg", "a/20261123.jpg"], "not a video")])
def test_names_that_do_not_count_frames_are_refused(keys, reason):
    assert frame_numbers(["01/00001.jpg", "01/x_12.png"], "01").tolist() == [1, 12]
    with pytest.raises(InputError, match=reason):
        frame_numbers(keys, "01")


VIDEOS = {"01": 6, "02": 3, "03": 5}  #: frames of the template; 03 asks for one more than was decoded
FACES = {"01": (2, 5), "02": (), "03": (1, 2, 4)}  #: frames with a face


@pytest.fixture
def template(tmp_path):
    """Windows line ends, and none after the last line."""
    lines = [",".join(HEADER), *(f"{video}/{frame:05d}.jpg,0" for video, frames in VIDEOS.items()
                                 for frame in range(1, frames + 1))]
    path = tmp_path / "template.csv"
    path.write_bytes("\r\n".join(lines).encode())
    return path


@pytest.fixture
def challenge(trained, tmp_path):
    """A trained run, and a store with the faces of the challenge, cut from the run's own kind of features."""
    run = trained()
    keys = [f"{video}/{frame:05d}.jpg" for video, frames in FACES.items() for frame in frames]
    place = tmp_path / "challenge"
    place.mkdir()
    (place / "manifest.csv").write_text("key\n" + "\n".join(keys) + "\n")
    features = {}
    for name, dim in (("a", 12), ("b", 8)):
        features[name] = np.random.default_rng(dim).normal(0, 2, (len(keys), dim)).astype(np.float16)
        recipe = next(recipe for backbone, _, recipe in run.streams if backbone == f"timm:{name}")
        write_feature_file(place / f"{name}.h5", recipe=recipe, dim=dim, keys=keys,
                          sha256=[f"{row:064x}" for row in range(len(keys))], features=features[name], failures={})
    return run, place, keys, run.probabilities(np.hstack([features["a"], features["b"]]).astype(np.float32))[0]


def by_hand(found: dict[str, np.ndarray], *, box: bool = False) -> list[int]:
    """The classes of the template's rows: interpolation, edges, and a window of three frames, written out."""
    p, q = found["01/00002.jpg"], found["01/00005.jpg"]
    one = [p, p, p * 2 / 3 + q / 3, p / 3 + q * 2 / 3, q, q]
    a, b, d = (found[f"03/{frame:05d}.jpg"] for frame in (1, 2, 4))
    three = [a, b, (b + d) / 2, d, d]
    if box:
        one = [(one[0] + one[0] + one[1]) / 3, *(sum(one[k - 1:k + 2]) / 3 for k in range(1, 5)),
               (one[4] + one[5] + one[5]) / 3]
        three = [(a + a + three[1]) / 3, *(sum(three[k - 1:k + 2]) / 3 for k in range(1, 4)),
                 (three[3] + three[4] + three[4]) / 3]
    two = [np.mean(list(found.values()), axis=0)] * 3
    return [int(row.argmax()) for row in [*one, *two, *three]]


@pytest.mark.parametrize("smooth", ["", "box:3"])
def test_a_mock_challenge(challenge, template, tmp_path, smooth):
    run, place, keys, scores = challenge
    expected = by_hand(dict(zip(keys, scores, strict=True)), box=bool(smooth))
    assert len(set(expected)) > 1  # else the rows would prove nothing
    options = PredictOptions(template=template, fill=True, smooth=smooth)
    done = predict(run, place, options, out=tmp_path / "out.csv")
    assert (done.values["rows"], done.values["interpolated"], done.exit_code) == (14, 9, 0)
    lines = template.read_bytes().split(b"\r\n")
    wanted = [lines[0], *(line[:-1] + b"%d" % call for line, call in zip(lines[1:], expected, strict=True))]
    assert (tmp_path / "out.csv").read_bytes() == b"\r\n".join(wanted)


def test_whole_videos_without_a_face_stop_it_with_a_list(challenge, template, tmp_path, cli):
    done = cli("predict", challenge[0].path, challenge[1], "--submission", template, "-o", tmp_path / "o.csv")
    assert done.returncode == 2 and not (tmp_path / "o.csv").exists()
    assert "1 whole videos" in done.stderr and " 02;" in done.stderr and "--fill-videos" in done.stderr


@pytest.mark.parametrize("start, ends", [("\ufeff", "\n"), ("", "\r\n"), ("\n", "\n\n")])
def test_all_other_bytes_stay(tmp_path, start, ends):
    text = start + ends.join([",".join(HEADER), "01/00001.jpg,0", "01/00002.jpg,", "02/00001.jpg", ""])
    path, out = tmp_path / "t.csv", tmp_path / "out.csv"
    path.write_bytes(text.encode())
    task = Classification(builtin_taxonomy("cexpr7"))
    asked = read_template(path, task)
    assert asked.keys == ("01/00001.jpg", "01/00002.jpg", "02/00001.jpg")
    asked.write(out, asked.content(task, np.eye(7)[[6, 3, 1]], np.zeros((3, 0))))
    assert asked.is_filled(out)
    expected = start + ends.join([",".join(HEADER), "01/00001.jpg,6", "01/00002.jpg,3", "02/00001.jpg,1", ""])
    assert out.read_bytes() == expected.encode()


def test_what_has_no_answer_is_refused(template):
    classes = builtin_taxonomy("cexpr7")
    assert [name.lower() for name in HEADER[1:]] == list(classes.classes) and classes.numbers == tuple(range(7))
    with pytest.raises(InputError, match="cexpr7"):
        read_template(template, Classification(builtin_taxonomy("rafdb11")))
    with pytest.raises(InputError, match="01, 02"):  # no face at all: nothing to fill with
        FrameTemplate(template, ("01/1.jpg", "02/1.jpg")).complete(np.full((2, 7), np.nan), parse_window("none"),
                                                                   fill=True)
