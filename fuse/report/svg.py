"""Drawings as SVG text: colours follow the page, light or dark, and stand alone in their own files."""

from collections.abc import Sequence
from html import escape

import numpy as np

from twofold.fuse.metrics.scores import Reliability

INK, FAINT, ACCENT = "var(--ink, #1c2430)", "var(--faint, #c9d0d9)", "var(--accent, #2563a8)"
PAPER = "var(--paper, #ffffff)"
MARK = "drawn by twofold report"  #: stands in every drawing, so that a later run knows it
Interval = Sequence[float] | None


def forest(title: str, rows: Sequence[tuple[str, float, Interval]]) -> str:
    """A figure a row as a dot, its 95 % interval as a bar; shares, shown as percentages."""
    ends = [end for _, value, interval in rows for end in (value, *(interval or ()))]
    low, high = max(0.0, min(ends) - 0.03), min(1.0, max(ends) + 0.03)
    left, width, height = 10, 400, 40
    place = lambda share: left + width * (share - low) / max(high - low, 1e-9)  # noqa: E731
    bottom = 6 + height * len(rows)
    parts = []
    for tick in _ticks(low, high):
        parts += [line(place(tick), 4, place(tick), bottom, FAINT),
                  text(place(tick), bottom + 16, f"{100 * tick:.0f}", anchor="middle")]
    for number, (name, value, interval) in enumerate(rows):
        y = 30 + height * number  # names stand above the bars, so that a narrow screen shows both
        parts += [text(left, y - 12, name if len(name) <= 60 else f"{name[:59]}…", halo=True)]
        parts += [line(place(interval[0]), y, place(interval[1]), y, ACCENT, 3)] if interval else []
        parts += [f'<circle cx="{place(value):.1f}" cy="{y}" r="5" fill="{ACCENT}"/>',
                  text(left + width + 12, y + 4, f"{100 * value:.1f}")]
    figures = "; ".join(f"{name} {100 * value:.1f}" for name, value, _ in rows)
    return drawing(left + width + 50, bottom + 26, f"{title}: {figures}", parts)


def reliability(title: str, bins: Reliability) -> str:
    """How often calls of each confidence are right (bars) against the confidence itself (diagonal)."""
    size, pad, count = 300, 46, len(bins.faces)
    parts, figures = [line(pad, 10, pad, 10 + size, FAINT), line(pad, 10 + size, pad + size, 10 + size, FAINT)], []
    for b in np.flatnonzero(bins.faces):
        share, faces = float(bins.right[b] / bins.faces[b]), int(bins.faces[b])
        x, tall = pad + size * b / count, size * share
        parts.append(f'<rect x="{x + 1:.1f}" y="{10 + size - tall:.1f}" width="{size / count - 2:.1f}" '
                     f'height="{tall:.1f}" fill="{ACCENT}" opacity="{0.35 + 0.65 * min(1, faces / 20):.2f}">'
                     f"<title>{faces} faces, {100 * share:.0f} % right</title></rect>")
        figures.append(f"{(b + 0.5) / count:.2f} {100 * share:.0f} %")
    parts.append(line(pad, size + 10, pad + size, 10, INK, 1.5))
    for tick in (0, 0.5, 1):
        parts += [text(pad + size * tick, size + 28, f"{100 * tick:.0f}", anchor="middle"),
                  text(pad - 8, 14 + size * (1 - tick), f"{100 * tick:.0f}", anchor="end")]
    parts += [text(pad + size / 2, size + 46, "confidence, %", anchor="middle"),
              f'<g transform="translate(12 {10 + size / 2}) rotate(-90)">{text(0, 0, "right, %", anchor="middle")}</g>']
    return drawing(size + pad + 20, size + 54, f"right, %, by confidence, {title}: " + ", ".join(figures), parts)


def curves(title: str, lines: Sequence[tuple[np.ndarray, np.ndarray]], *, percent: bool) -> str:
    """Values over epochs, a line a fold and seed."""
    width, height, pad = 340, 200, 48
    every = np.concatenate([values for _, values in lines])
    low, high = float(np.nanmin(every)), float(np.nanmax(every))
    last = max(int(epochs[-1]) for epochs, _ in lines)
    parts = [line(pad, 10, pad, 10 + height, FAINT), line(pad, 10 + height, pad + width, 10 + height, FAINT)]
    for epochs, values in lines:
        points = " ".join(f"{pad + width * epoch / max(last, 1):.1f},"
                          f"{10 + height * (1 - (value - low) / max(high - low, 1e-9)):.1f}"
                          for epoch, value in zip(epochs, values, strict=True) if np.isfinite(value))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{ACCENT}" stroke-width="1.5" opacity="0.7"/>')
    spell = (lambda value: f"{100 * value:.0f}") if percent else (lambda value: f"{value:.2f}")
    parts += [text(pad - 6, 18, spell(high), anchor="end"), text(pad - 6, 10 + height, spell(low), anchor="end"),
              *(text(pad + width * share, height + 28, word, anchor="middle")
                for share, word in ((0, "0"), (0.5, "epoch"), (1, str(last))))]
    label = f"{title} over {last + 1} epochs, {spell(low)} to {spell(high)}"
    return drawing(width + pad + 20, height + 36, label, parts)


def drawing(width: float, height: float, label: str, parts: Sequence[str]) -> str:
    """An SVG of these parts; label: what it shows, for who cannot see it."""
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
            f'role="img" aria-label="{escape(label)}" font-family="system-ui, sans-serif" font-size="13">'
            f"<!-- {MARK} -->{''.join(parts)}</svg>")


def line(x: float, y: float, to_x: float, to_y: float, colour: str, width: float = 1) -> str:
    """A straight stroke."""
    return (f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" stroke="{colour}" '
            f'stroke-width="{width}"/>')


def text(x: float, y: float, words: str, *, anchor: str = "start", halo: bool = False) -> str:
    """Words at a place, in the colour of the page's text. halo: with the page's colour around them, over lines."""
    around = f' stroke="{PAPER}" stroke-width="4" paint-order="stroke"' if halo else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{INK}"{around}>{escape(words)}</text>'


def _ticks(low: float, high: float) -> list[float]:
    step = 0.05 if high - low < 0.4 else 0.1
    return [float(tick) for tick in np.arange(np.ceil(low / step) * step, high + 1e-9, step)]
