"""A confusion matrix as a drawing for a paper; on the page it is a table, which a screen reader can walk through."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from twofold.fuse.report.content import marked
from twofold.fuse.report.svg import ACCENT, FAINT, INK, PAPER, drawing, text

CELL, LEFT = 58, 170


def confusion_drawing(system: dict[str, Any], classes: Sequence[str]) -> str:
    """Counts and shares of a row, the share as a tint: rows are truths, columns are calls."""
    counts = np.array(system["confusion"], int)
    side, top = CELL * len(classes), 150
    parts = [f'<rect x="{LEFT}" y="{top}" width="{side}" height="{side}" fill="none" stroke="{FAINT}"/>']
    for row, name in enumerate(classes):
        y = top + CELL * (row + 0.5)
        parts.append(text(LEFT - 8, y + 4, name, anchor="end"))
        x = LEFT + CELL * (row + 0.5)
        parts.append(f'<g transform="translate({x + 4} {top - 8}) rotate(-50)">{text(0, 0, name)}</g>')
        for column, count in enumerate(counts[row]):
            parts += _cell(LEFT + CELL * column, top + CELL * row, int(count), count / max(counts[row].sum(), 1))
    parts += [text(LEFT - 8, top - 12, "truth ↓   called →", anchor="end")]
    label = f"confusion of {marked(system)}: " + "; ".join(
        f"{name} {', '.join(map(str, row))}" for name, row in zip(classes, counts.tolist(), strict=True))
    return drawing(LEFT + side + 80, top + side + 10, label, parts)


def _cell(x: float, y: float, count: int, share: float) -> list[str]:
    colour = PAPER if share > 0.6 else INK
    tint = f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" fill="{ACCENT}" opacity="{share:.3f}"/>'
    return [tint, *(f'<text x="{x + CELL / 2}" y="{y + CELL * place:.0f}" text-anchor="middle" fill="{colour}" '
                    f'font-size="{size}">{words}</text>'
                    for place, size, words in ((0.46, 14, str(count)), (0.76, 11, f"{100 * share:.0f} %")))]
