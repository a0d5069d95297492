"""Interpolation and smoothing over the frames of a video, against rows worked out by hand."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from twofold.data.utils.errors import InputError
from twofold.fuse.video import frame_numbers, parse_window, rows_by_video, smooth_video, smooth_videos

NAN = float("nan")


def column(*values):
    return np.array(values, np.float32)[:, None]


def filled(scores, at=None, weights="none"):
    seen = ~np.isnan(scores[:, 0])
    frames = np.arange(len(scores)) if at is None else np.array(at)
    return smooth_video(scores, seen, frames, parse_window(weights))[:, 0]


def test_gaps_lie_on_the_line_between_the_nearest_faces_and_edges_repeat():
    assert filled(column(NAN, 0.2, NAN, NAN, 0.8, NAN)) == pytest.approx([0.2, 0.2, 0.4, 0.6, 0.8, 0.8])


def test_frames_that_are_no_rows_count_as_frames_without_a_face():
    assert filled(column(0.0, NAN, 1.0), at=[1, 2, 5]) == pytest.approx([0, 0.25, 1])
    assert filled(column(1.0, 0.0, NAN), at=[5, 1, 2]) == pytest.approx([1, 0, 0.25])  # in any order


def test_a_box_is_the_mean_of_the_frames_under_it():
    """0 0 0 3 6: edges repeated are 0 0 | 0 0 0 3 6 | 6 6."""
    assert filled(column(0, 0, 0, 3, 6), weights="box:3") == pytest.approx([0, 0, 1, 3, 5])
    assert filled(column(0, 0, 0, 3, 6), weights="box:5") == pytest.approx([0, 0.6, 1.8, 3, 4.2])


def test_gaps_are_filled_before_they_are_smoothed():
    """0 nan 2 5 -> 0 1 2 5 -> (0+0+1)/3, 3/3, 8/3, 12/3."""
    assert filled(column(0, NAN, 2, 5), weights="box:3") == pytest.approx([1 / 3, 1, 8 / 3, 4])


def test_the_gaussian_is_scipys():
    line = np.random.default_rng(0).random(40).astype(np.float32)
    assert filled(column(*line), weights="gauss:2") == pytest.approx(gaussian_filter1d(line, 2, mode="nearest"))
    assert filled(column(*line), weights="gauss:30") == pytest.approx(gaussian_filter1d(line, 30, mode="nearest"))


@pytest.mark.parametrize("text", ["box:5", "gauss:2", "gauss:0.1", "none"])
def test_probabilities_stay_probabilities(text):
    scores = np.random.default_rng(0).dirichlet(np.ones(7), 20).astype(np.float32)
    scores[[0, 5, 6, 19]] = NAN
    out = smooth_video(scores, ~np.isnan(scores[:, 0]), np.arange(20), parse_window(text))
    assert out.min() >= 0 and out.sum(axis=1) == pytest.approx(np.ones(20), abs=1e-5)


@pytest.mark.parametrize("text", ["box:4", "box:0", "box:-3", "box", "box:2.5", "gauss:0", "gauss:nan", "gauss:-1",
                                  "gauss:inf", "median:3", ""])
def test_other_smoothing_is_refused(text):
    with pytest.raises(InputError, match="box:N"):
        parse_window(text)


def test_a_video_is_a_group_or_else_a_folder_and_none_reaches_into_another():
    keys = ["a/1.jpg", "b/1.jpg", "a/2.jpg", "c/9.jpg", "c/8.jpg"]
    found = rows_by_video(keys, ["", "", "", "g", "g"])
    assert {name: rows.tolist() for name, rows in found.items()} == {"a": [0, 2], "b": [1], "g": [3, 4]}
    scores, faceless = smooth_videos(column(1, NAN, NAN, 0, 4), keys, ["", "", "", "g", "g"], parse_window("box:3"))
    assert faceless == ["b"]
    assert scores[:, 0] == pytest.approx([1, NAN, 1, 4 / 3, 8 / 3], nan_ok=True)


def test_names_that_do_not_count_frames_are_refused():
    assert frame_numbers(["01/00001.jpg", "01/x_12.png"], "01").tolist() == [1, 12]
    with pytest.raises(InputError, match="no frame number"):
        frame_numbers(["01/1.jpg", "01/anna.jpg"], "01")
    with pytest.raises(InputError, match="same number"):
        frame_numbers(["a/1.jpg", "b/1.jpg"], "g")
    with pytest.raises(InputError, match="not a video"):
        frame_numbers(["a/1.jpg", "a/20261123.jpg"], "a")
