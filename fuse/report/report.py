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
from twofold.fuse.core.predictions import Predictions
from twofold.fuse.metrics.metric import Metric
from twofold.fuse.report.analysis import StoreAnalysis, analyse_on_store, compare_with_first
from twofold.fuse.runs.read import Run, read_run
from twofold.fuse.tables import UNTRAINED, heading, is_share, percent, say, say_difference, say_figure, say_interval

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
        firsts = [run.predictions.parts()[0][1] for run in runs]
        keys = [every.key[row] for every in firsts for _, rows in _listed(every) for row in rows]
        check_roots(images, list(dict.fromkeys(keys)))
    comparisons = compare_with_first(runs)
    analyses = [analyse_on_store(run, store) if store else None for run in runs]
    licences = licences_of(dict.fromkeys(stream.backbone for run in runs for stream in run.record.streams))
    drawings = [drawings_of(run, analysis) for run, analysis in zip(runs, analyses, strict=True)]
    score = runs[0].task.score
    alike = [run for run in runs if run.task.score is score and run.metrics.systems
             and getattr(run.metrics.systems[-1], score.key) is not None]
    several = len(runs) > 1 and bool(alike)
    forest = drawn.forest(*words_and_scale(score), [
        (f"{run.path.name} ({run.record.classes_name}, {run.metrics.systems[-1].n} samples){_mark(run)}",
         getattr(run.metrics.systems[-1], score.key), getattr(run.metrics.systems[-1], f"{score.key}_interval"))
        for run in alike])
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True,
                                     undefined=jinja2.StrictUndefined)
    environment.filters |= {"percent": percent, "named": _named, "titled": lambda metric: words_and_scale(metric)[0]}
    environment.filters |= {each.__name__: each for each in (heading, say, say_difference, say_figure, say_interval)}
    text = environment.get_template("page.html").render(
        score=score, mark=MARK, star=UNTRAINED_MARK, untrained=UNTRAINED, images=images is not None,
        comparisons=comparisons,
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
            {"run": str(run.path), "task": run.task.kind, "classes": list(run.task.outputs),
             "systems": msgspec.to_builtins(run.metrics.systems),
             "fusion_against_best_single": run.metrics.fusion_against_best_single,
             "streams": analysis.record if analysis else None} for run, analysis in zip(runs, analyses, strict=True)],
        "licences": licences, "against_the_first": comparisons})


def drawings_of(run: Run, analysis: StoreAnalysis | None) -> dict[str, Drawing]:
    """The drawings of a run: those of the page and, numbered as the table of all systems has them, the confusion
    matrices, which are tables there. None for a run that scored no samples."""
    if not run.metrics.systems:
        return {}
    mark, systems, classes, history = _mark(run), run.metrics.systems, run.task.outputs, run.history
    fusion, every, score = systems[-1], run.predictions.parts()[0][1], run.task.score
    classes = every.task.outputs
    drawings = {f"forest-{metric.key}": drawn.forest(*words_and_scale(metric), [
        (_named(system), getattr(system, metric.key), getattr(system, f"{metric.key}_interval")) for system in systems
        if getattr(system, metric.key) is not None]) for metric in run.task.metrics}
    if run.task.classes:
        drawings |= {"reliability": drawn.reliability("with temperature scaling" + mark, fusion.reliability),
                     "reliability-before-temperature": drawn.reliability(
                         "before temperature scaling" + mark, fusion.reliability_before_temperature)}
    if history:
        words, scale = words_and_scale(score)
        drawings |= {f"learning-{score.key}": drawn.learning_curves(f"validation {words}{mark}", history,
                                                                    f"val_{score.key}", scale=scale),
                     "learning-loss": drawn.learning_curves("training loss" + mark, history, "loss", scale=1)}
    if not run.task.classes:
        return drawings
    if analysis and analysis.positions is not None and len(every) == len(run.predictions):
        shown = every.select(analysis.rows)
        titles = [f"{key}: {classes[target]}, predicted {answer} ({confidence:.2f})" for key, target, answer, confidence
                  in zip(shown.key, shown.target, shown.answers, shown.calibrated.max(axis=1), strict=True)]
        colours = {"target": shown.target} | (
            {"prediction": shown.predicted} if len(classes) <= len(drawn.PALETTE) else {})
        drawings |= {f"map-{name}": drawn.embedding_map(
            f"Map of {len(shown)} samples by their fused features, coloured by {name}{mark}", analysis.positions,
            numbers, shown.predicted != shown.target, titles, classes) for name, numbers in colours.items()}
    return drawings | {f"confusion-{number}": drawn.confusion(_named(system), np.array(system.confusion), classes)
                       for number, system in enumerate(systems, 1)}


def _section(run: Run, analysis: StoreAnalysis | None, drawings: Mapping[str, Drawing], licences: Mapping[str, str],
             images: ImageSource | None) -> dict[str, Any]:
    """What the template shows of one run. Each list has its caption and samples."""
    inline = {name: Markup(each.inline()) for name, each in drawings.items() if not name.startswith("confusion")}
    every, lists = run.predictions.parts()[0][1], []
    for caption, rows in _listed(every) if run.metrics.systems else []:
        truth = every.task.decide(every.truth, np.full_like(every.thresholds, 0.5)) if not every.task.classes else (
            np.array(every.task.outputs, object)[every.target])
        lists.append((caption, [
            {"key": every.key[row], "target": truth[row], "predicted": every.answers[row],
             "confidence": f"{every.calibrated[row].max():.2f}" if run.task.classes else "",
             "wrong": truth[row] != every.answers[row], "image": _data_uri(images, every.key[row])} for row in rows]))
    return {"run": run, "mark": _mark(run), "drawings": inline, "analysis": analysis, "lists": lists,
            "encoders": list(zip(run.streams, run.head.spec.dims, run.stream_names, strict=True)), "licences": licences,
            "maps": {name.removeprefix("map-"): svg for name, svg in inline.items() if name.startswith("map-")}}


def _listed(every: Predictions) -> list[tuple[str, list[int]]]:
    """Rows of samples to look at, by list: the most confident errors and the least confident other predictions, of
    tasks without classes the largest errors; each image once, for one that stands under several keys has the same
    outputs and truth."""
    outputs = pd.DataFrame(every.calibrated)
    outputs = outputs[~pd.DataFrame(np.hstack([every.calibrated, every.truth])).duplicated()]
    if not every.task.classes:
        losses = pd.Series(every.task.score.loss(*every.task.compared(every.task.score, every)))[outputs.index]
        worst = losses.dropna().sort_values(ascending=False, kind="stable")
        return [("The largest errors", worst.index[:LISTED].tolist())]
    order = outputs.assign(confidence=outputs.max(axis=1), wrong=(every.predicted != every.target)[outputs.index])
    by: list[Any] = ["confidence", *outputs]
    order = order.sort_values(by, kind="stable", ascending=[False, *[True] * outputs.shape[1]])
    errors = order[order["wrong"]][:LISTED]
    lists = [("The most confident errors", errors.index.tolist()),
             ("The least confident predictions", order.drop(errors.index)[::-1][:LISTED].index.tolist())]
    return [(caption, rows) for caption, rows in lists if rows]


def words_and_scale(metric: Metric) -> tuple[str, float]:
    """A metric in the title of a drawing, and what its values are multiplied by there."""
    return (f"{metric.name}, %", 100) if is_share(metric.key) else (metric.name, 1)


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


def _named(system: Any) -> str:
    return system.name + (UNTRAINED_MARK if system.untrained else "")
