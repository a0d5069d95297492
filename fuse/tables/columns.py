"""The one table printer of stage two, and numbers as its cells spell them."""

from collections.abc import Sequence

import numpy as np


def columns(rows: Sequence[tuple[str, ...]], *, left: int = 2) -> list[str]:
    """Lines of aligned columns: the first `left` to the left, numbers to the right."""
    return grouped_columns(rows, [("", len(rows[0]))], left=left)[1:]


def grouped_columns(rows: Sequence[tuple[str, ...]], groups: Sequence[tuple[str, int]], *, left: int = 2) -> list[str]:
    """Lines as of `columns`, a title over each group of columns. groups: (title, number of columns), all in order."""
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    titles, start, ends = [], 0, set()
    for title, count in groups:
        width = sum(widths[start:start + count]) + 2 * (count - 1)
        widths[start] += max(0, len(title) - width)
        titles.append(f"{title:-^{max(width, len(title))}}" if title else " " * width)
        start += count
        ends.add(start)
    lines = [" | ".join(titles)]
    for row in rows:
        cells = [cell.ljust(width) if c < left else cell.rjust(width)
                 for c, (cell, width) in enumerate(zip(row, widths, strict=True))]
        lines.append("".join(cell + (" | " if c + 1 in ends else "  ") for c, cell in enumerate(cells)).rstrip(" |"))
    return lines


def percent(value: float | None) -> str:
    """A share as a percentage with two decimals, `-` if there is none."""
    return "-" if value is None or np.isnan(value) else f"{100 * value:.2f}"


def span(interval: Sequence[float] | None, *, sign: str = "") -> str:
    """An interval as percentages, `-` if there is none."""
    return f"[{100 * interval[0]:{sign}.1f}, {100 * interval[1]:{sign}.1f}]" if interval else "-"


def spread(shares: Sequence[float]) -> str:
    """Mean and, of several, standard deviation as percentages."""
    deviation = f" ± {100 * np.std(shares, ddof=1):.1f}" if len(shares) > 1 else ""
    return f"{100 * np.mean(shares):.1f}{deviation}"
