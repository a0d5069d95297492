"""Frames of a video: interpolation and smoothing against rows worked out by hand, and a mock challenge."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from twofold.cache.feature_writer import write_feature_file
from twofold.data.labels import builtin_taxonomy
from twofold.data.readers.cexpr import HEADER
from twofold.data.utils.errors import InputError
from twofold.fuse.core.settings import resolve
from twofold.fuse.fuse import fuse
from twofold.fuse.predict import (
    PredictOptions,
    frame_numbers,
    parse_window,
    predict,
    smooth_video,
    smooth_videos,
    submission_output,
    submission_scores,
    template_keys,
    write_submission,
)
from twofold.fuse.runs.read import read_run

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
def challenge(make_store, tmp_path):
    """A trained run, and a store with the faces of the challenge, cut from the run's own kind of features."""
    settings = resolve(changes={"epochs": 8, "lr": 3e-3, "warmup": 1, "hidden": 16, "seeds": 1})
    fuse([make_store()], settings, out=tmp_path / "run")
    run = read_run(tmp_path / "run")
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
    return run, place, keys, run.probabilities(np.hstack([features["a"], features["b"]]).astype(np.float32))


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
    done = cli("predict", tmp_path / "run", tmp_path / "challenge", "--submission", template, "-o", tmp_path / "o.csv")
    assert done.returncode == 2 and not (tmp_path / "o.csv").exists()
    assert "1 whole videos" in done.stderr and " 02;" in done.stderr and "--fill-videos" in done.stderr


@pytest.mark.parametrize("start, ends", [("\ufeff", "\n"), ("", "\r\n"), ("\n", "\n\n")])
def test_all_other_bytes_stay(tmp_path, start, ends):
    text = start + ends.join([",".join(HEADER), "01/00001.jpg,0", "01/00002.jpg,", "02/00001.jpg", ""])
    path, out = tmp_path / "t.csv", tmp_path / "out.csv"
    path.write_bytes(text.encode())
    assert template_keys(path, builtin_taxonomy("cexpr7")) == ("01/00001.jpg", "01/00002.jpg", "02/00001.jpg")
    write_submission(path, submission_output(out, path, overwrite=False, inputs=()), [6, 3, 1])
    expected = start + ends.join([",".join(HEADER), "01/00001.jpg,6", "01/00002.jpg,3", "02/00001.jpg,1", ""])
    assert out.read_bytes() == expected.encode()


def test_what_has_no_answer_is_refused(template):
    classes = builtin_taxonomy("cexpr7")
    assert [name.lower() for name in HEADER[1:]] == list(classes.classes) and classes.numbers == tuple(range(7))
    with pytest.raises(InputError, match="cexpr7"):
        template_keys(template, builtin_taxonomy("rafdb11"))
    with pytest.raises(InputError, match="01, 02"):  # no face at all: nothing to fill with
        submission_scores(np.full((2, 7), np.nan), ["01/1.jpg", "02/1.jpg"], parse_window("none"), fill=True)
