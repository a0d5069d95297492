"""Several runs side by side: each compared with the first on the faces that both scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from twofold.fuse.metrics.statistics import Comparison, compare
from twofold.fuse.report import svg
from twofold.fuse.report.content import RunContent
from twofold.fuse.report.markup import scrolled, table
from twofold.fuse.tables import span

Groups = Mapping[str, str]  #: of faces by key; none of a face that stands for itself


@dataclass(frozen=True)
class Pair:
    """A run against the first. agreement: Cohen's kappa of their calls; obstacle: why there is no comparison."""

    run: str
    faces: int = 0
    comparison: Comparison | None = None
    agreement: float = float("nan")
    obstacle: str = ""

    def record(self) -> dict[str, Any]:
        return {"run": self.run, "obstacle": self.obstacle} if self.comparison is None else {
            "run": self.run, "faces": self.faces, "kappa": self.agreement, "difference": self.comparison.difference,
            "interval": self.comparison.interval, "groups": self.comparison.groups,
            "only_first": self.comparison.only_b, "only_this": self.comparison.only_a,
            "p_value": self.comparison.p_value}


def pairs(runs: Sequence[RunContent], *, groups: Groups) -> list[Pair]:
    """Each further run compared with the first."""
    return [_pair(run, runs[0], groups) for run in runs[1:]]


def kappa(a: np.ndarray, b: np.ndarray) -> float:
    """Agreement of two calls (n,) beyond chance, 1 where they are the same (Cohen, 1960); nan for no faces."""
    if not len(a):
        return float("nan")
    classes = np.union1d(a, b)
    chance = sum(float((a == c).mean() * (b == c).mean()) for c in classes)
    return (float((a == b).mean()) - chance) / (1 - chance) if chance < 1 else 1.0


def _pair(run: RunContent, first: RunContent, groups: Groups) -> Pair:
    name = run.path.name
    if run.classes != first.classes:
        return Pair(name, obstacle="other classes")
    keys = run.answers.keys, first.answers.keys
    if any(len(set(each)) < len(each) for each in keys):
        return Pair(name, obstacle="a key stands for several faces")
    place = {key: row for row, key in enumerate(keys[1])}
    rows = np.array([row for row, key in enumerate(keys[0]) if key in place], int)
    others = np.array([place[keys[0][row]] for row in rows], int)
    truth, calls = run.answers.truth[rows], (run.answers.calls[rows], first.answers.calls[others])
    if not len(rows):
        return Pair(name, obstacle="no face that both scored")
    if not np.array_equal(truth, first.answers.truth[others]):
        return Pair(name, obstacle="other labels of the same faces")
    group = np.array([groups.get(keys[0][row]) or keys[0][row] for row in rows])
    comparison = compare(truth, *calls, group, classes=len(run.classes), seed=0)
    return Pair(name, len(rows), comparison, kappa(*calls))


def side_by_side(runs: Sequence[RunContent], compared: Sequence[Pair], *, grouped: bool) -> list[str]:
    """The fusions of several runs: a forest plot, and paired differences from the first."""
    evidence = ("Faces of a group count as one piece of evidence." if grouped else
                "Each face counts as its own piece of evidence: with --store its groups would be known.")
    return ['<section id="side"><h2>Side by side</h2>', "<h3>macro-F1, %</h3>",
            scrolled(forest_of(runs)),
            table(f"Differences in macro-F1 from {runs[0].path.name}, in points, on the same faces",
                  ("run", "faces", "difference", "95 %", "only this right", "only the first right", "p", "kappa"),
                  [_row(pair, run.mark or runs[0].mark) for pair, run in zip(compared, runs[1:], strict=True)]),
            f"<p>An interval on both sides of nought is noise. p: exact, of which is right more often. kappa: how far "
            f"they agree beyond chance. {escape(evidence)}</p></section>"]


def forest_of(runs: Sequence[RunContent]) -> str:
    """The fusions of all runs that scored faces as an SVG; empty if none did."""
    rows = [(f"{run.path.name} ({run.record['classes_name']}, {run.systems[-1]['n']} faces){run.mark}",
             run.systems[-1]["macro_f1"], run.systems[-1]["macro_f1_interval"]) for run in runs if run.systems]
    return svg.forest("macro-F1, %", rows) if rows else ""


def _row(pair: Pair, mark: str) -> tuple[str, ...]:
    if pair.comparison is None:
        return pair.run + mark, "", pair.obstacle, *("",) * 5
    figures = pair.comparison
    return (pair.run + mark, str(pair.faces), f"{100 * figures.difference:+.2f}",
            span(figures.interval, sign="+") if figures.interval else "", str(figures.only_a), str(figures.only_b),
            f"{figures.p_value:.3f}", f"{pair.agreement:.2f}")
