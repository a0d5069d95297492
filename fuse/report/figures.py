"""The drawings of a report, by matplotlib: in the page as SVG that follows its colours, and as files for a paper."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from twofold.data.utils.errors import InputError
from twofold.data.utils.outputs import Output, OutputKind
from twofold.fuse.runs.schema import Interval, ReliabilityBins

#: the scheme "bright" of Paul Tol, Colour Schemes (SRON/EPS/TN/09-002, 2021), for colour-blind readers, too
PALETTE = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#999999")
INK, FAINT, ACCENT = "#1c2430", "#c9d0d9", "#2563a8"  #: on the page, variables of its style
VARIABLES = {INK: f"var(--ink, {INK})", FAINT: f"var(--faint, {FAINT})", ACCENT: f"var(--accent, {ACCENT})"}
MARK = "drawn by twofold report"  #: in the metadata of every file, so that a later report knows its own
METADATA: dict[str, dict[str, str | None]] = {"svg": {"Creator": MARK, "Date": None}, "png": {"Software": MARK},
                                              "pdf": {"Creator": MARK, "CreationDate": None}}
DPI = 300
STYLE: Any = {"font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 9, "svg.fonttype": "none",
              "svg.hashsalt": "twofold", "text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False,
              **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
              "axes.edgecolor": FAINT, "grid.color": FAINT, "axes.titlesize": 9}
OWN = OutputKind("a drawing of `report`", lambda path: MARK.encode() in path.read_bytes(), repeatable=True)


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure, its content in words for screen readers, and titles of points by the id of their group."""

    figure: Figure | SubFigure
    label: str
    titles: Mapping[str, Sequence[str]]

    def inline(self) -> str:
        """The SVG element for a page: its colours are the page's variables, its only ids are those it refers to."""
        text = _render(self.figure, "svg", transparent=True).decode("utf-8")
        text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg"):], flags=re.DOTALL)
        text = re.sub(r'<g id="(\w+)-([\w-]+)">(.*?)</g>', self._with_titles, text, flags=re.DOTALL)
        text = re.sub(r'<g id="[\w.]+">', "<g>", text)
        for colour, variable in VARIABLES.items():
            text = text.replace(colour, variable)
        return text.replace("<svg", f'<svg role="img" aria-label="{escape(self.label)}"', 1)

    def _with_titles(self, group: re.Match[str]) -> str:
        titles = iter(self.titles.get(f"{group[1]}-{group[2]}", ()))
        points = re.sub(r"(<use [^>]*?)/>", lambda use: f"{use[1]}><title>{escape(next(titles, ''))}</title></use>",
                        group[3])
        return f'<g class="{group[1]}">{points}</g>'


def forest(title: str, scale: float, rows: Sequence[tuple[str, float, Interval]]) -> Drawing:
    """One row per system: its figure as a dot, its 95 % interval as a bar, times `scale`: 100 shows percentages."""
    digits = 1 if scale == 100 else 3
    with _axes(5.2, 0.5 + 0.48 * len(rows)) as axes:
        for row, (name, value, interval) in enumerate(rows):
            if interval:
                axes.plot([scale * end for end in interval], [row, row], color=ACCENT, linewidth=2.5)
            axes.plot(scale * value, row, "o", color=ACCENT, markersize=6)
            axes.text(0, row - 0.3, name if len(name) <= 60 else f"{name[:59]}…",
                      transform=axes.get_yaxis_transform())
            axes.text(1.01, row, f"{scale * value:.{digits}f}", transform=axes.get_yaxis_transform(), va="center")
        axes.set(ylim=(len(rows) - 0.5, -0.75), yticks=[])
        axes.margins(x=0.12)
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
    figures = "; ".join(f"{name} {scale * value:.{digits}f}" for name, value, _ in rows)
    return Drawing(axes.figure, f"{title}: {figures}", {})


def reliability(title: str, bins: ReliabilityBins) -> Drawing:
    """Accuracy of the predictions of each confidence (bars) against the confidence itself (diagonal)."""
    count, figures = len(bins.faces), []
    with _axes(3.4, 3.2) as axes:
        for b in np.flatnonzero(bins.faces):
            accuracy, n = bins.right[b] / bins.faces[b], bins.faces[b]
            axes.bar(100 * (b + 0.5) / count, 100 * accuracy, width=94 / count, color=ACCENT,
                     alpha=0.35 + 0.65 * min(1, n / 20))
            figures.append(f"{(b + 0.5) / count:.2f} {100 * accuracy:.0f} % of {n:.0f}")
        axes.plot([0, 100], [0, 100], color=INK, linewidth=1)
        axes.set(xlim=(0, 100), ylim=(0, 100), xlabel="confidence, %", ylabel="accuracy, %", title=title)
    return Drawing(axes.figure, f"accuracy by confidence, {title}: " + ", ".join(figures), {})


def learning_curves(title: str, curves: Sequence[pd.DataFrame], name: str, *, scale: float) -> Drawing:
    """Values of `name` (loss or the score) by epoch, one line per fold and seed."""
    with _axes(3.6, 2.5) as axes:
        for curve in curves:
            axes.plot(curve["epoch"], scale * curve[name], color=ACCENT, alpha=0.7, linewidth=1.2)
        axes.set(xlabel="epoch", title=title)
    values = scale * np.concatenate([curve[name] for curve in curves])
    return Drawing(axes.figure, f"{title}, {len(curves)} curves of up to {max(map(len, curves))} epochs, "
                                f"{np.nanmin(values):.2f} to {np.nanmax(values):.2f}", {})


def confusion(title: str, counts: np.ndarray, classes: Sequence[str]) -> Drawing:
    """(C, C) counts and their fraction of a row as a tint: rows are targets, columns are predictions."""
    side = 1.6 + 0.55 * len(classes)
    with _axes(side, side) as axes:
        fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(*counts.shape):
            colour = "white" if fractions[row, column] > 0.6 else INK
            axes.text(column, row, f"{counts[row, column]}", ha="center", va="bottom", color=colour)
            axes.text(column, row, f"{100 * fractions[row, column]:.0f} %", ha="center", va="top", fontsize=7,
                      color=colour)
        axes.set_xticks(range(len(classes)), classes, rotation=50, ha="left")
        axes.set_yticks(range(len(classes)), classes)
        axes.xaxis.tick_top()
        axes.set(ylabel="target", xlabel="prediction", title=title)
    rows = "; ".join(f"{name} {', '.join(map(str, row))}" for name, row in zip(classes, counts.tolist(), strict=True))
    return Drawing(axes.figure, f"confusion of {title}: {rows}", {})


def embedding_map(title: str, positions: np.ndarray, colours: np.ndarray, wrong: np.ndarray, names: Sequence[str],
                  classes: Sequence[str]) -> Drawing:
    """Points (n, 2) coloured by class number (n,): dots where the prediction is right, crosses where it is wrong.

    From the eighth class on colours come again, as rings and upright crosses. names: a title for each point.
    """
    titles, handles = {}, []
    with _axes(5.4, 5.4 + 0.2 * -(-len(classes) // 2)) as axes:
        for number in range(len(classes)):
            again, colour = number >= len(PALETTE), PALETTE[number % len(PALETTE)]
            ring = {"edgecolors": colour, "c": "none" if again else colour}
            for kind, rows, look in (("right", ~wrong, {"s": 20, "marker": "o"} | ring),
                                     ("wrong", wrong, {"s": 26, "marker": "+" if again else "x", "c": colour})):
                rows = np.flatnonzero((colours == number) & rows)
                if len(rows):
                    titles[f"{kind}-{number}"] = [names[int(row)] for row in rows]
                    axes.scatter(*positions[rows].T, linewidths=1.4, gid=f"{kind}-{number}", **look)
            handles += axes.plot([], [], "o", color=colour, fillstyle="none" if again else "full", markersize=4)
        axes.set(xticks=[], yticks=[])
        axes.legend(handles, classes, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=8)
    return Drawing(axes.figure, f"{title}: {int((~wrong).sum())} predictions right, {int(wrong.sum())} wrong", titles)


def write_drawings(folder: Path, drawings: Mapping[str, Drawing], *, overwrite: bool = False) -> list[Path]:
    """Write each drawing as NAME.svg, NAME.pdf and NAME.png (300 dpi). Raises InputError, before anything is written,
    if a file is there that may not be replaced."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: cannot be written: it is not a folder")
    folder.mkdir(parents=True, exist_ok=True)
    files = {Output(folder / f"{name}.{kind}", OWN, overwrite): (drawing, kind)
             for name, drawing in drawings.items() for kind in METADATA}
    for output in files:
        output.check()
    for output, (drawing, kind) in files.items():
        with output.writing() as temporary:
            temporary.write_bytes(_render(drawing.figure, kind, transparent=False))
    return [output.path for output in files]


@contextmanager
def _axes(width: float, height: float) -> Iterator[Axes]:
    with rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained").subplots()


def _render(figure: Any, kind: str, *, transparent: bool) -> bytes:
    file = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(file, format=kind, metadata=METADATA[kind], transparent=transparent, dpi=DPI)
    return file.getvalue()
