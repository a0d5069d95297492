"""A scatter of classes for readers who see colours differently: hue, fill and shape tell apart what belongs apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from twofold.fuse.report.svg import FAINT, drawing, text

#: the scheme "bright" of Paul Tol, Colour Schemes (SRON/EPS/TN/09-002, 2021), which colour-blind readers can tell apart
PALETTE = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#999999")
SIDE, COLUMNS, LINE = 480, 2, 20  #: of the map; of the legend above it, so that a narrow screen shows both


@dataclass(frozen=True)
class Point:
    """A face at x, y from 0 to 1."""

    x: float
    y: float
    truth: int
    call: int
    name: str


def scatter(title: str, points: Sequence[Point], classes: Sequence[str]) -> str:
    """Points coloured by truth, or by call where the page says so: dots called rightly, crosses wrongly.

    From the eighth class on colours come again, as rings and upright crosses.
    """
    rules = "".join(f".t{number}{{color:{PALETTE[number % len(PALETTE)]}}}" for number in range(len(classes)))
    wrong = sum(point.truth != point.call for point in points)
    top = 8 + LINE * -(-len(classes) // COLUMNS)
    frame = f'<rect x="1" y="{top}" width="{SIDE}" height="{SIDE}" fill="none" stroke="{FAINT}"/>'
    marks = [_mark(point, 14 + (SIDE - 26) * point.x, top + 13 + (SIDE - 26) * point.y) for point in points]
    legend = [_entry(number, name) for number, name in enumerate(classes)]
    label = f"{title}: {len(points) - wrong} called rightly, {wrong} wrongly"
    return drawing(SIDE + 2, top + SIDE + 1, label,
                   [f"<style>{rules}</style>", frame, *marks, *legend])


def _mark(point: Point, x: float, y: float) -> str:
    right = point.truth == point.call
    kind = f"t{point.truth} c{point.call} " + ("right" if right else "wrong")
    return (f'<g class="{kind}" transform="translate({x:.1f} {y:.1f})">{_shape(point.truth, right=right)}'
            f"<title>{escape(point.name)}</title></g>")


def _shape(number: int, *, right: bool) -> str:
    again = number >= len(PALETTE)
    if right:
        return ('<circle r="3.6" fill="none" stroke="currentColor" stroke-width="1.8"/>' if again else
                '<circle r="4.2" fill="currentColor"/>')
    path = "M-5 0H5M0-5V5" if again else "M-4-4L4 4M-4 4L4-4"
    return f'<path d="{path}" stroke="currentColor" stroke-width="2.4"/>'


def _entry(number: int, name: str) -> str:
    x, y = 8 + SIDE / COLUMNS * (number % COLUMNS), 14 + LINE * (number // COLUMNS)
    return (f'<g class="t{number}" transform="translate({x:.0f} {y - 4})">{_shape(number, right=True)}</g>'
            + text(x + 12, y, name))
