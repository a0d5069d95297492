"""Frames of one video: class scores for those without a face, and smoothing over neighbours.

Interpolation between the nearest frames with a face, then a box or a Gaussian, edges repeated (arXiv 2407.13184).
"""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from twofold.data.utils.errors import InputError

LONGEST = 1_000_000  #: frames, nine hours of video: what numbers more is no video
WIDEST = 10_001  #: frames under one window


def window(text: str) -> np.ndarray:
    """(2 r + 1,) weights that sum to one: `box:5` is 5 frames wide, `gauss:2` has a deviation of 2 frames, `none` is 1.

    The Gaussian ends at four deviations. Raises InputError for anything else.
    """
    kind, _, size = text.partition(":")
    try:
        if text == "none":
            return np.ones(1)
        if kind == "box" and int(size) % 2 and 0 < int(size) <= WIDEST:
            return np.full(int(size), 1 / int(size))
        if kind == "gauss" and 0 < float(size) <= WIDEST / 10:
            radius = int(4 * float(size) + 0.5)
            weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / float(size)) ** 2)
            return weights / weights.sum()
    except ValueError:
        pass
    raise InputError(f"smoothing {text!r} is not box:N (N frames wide, odd), gauss:S (a deviation of S frames) or none")


def videos(keys: Sequence[str], groups: Sequence[str]) -> dict[str, np.ndarray]:
    """Rows of each video, in order: those of one `group`, or of one folder where there is no group."""
    rows: dict[str, list[int]] = {}
    for row, (key, group) in enumerate(zip(keys, groups, strict=True)):
        rows.setdefault(group or key.rpartition("/")[0], []).append(row)
    return {name: np.array(places) for name, places in rows.items()}


def frame_numbers(keys: Sequence[str], video: str) -> np.ndarray:
    """(n,) the number at the end of each frame's name. Raises InputError if they do not count frames."""
    matches = [re.search(r"(\d{1,18})$", PurePosixPath(key).stem, re.ASCII) for key in keys]
    if not all(matches):
        lacking = next(key for key, match in zip(keys, matches, strict=True) if not match)
        raise InputError(f"video {video!r}: {lacking} has no frame number at the end of its name, as 00001.jpg has")
    numbers = np.array([int(match[1]) for match in matches if match], np.int64)
    if len(set(numbers.tolist())) < len(numbers):
        raise InputError(f"video {video!r}: two of its frames have the same number: give each video a folder of its "
                         "own, or its name in the manifest's column 'group'")
    if numbers.max() - numbers.min() >= LONGEST:
        raise InputError(f"video {video!r}: frames numbered from {numbers.min()} to {numbers.max()} are no video")
    return numbers


def along(scores: np.ndarray, seen: np.ndarray, at: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(n, C) scores of all frames of one video, from those (n, C) of the frames with a face.

    seen: (n,) bool, at least one true; at: (n,) distinct frame numbers, in any order. Frames that are not among the
    rows count as frames without a face. Linear between the nearest frames with a face, beyond them repeated.
    """
    with_face = np.flatnonzero(seen)[np.argsort(at[seen])]
    times = np.arange(at.min(), at.max() + 1)
    radius = len(weights) // 2
    out = np.empty((len(at), scores.shape[1]), np.float32)
    for c in range(scores.shape[1]):
        line = np.pad(np.interp(times, at[with_face], scores[with_face, c]), radius, mode="edge")
        out[:, c] = np.convolve(line, weights, mode="valid")[at - times[0]]
    return out


def smoothed(
    scores: np.ndarray, keys: Sequence[str], groups: Sequence[str], weights: np.ndarray,
) -> tuple[np.ndarray, list[str]]:
    """(N, C) scores of all frames, interpolated and smoothed in each video, and the videos that have no face at all.

    scores: (N, C), nan where a frame has no face; the rows of a video without any stay nan.
    """
    out, faceless = scores.copy(), []
    for name, rows in videos(keys, groups).items():
        seen = ~np.isnan(scores[rows, 0])
        if not seen.any():
            faceless.append(name)
            continue
        out[rows] = along(scores[rows], seen, frame_numbers([keys[int(row)] for row in rows], name), weights)
    return out, faceless
