"""Class scores over time as an image: a panel a person, a line a class, gaps where the face was not seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from twofold.data.utils.errors import InputError
from twofold.data.utils.outputs import Output, OutputKind, read_head

MARK = "drawn by twofold predict"  #: in the metadata of the files, so that a later run recognises them
MAX_PANELS = 30
MIN_FRAMES = 2  #: of a track with a panel
#: of the classes, in order: the first seven are told apart by colour-blind readers (after Okabe and Ito)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A6D00", "#666666", "#7F3C8D", "#11A579",
           "#B22222", "#2F4F4F", "#A0522D", "#4B0082")


@dataclass(frozen=True)
class TrackScores:
    """The scores of one person. times (n,) seconds, scores (n, C); frame_times (m,): of all frames used of the video,
    among them those in which the person was not seen."""

    name: str
    times: np.ndarray
    scores: np.ndarray
    frame_times: np.ndarray

    def segments(self) -> list[slice]:
        """Runs of frames in each of which the person was seen."""
        positions = np.searchsorted(self.frame_times, self.times)
        cuts = np.flatnonzero(np.diff(positions) > 1) + 1
        return [slice(begin, end) for begin, end in zip([0, *cuts], [*cuts, len(positions)], strict=True)]


def scores_by_track(table: pd.DataFrame, classes: Sequence[str]) -> list[TrackScores]:
    """One for each source and track of a table of `predict`, in their order."""
    tracks = []
    for source, video in table[table["time"] != ""].groupby("source", sort=True):
        frame_times = np.unique(video["time"].astype(float))
        for track, rows in video[video["track"] != ""].groupby(video["track"].replace("", "-1").astype(int)):
            tracks.append(TrackScores(f"{source}, person {track}", rows["time"].astype(float).to_numpy(),
                                      rows[list(classes)].astype(float).to_numpy(), frame_times))
    return tracks


def require_matplotlib() -> None:
    """Raises InputError where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InputError("--timeline needs matplotlib: pip install 'twofold[report]' (or matplotlib)") from None


def draw_timeline(table: pd.DataFrame, classes: Sequence[str], out: Output) -> None:
    """Write the timeline as PNG, whole or not at all. People seen in a single frame are left out, and counted."""
    from matplotlib.figure import Figure

    tracks = scores_by_track(table, classes)
    shown = [track for track in tracks if len(track.times) >= MIN_FRAMES][:MAX_PANELS]
    figure = Figure(figsize=(14, 1.2 + 2.2 * max(1, len(shown))), layout="constrained")
    panels = figure.subplots(max(1, len(shown)), squeeze=False)[:, 0]
    for panel, track in zip(panels, shown, strict=False):
        panel.set(title=track.name, xlim=track.frame_times[[0, -1]] if len(track.frame_times) > 1 else None,
                  ylim=(0, 1), xlabel="seconds", facecolor="#e6e6e6")  # grey: not seen
        panel.title.set_parse_math(False)
        for part in track.segments():
            panel.axvspan(track.times[part.start], track.times[part.stop - 1], color="white", zorder=0)
            for number in range(len(classes)):
                panel.plot(track.times[part], track.scores[part, number], color=COLOURS[number % len(COLOURS)],
                           marker="." if part.stop - part.start == 1 else None)
    left_out = len(tracks) - len(shown)
    note = f"{left_out} more, seen in a single frame or beyond {MAX_PANELS}" if left_out else ""
    figure.supxlabel(note if shown else "nobody was seen in more than one frame", fontsize="small")
    lines = [panels[0].plot([], color=COLOURS[number % len(COLOURS)])[0] for number in range(len(classes))]
    figure.legend(lines, classes, loc="outside upper left", ncols=6)
    with out.writing() as temporary:
        figure.savefig(temporary, format="png", dpi=100, metadata={"Software": MARK})


def _is_timeline(path: Path) -> bool:
    return MARK in read_head(path)  # texts stand before the pixels


TIMELINE = OutputKind("a timeline of `predict`", _is_timeline)
