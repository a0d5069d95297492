"""The one table printer of stage two, and numbers as its cells spell them."""

from collections.abc import Sequence

import numpy as np


def columns(rows: Sequence[tuple[str, ...]], *, left: int = 2) -> list[str]:
    """Lines of aligned columns: the first `left` to the left, numbers to the right."""
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) if c < left else cell.rjust(width)
                      for c, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip() for row in rows]


def percent(value: float | None) -> str:
    """A share as a percentage with two decimals, `-` if there is none."""
    return "-" if value is None or np.isnan(value) else f"{100 * value:.2f}"


def span(interval: tuple[float, float]) -> str:
    """An interval as percentages."""
    return f"[{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def spread(shares: Sequence[float]) -> str:
    """Mean and, of several, standard deviation as percentages."""
    deviation = f" ± {100 * np.std(shares, ddof=1):.1f}" if len(shares) > 1 else ""
    return f"{100 * np.mean(shares):.1f}{deviation}"
