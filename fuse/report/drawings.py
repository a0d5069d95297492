"""The drawings of a run, and writing them as files fit for a paper."""

import io
import re
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from twofold.data.utils.errors import InputError
from twofold.data.utils.outputs import Output, OutputKind, read_head
from twofold.fuse.report import svg
from twofold.fuse.report.calibration import calibration_drawings
from twofold.fuse.report.content import RunContent, marked
from twofold.fuse.report.embedding import embedding_drawing
from twofold.fuse.report.matrix import confusion_drawing
from twofold.fuse.report.stored import StoredContent

ZOOM, DPI = 4, 300  #: a drawing of 460 units becomes 1,840 pixels, 6 inches wide in print
FONTS = "DejaVu Sans, Liberation Sans, Noto Sans, Helvetica, Arial, sans-serif"
LETTER = (f'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40"><text x="5" y="30" font-family="{FONTS}" '
          'font-size="30">M</text></svg>')
NO_PNG = "PNG files want the package resvg-py: pip install resvg-py"


def drawings(run: RunContent, stored: StoredContent | None = None) -> dict[str, str]:
    """The drawings that the page shows of a run, by name, each an SVG."""
    svgs = {f"forest-{kind}": svg.forest(words, [(marked(system), system[kind], system[f"{kind}_interval"])
                                                 for system in run.systems])
            for kind, words in (("macro_f1", "macro-F1, %"), ("accuracy", "accuracy, %"))} if run.systems else {}
    if run.calibration and len(run.answers.keys):
        svgs |= calibration_drawings(run.calibration, run.mark)
    if run.curves:
        svgs["learning-macro_f1"] = svg.curves("validation macro-F1, %" + run.mark,
                                               [(e, f1) for e, _, f1 in run.curves], percent=True)
        svgs["learning-loss"] = svg.curves("training loss" + run.mark, [(e, loss) for e, loss, _ in run.curves],
                                           percent=False)
    if stored and stored.embedding:
        svgs["map"] = embedding_drawing(run, stored.embedding)
    return svgs


def paper_drawings(run: RunContent, stored: StoredContent | None) -> dict[str, str]:
    """The drawings that are written as files: also the confusion matrices, numbered as the table of all systems has
    them, which are tables on the page."""
    confusions = {f"confusion-{number}": confusion_drawing(system, run.classes)
                  for number, system in enumerate(run.systems, 1)}
    return drawings(run, stored) | confusions


def write_drawings(folder: Path, named: Mapping[str, str], *, overwrite: bool = False) -> list[Path]:
    """Write each as NAME.svg, and as NAME.png where resvg-py is installed.

    resvg draws the very SVG, in a wheel of 1.4 MB without dependencies; matplotlib (40 MB) would want all drawn twice.
    Raises InputError if there is no font to write with, or a file is there that may not be replaced.
    """
    png = can_write_png()
    if png:
        _require_a_font()
    folder.mkdir(parents=True, exist_ok=True)
    files = {folder / f"{name}{suffix}": _standing_alone(drawing) for name, drawing in named.items()
             for suffix in ((".svg", ".png") if png else (".svg",))}
    outputs = [Output(path, DRAWING, overwrite) for path in files]
    for output in outputs:
        output.check()
    for output in outputs:
        drawing = files[output.path]
        with output.writing() as temporary:
            temporary.write_bytes(_png(drawing) if output.path.suffix == ".png" else drawing.encode())
    return list(files)


DRAWING = OutputKind("a drawing of `report`", lambda path: svg.MARK in read_head(path), repeatable=True)


def can_write_png() -> bool:
    """True if resvg-py is installed."""
    try:
        import resvg_py  # noqa: F401
    except ImportError:
        return False
    return True


def _standing_alone(drawing: str) -> str:
    """With colours in place of the page's variables, which other programs than browsers do not know."""
    literal = re.sub(r"var\(--\w+, (#[0-9a-f]+)\)", r"\1", drawing)
    return literal.replace('font-family="system-ui, sans-serif"', f'font-family="{FONTS}"')


def _require_a_font() -> None:
    from resvg_py import svg_to_bytes

    letter = Image.open(io.BytesIO(svg_to_bytes(LETTER, background="#ffffff"))).convert("L")
    if min(letter.tobytes()) > 128:  # where no font fits, resvg leaves words out without a word
        raise InputError("--figures: this machine has no font to write PNG files with: install one "
                         "(Debian: apt install fonts-dejavu-core)")


def _png(drawing: str) -> bytes:
    from resvg_py import svg_to_bytes

    content = io.BytesIO()
    picture = Image.open(io.BytesIO(svg_to_bytes(drawing, zoom=ZOOM, background="#ffffff")))
    facts = PngInfo()
    facts.add_text("Software", svg.MARK)
    picture.convert("RGB").save(content, "PNG", dpi=(DPI, DPI), pnginfo=facts)
    return content.getvalue()
