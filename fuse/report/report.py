"""The verb `report`: runs as one HTML page of tables and drawings (no script, no request, everything escaped), and the
drawings as files for a paper. The page's words and tables stand in the template `page.html`."""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from twofold.data.images.decode import ImageError, thumbnail
from twofold.data.images.sources import ImageSource, check_roots, open_images
from twofold.data.utils.errors import InputError
from twofold.data.utils.outputs import Output, OutputKind, read_head
from twofold.data.utils.terminal import Summary
from twofold.fuse.report.analysis import StoreAnalysis, analyse_on_store, compare_with_first
from twofold.fuse.runs.read import Run, read_run
from twofold.fuse.runs.schema import SystemRecord
from twofold.fuse.tables import UNTRAINED, percent, span

try:
    import jinja2
    from markupsafe import Markup

    from twofold.fuse.report import figures as drawn
    from twofold.fuse.report.figures import Drawing
except ImportError as error:
    raise InputError(f"a report needs {error.name}: pip install 'twofold[report]'") from None

MARK = "twofold report"  #: in the head of the page, so that a later report knows its own
PAGE = OutputKind("a page of `report`", lambda path: MARK in read_head(path), repeatable=True)
UNTRAINED_MARK = " * UNTRAINED"  #: as in the tables of `fuse`
LISTED = 15  #: samples in each list
SIDE = 96  #: pixels of a thumbnail, at most


def report(paths: Sequence[Path], *, out: Path, figures: Path | None = None,
           root: Path | dict[str, Path] | None = None, store: Path | None = None,
           licences_of: Callable[[Iterable[str]], dict[str, str]] = lambda backbones: {}, follow_links: bool = False,
           overwrite: bool = False) -> Summary:
    """Write the page of these runs to `out`, and their drawings as SVG, PDF and PNG files into `figures`.

    licences_of: gives the licences of encoders, where they are known. root: the folder of the images; with it, and only
    then, the page shows the samples that it lists; follow_links: also those that are links out of it. store: whose
    features show the effect of each stream and a map of the samples. overwrite: a page, and drawings, of earlier
    reports.
    Raises InputError for a folder that is not a run, images that are not below `root`, and an output that cannot be
    written.
    """
    runs = [read_run(path) for path in paths]
    page = Output(out, PAGE, overwrite)
    page.check()
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{out}: a report is an HTML page, NAME.html (--figures DIR writes its drawings as PDF, too)")
    images = open_images(root, follow_links=follow_links) if root else None
    if images:
        keys = [key for run in runs for _, rows in _listed(run.predictions) for key in rows["key"]]
        check_roots(images, list(dict.fromkeys(keys)))
    comparisons = compare_with_first(runs)
    analyses = [analyse_on_store(run, store) if store else None for run in runs]
    licences = licences_of(dict.fromkeys(stream.backbone for run in runs for stream in run.record.streams))
    drawings = [drawings_of(run, analysis) for run, analysis in zip(runs, analyses, strict=True)]
    forest = drawn.forest("macro-F1, %", [
        (f"{run.path.name} ({run.record.classes_name}, {system.n} samples){_mark(run)}", system.macro_f1,
         system.macro_f1_interval) for run in runs for system in run.metrics.systems[-1:]])
    several = len(runs) > 1 and any(run.metrics.systems for run in runs)
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True,
                                     undefined=jinja2.StrictUndefined)
    environment.filters |= {"percent": percent, "span": span, "named": _named}
    text = environment.get_template("page.html").render(
        mark=MARK, star=UNTRAINED_MARK, untrained=UNTRAINED, images=images is not None, comparisons=comparisons,
        forest=Markup(forest.inline()) if several else None,
        title="Twofold report: " + ", ".join(run.path.name for run in runs),
        sections=[_section(*each, licences, images) for each in zip(runs, analyses, drawings, strict=True)])
    files = []
    if figures:
        named = {name if len(runs) == 1 else f"{number}-{name}": drawing for number, each in enumerate(drawings, 1)
                 for name, drawing in each.items()}
        files = drawn.write_drawings(figures, named | ({"side-by-side": forest} if several else {}),
                                     overwrite=overwrite)
    page.write_text(text)
    return Summary([f"{len(runs)} run{'s' if len(runs) > 1 else ''} -> {out}"
                    + (f"; {len(files)} files of drawings in {figures}" if files else "")], {
        "out": str(out), "figures": [str(path) for path in files], "runs": [
            {"run": str(run.path), "classes": list(run.taxonomy.classes),
             "systems": msgspec.to_builtins(run.metrics.systems),
             "fusion_against_best_single": run.metrics.fusion_against_best_single,
             "streams": analysis.record if analysis else None} for run, analysis in zip(runs, analyses, strict=True)],
        "licences": licences, "against_the_first": comparisons})


def drawings_of(run: Run, analysis: StoreAnalysis | None) -> dict[str, Drawing]:
    """The drawings of a run: those of the page and, numbered as the table of all systems has them, the confusion
    matrices, which are tables there. None for a run that scored no samples."""
    if not run.metrics.systems:
        return {}
    mark, systems, classes, history = _mark(run), run.metrics.systems, run.taxonomy.classes, run.history
    fusion, every = systems[-1], run.predictions
    drawings = {f"forest-{kind}": drawn.forest(words, [
        (_named(system), getattr(system, kind), getattr(system, f"{kind}_interval")) for system in systems])
        for kind, words in (("macro_f1", "macro-F1, %"), ("accuracy", "accuracy, %"))}
    drawings |= {"reliability": drawn.reliability("with temperature scaling" + mark, fusion.reliability),
                 "reliability-before-temperature": drawn.reliability(
                     "before temperature scaling" + mark, fusion.reliability_before_temperature)}
    if history:
        drawings |= {"learning-macro_f1": drawn.learning_curves("validation macro-F1, %" + mark, history,
                                                                "val_macro_f1", scale=100),
                     "learning-loss": drawn.learning_curves("training loss" + mark, history, "loss", scale=1)}
    if analysis and analysis.positions is not None:
        shown = every.iloc[analysis.rows]
        titles = [f"{row['key']}: {classes[row['target']]}, predicted {classes[row['predicted']]} "
                  f"({row['confidence']:.2f})" for row in shown.to_dict("records")]
        colours = {"target": "target"} | ({"prediction": "predicted"} if len(classes) <= len(drawn.PALETTE) else {})
        drawings |= {f"map-{name}": drawn.embedding_map(
            f"Map of {len(shown)} samples by their fused features, coloured by {name}{mark}", analysis.positions,
            shown[column].to_numpy(), shown["wrong"].to_numpy(), titles, classes) for name, column in colours.items()}
    return drawings | {f"confusion-{number}": drawn.confusion(_named(system), np.array(system.confusion), classes)
                       for number, system in enumerate(systems, 1)}


def _section(run: Run, analysis: StoreAnalysis | None, drawings: Mapping[str, Drawing], licences: Mapping[str, str],
             images: ImageSource | None) -> dict[str, Any]:
    """What the template shows of one run. Each list has its caption and samples."""
    inline = {name: Markup(each.inline()) for name, each in drawings.items() if not name.startswith("confusion")}
    lists = [(caption, [
        {"key": row["key"], "target": run.taxonomy.classes[row["target"]],
         "predicted": run.taxonomy.classes[row["predicted"]], "confidence": f"{row['confidence']:.2f}",
         "wrong": row["wrong"], "image": _data_uri(images, row["key"])} for row in rows.to_dict("records")])
        for caption, rows in (_listed(run.predictions) if run.metrics.systems else []) if len(rows)]
    return {"run": run, "mark": _mark(run), "drawings": inline, "analysis": analysis, "lists": lists,
            "encoders": list(zip(run.streams, run.head.spec.dims, run.stream_names, strict=True)), "licences": licences,
            "maps": {name.removeprefix("map-"): svg for name, svg in inline.items() if name.startswith("map-")}}


def _listed(predictions: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The most confident errors, and the least confident other predictions; each image once, for one that stands under
    several keys has the same probabilities."""
    classes: list[Any] = [name for name in predictions if isinstance(name, int)]
    order = predictions.drop_duplicates(classes).sort_values(["confidence", *classes], kind="stable",
                                                             ascending=[False, *[True] * len(classes)])
    errors = order[order["wrong"]][:LISTED]
    return [("The most confident errors", errors),
            ("The least confident predictions", order.drop(errors.index)[::-1][:LISTED])]


def _data_uri(images: ImageSource | None, key: str) -> str:
    """The image as a JPEG within `SIDE` x `SIDE` pixels, without metadata; why there is none if it cannot be read."""
    if images is None:
        return ""
    try:
        content = thumbnail(images.read(key), side=SIDE, limits=images.limits)
    except ImageError as error:
        return str(error)
    return "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")


def _mark(run: Run) -> str:
    """What stands beside all figures of a run, if an encoder of it has random weights."""
    return UNTRAINED_MARK if run.untrained else ""


def _named(system: SystemRecord) -> str:
    return system.name + (UNTRAINED_MARK if system.untrained else "")
