"""The pieces of a page: its style, tables, what scrolls. Everything is escaped here or where it comes in."""

from collections.abc import Sequence
from html import escape

from twofold.fuse.report.scatter import PALETTE

STYLE = """
:root { --ink: #1c2430; --paper: #fff; --faint: #c9d0d9; --soft: #f3f5f8; --accent: #2563a8; --warn: #a33; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e5e9ef; --paper: #14181e; --faint: #3a434f; --soft: #1d232b; --accent: #6aa9ec; --warn: #f2857d; } }
@media print { :root { --ink: #000; --paper: #fff; --faint: #bbb; --soft: #fff; --accent: #2563a8; } }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--faint); } h3 { margin-bottom: .3rem; }
.wide { overflow-x: auto; } .side { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; }
.side figure { flex: 0 1 26rem; }
table { border-collapse: collapse; font-size: .9rem; } caption { text-align: left; padding: .3rem 0; font-weight: 600;
  max-width: calc(100vw - 2rem); }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--faint); }
td { white-space: nowrap; } th:first-child { text-align: left; font-weight: 500;
  min-width: 10rem; overflow-wrap: anywhere; } thead th { background: var(--soft); }
.cell { background: color-mix(in srgb, var(--accent) calc(var(--share) * 70%), transparent); text-align: center; }
.faces { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr));
  gap: 1rem .8rem; padding: 0; list-style: none; }
.faces li { font-size: .8rem; line-height: 1.3; overflow-wrap: anywhere; } .faces small { opacity: .75; }
.faces img { display: block; width: 6rem; height: 6rem; object-fit: contain; background: var(--soft);
  border-radius: .3rem; }
.map label { margin: 0 1rem 0 .3rem; white-space: nowrap; } svg { max-width: 100%; height: auto; }
 .errors:checked ~ .wide .right[transform] { display: none; }
.warn { color: var(--warn); font-weight: 600; } nav a { margin-right: 1rem; } a { color: var(--accent); }
@media print {
  body { max-width: none; padding: 0; font-size: 13px; } nav, .map input, .map label { display: none; }
  h1, h2, h3, h4, figcaption, caption { break-after: avoid; } .wide { overflow: visible; }
  .faces li, tr, figure, svg, .wide { break-inside: avoid; } .side figure { width: 47%; }
  .faces { grid-template-columns: repeat(5, 1fr); } .faces li { font-size: .7rem; }
  .faces img { width: 4.5rem; height: 4.5rem; }
  table { font-size: .75rem; } th, td { padding: .15rem .35rem; } td { white-space: normal; }
  th:first-child { min-width: 9rem; } details::details-content { content-visibility: visible; display: block; } }
""" + "".join(f".by-call:checked ~ .wide .c{number} {{ color: {PALETTE[number]}; }}\n"
               for number in range(len(PALETTE)))


def scrolled(content: str) -> str:
    """A drawing or table within the width of the page."""
    return f'<div class="wide" tabindex="0">{content}</div>'


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    lines = "".join(f'<tr><th scope="row">{escape(row[0])}</th>'
                    + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>" for row in rows)
    return framed(caption, head, lines)


def framed(caption: str, head: str, lines: str) -> str:
    """A table of cells and rows that are markup already."""
    return scrolled(f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{lines}</tbody>"
                    "</table>")
