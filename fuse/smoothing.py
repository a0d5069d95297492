"""Scores of a video's frames: interpolated between the nearest frames with a face, then smoothed by a box or a
Gaussian, edges repeated (arXiv 2407.13184)."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from twofold.data.utils.errors import InputError

MAX_FRAMES = 1_000_000  #: nine hours of video: what numbers more is not a video
MAX_WINDOW = 10_001  #: frames
STANDALONE = "::alone"  #: the sequence of rows that nothing comes before or after; no source's name has a colon


def parse_window(text: str) -> np.ndarray:
    """(2 r + 1,) weights that sum to one: `box:5` is 5 frames wide, `gauss:2` has a deviation of 2 frames, `none` is 1.

    The Gaussian ends at four deviations. Raises InputError for anything else.
    """
    kind, _, size = text.partition(":")
    try:
        if text == "none":
            return np.ones(1)
        if kind == "box" and int(size) % 2 and 0 < int(size) <= MAX_WINDOW:
            return np.full(int(size), 1 / int(size))
        if kind == "gauss" and 0 < float(size) <= MAX_WINDOW / 10:
            radius = int(4 * float(size) + 0.5)
            weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / float(size)) ** 2)
            return weights / weights.sum()
    except ValueError:
        pass
    raise InputError(f"smoothing {text!r} is not box:N (N frames wide, odd), gauss:S (a deviation of S frames) or none")


def sequences(table: pd.DataFrame) -> np.ndarray:
    """(N,) the sequence of each row, by name: a `group`; in footage the samples of a person.

    Frames without a face belong to the person of their video if there is only one. Photographs, and other frames
    without a face, stand alone.
    """
    if not {"source", "frame", "track"} <= set(table):
        return table["group"].to_numpy(object)
    source, track = table["source"], table["person" if "person" in table else "track"]
    several = source.map(track[track != ""].groupby(source).nunique()) > 1
    single = (table["frame"] == "") | (several & (track == ""))
    return source.mask(several, source + ", person " + track).mask(single, STANDALONE).to_numpy(object)


def smooth_videos(scores: np.ndarray, keys: Sequence[str], groups: Sequence[str], window: np.ndarray
                  ) -> tuple[np.ndarray, list[str]]:
    """(N, C) scores of all frames, interpolated and smoothed in each video, and the videos that have no face at all.

    A video is the rows of a `group`, or of a folder where there is no group. scores: (N, C), nan where a frame has no
    face; the rows of a video without any stay nan.
    """
    out, faceless = scores.copy(), []
    videos = pd.Series([group or key.rpartition("/")[0] for key, group in zip(keys, groups, strict=True)], dtype=object)
    for name, part in videos.groupby(videos, sort=False):
        rows = part.index.to_numpy()
        if np.isnan(scores[rows, 0]).all():
            faceless.append(str(name))
            continue
        out[rows] = smooth_video(scores[rows], frame_numbers([keys[int(row)] for row in rows], str(name)), window)
    return out, faceless


def frame_numbers(keys: Sequence[str], video: str) -> np.ndarray:
    """(n,) the number at the end of each frame's name. Raises InputError if they do not count frames."""
    matches = [re.search(r"(\d{1,18})$", PurePosixPath(key).stem, re.ASCII) for key in keys]
    if None in matches:
        raise InputError(f"video {video!r}: {keys[matches.index(None)]} has no frame number at the end of its name, as "
                         "00001.jpg has")
    numbers = np.array([int(match[1]) for match in matches if match], np.int64)
    if len(np.unique(numbers)) < len(numbers):
        raise InputError(f"video {video!r}: two of its frames have the same number: give each video a folder of its "
                         "own, or its name in the manifest's column 'group'")
    if np.ptp(numbers) >= MAX_FRAMES:
        raise InputError(f"video {video!r}: frames numbered from {numbers.min()} to {numbers.max()} are not a video")
    return numbers


def smooth_video(scores: np.ndarray, frames: np.ndarray, window: np.ndarray) -> np.ndarray:
    """(n, C) scores of all frames of one video, from scores (n, C) that are nan where a frame has no face.

    frames: (n,) distinct frame numbers, in any order. Frames that are not among the rows count as frames without a
    face. Linear between the nearest frames with a face, beyond them repeated.
    """
    order = np.argsort(frames)
    scored = order[~np.isnan(scores[order, 0])]
    times, radius = np.arange(frames.min(), frames.max() + 1), len(window) // 2
    out = np.empty(scores.shape, np.float32)
    for c in range(scores.shape[1]):
        line = np.pad(np.interp(times, frames[scored], scores[scored, c]), radius, mode="edge")
        out[:, c] = np.convolve(line, window, mode="valid")[frames - times[0]]
    return out
