"""Class scores over time as a picture: a panel a person, a line a class, gaps where the face was not seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from twofold.data.utils.outputs import Output, OutputKind, read_head

MARK = "drawn by twofold predict"  #: stands in the files, so that a later run knows them

WIDTH, PANEL, LEFT, RIGHT, TOP = 1400, 220, 60, 20, 34  #: pixels
MOST_PANELS = 30
SHORTEST = 2  #: looks: a track seen less often is no line
#: of the classes, in their order: told apart by eyes of all kinds for the first seven (after Okabe and Ito)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A6D00", "#666666", "#7F3C8D", "#11A579",
           "#B22222", "#2F4F4F", "#A0522D", "#4B0082")


@dataclass(frozen=True)
class Line:
    """The scores of one person. times (n,) seconds, scores (n, C); looks (m,): the times at which the video was
    looked at, among them those at which the person was not seen."""

    name: str
    times: np.ndarray
    scores: np.ndarray
    looks: np.ndarray

    def stretches(self) -> list[slice]:
        """Runs of looks at each of which the person was seen."""
        places = np.searchsorted(self.looks, self.times)
        cuts = np.flatnonzero(np.diff(places) > 1) + 1
        return [slice(begin, end) for begin, end in zip([0, *cuts], [*cuts, len(places)], strict=True)]


def lines_of(table: pd.DataFrame, classes: Sequence[str]) -> list[Line]:
    """One for each source and track of a table of `predict`, in their order."""
    lines = []
    for source, video in table[table["time"] != ""].groupby("source", sort=True):
        looks = np.unique(video["time"].astype(float))
        for track, rows in video[video["track"] != ""].groupby(video["track"].replace("", "-1").astype(int)):
            lines.append(Line(f"{source}, person {track}", rows["time"].astype(float).to_numpy(),
                              rows[list(classes)].astype(float).to_numpy(), looks))
    return lines


def draw_timeline(table: pd.DataFrame, classes: Sequence[str], out: Output) -> None:
    """Write the picture as PNG, whole or not at all. People seen only for a moment are left out, and counted."""
    lines = lines_of(table, classes)
    shown = [line for line in lines if len(line.times) >= SHORTEST][:MOST_PANELS]
    legend = _legend_rows(classes)
    image = Image.new("RGB", (WIDTH, legend * 22 + 16 + max(1, len(shown)) * PANEL + 24), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=14)
    _legend(draw, font, classes)
    for number, line in enumerate(shown):
        _panel(draw, font, line, legend * 22 + 16 + number * PANEL)
    left_out = len(lines) - len(shown)
    note = f"{left_out} more, seen only for a moment or beyond {MOST_PANELS}" if left_out else ""
    draw.text((LEFT, image.height - 22), note if shown else "nobody was seen for more than a moment", "black", font)
    facts = PngInfo()
    facts.add_text("Software", MARK)
    with out.writing() as temporary:
        image.save(temporary, pnginfo=facts)


def _is_timeline(path: Path) -> bool:
    return MARK in read_head(path)  # texts stand before the pixels


TIMELINE = OutputKind("a timeline of `predict`", _is_timeline)


def _legend_rows(classes: Sequence[str]) -> int:
    return -(-len(classes) // 6)


def _legend(draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, classes: Sequence[str]
            ) -> None:
    for place, name in enumerate(classes):
        x, y = LEFT + place % 6 * 220, 8 + place // 6 * 22
        draw.line([(x, y + 8), (x + 26, y + 8)], COLOURS[place % len(COLOURS)], 4)
        draw.text((x + 32, y), name, "black", font)


def _panel(draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, line: Line, top: int) -> None:
    low, high = top + TOP, top + PANEL - 26
    first, last = float(line.looks[0]), float(line.looks[-1])

    def x(time: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (time - first) / max(last - first, 1e-9)

    def y(score: float) -> float:
        return high - (high - low) * score

    draw.text((LEFT, top + 12), line.name, "black", font)
    stretches = line.stretches()
    draw.rectangle([LEFT, low, WIDTH - RIGHT, high], fill="#e6e6e6")  # grey: not seen
    for part in stretches:
        begin, end = float(line.times[part.start]), float(line.times[part.stop - 1])
        draw.rectangle([x(begin), low, max(x(end), x(begin) + 1), high], fill="white")
    for score in (0, 0.5, 1):
        draw.line([(LEFT, y(score)), (WIDTH - RIGHT, y(score))], "#bbbbbb")
        draw.text((LEFT - 34, y(score) - 8), f"{score:g}", "black", font)
    for time in np.linspace(first, last, 11).tolist():
        draw.text((x(time) - 14, high + 5), f"{time:.1f} s", "black", font)
    for c in range(line.scores.shape[1]):
        for part in stretches:
            points = [(x(time), y(score)) for time, score in
                      zip(line.times[part].tolist(), line.scores[part, c].tolist(), strict=True)]
            if len(points) > 1:
                draw.line(points, COLOURS[c % len(COLOURS)], 2)
            else:
                draw.ellipse([points[0][0] - 2, points[0][1] - 2, points[0][0] + 2, points[0][1] + 2],
                             COLOURS[c % len(COLOURS)])
