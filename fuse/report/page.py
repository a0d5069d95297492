"""The content of a report's page, put into the template `page.html`: no script, no request, everything escaped."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from twofold.data.images.decode import ImageError, thumbnail
from twofold.data.images.sources import ImageSource
from twofold.fuse.report import figures
from twofold.fuse.report.analysis import PairedComparison, StoreAnalysis
from twofold.fuse.report.figures import PALETTE, Drawing
from twofold.fuse.runs.read import Run, TestPredictions
from twofold.fuse.runs.schema import SystemRecord
from twofold.fuse.tables import UNTRAINED, percent, span

UNTRAINED_MARK = " * UNTRAINED"  #: as in the tables of `fuse`
LISTED = 15  #: samples in each list
SIDE = 96  #: pixels of a thumbnail, at most


@dataclass(frozen=True)
class Table:
    """Cells as text; the first of each row is its header."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]


def render(runs: Sequence[Run], *, mark: str, licences: Mapping[str, str], comparisons: Sequence[PairedComparison] = (),
           analyses: Sequence[StoreAnalysis | None] = (), images: ImageSource | None = None
           ) -> str:
    """The whole page. licences: of encoders, where known; analyses: of each run on a store, if one is given."""
    together = None
    if len(runs) > 1:
        forest = forest_of(runs)
        rows = [_difference(each, _mark(run) or _mark(runs[0]))
                for each, run in zip(comparisons, runs[1:], strict=True)]
        together = {"forest": Markup(forest.inline()) if forest else None, "table": Table(
            f"Differences in macro-F1 from {runs[0].path.name}, in points, on the same samples",
            ("run", "samples", "difference", "95 %", "only this right", "only the first right", "p", "kappa"), rows)}
    sections = [_section(run, analysis, licences, images)
                for run, analysis in zip(runs, analyses or [None] * len(runs), strict=True)]
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True,
                                     undefined=jinja2.StrictUndefined)
    return environment.get_template("page.html").render(
        mark=mark, title="Twofold report: " + ", ".join(run.path.name for run in runs), runs=sections,
        together=together, images=images is not None)


def drawings_of(run: Run, analysis: StoreAnalysis | None) -> dict[str, Drawing]:
    """The drawings that are written as files: those of the page, and the confusion matrices, which are tables there,
    numbered as the table of all systems has them."""
    confusions = {f"confusion-{number}": figures.confusion(_marked(system), np.array(system.confusion),
                                                           run.taxonomy.classes)
                  for number, system in enumerate(run.metrics.systems, 1)}
    maps = _maps(run, analysis)
    return _page_drawings(run) | ({"map": maps["target"]} if maps else {}) | confusions


def forest_of(runs: Sequence[Run]) -> Drawing | None:
    """The fusions of all runs that scored samples; None if none did."""
    rows = [(f"{run.path.name} ({run.record.classes_name}, {system.n} samples){_mark(run)}", system.macro_f1,
             system.macro_f1_interval) for run in runs for system in run.metrics.systems[-1:]]
    return figures.forest("macro-F1, %", rows) if rows else None


def listed_keys(runs: Sequence[Run]) -> list[str]:
    """The keys of all samples that the page lists."""
    return list(dict.fromkeys(run.predictions.keys[row] for run in runs for _, rows in _listed(run.predictions)
                              for row in rows))


def _section(run: Run, analysis: StoreAnalysis | None, licences: Mapping[str, str], images: ImageSource | None
             ) -> dict[str, Any]:
    """What the template shows of one run."""
    mark, systems, classes = _mark(run), run.metrics.systems, run.taxonomy.classes
    streams = [(name, "random numbers: none" if recipe.untrained else licences.get(name, "not stated"), view, recipe)
               for name, view, recipe in run.streams]
    content: dict[str, Any] = {
        "name": run.path.name, "record": run.record, "mark": mark, "untrained": UNTRAINED, "names": classes,
        "encoders": Table("Encoders", ("backbone", "view", "dim", "weights", "licence"), [
            (name + (UNTRAINED_MARK if recipe.untrained else ""), view, dim, recipe.weights[:15], licence)
            for (name, licence, view, recipe), dim in zip(streams, run.head.spec.dims, strict=True)]),
        "splits": Table("Samples", ("", "train", "validation", "test"), [
            (f"fold {number}" if run.folds > 1 else "split", fold.train, fold.val, fold.test)
            for number, fold in enumerate(run.record.faces)]),
        "fusion": systems[-1] if systems else None}
    if not systems:
        return content
    fusion, marks = systems[-1], dict(zip(run.stream_names, _stream_marks(run), strict=True))
    maps = _maps(run, analysis)
    return content | {
        "drawings": {name: Markup(drawing.inline()) for name, drawing in _page_drawings(run).items()},
        "systems": Table("All systems", ("system", "accuracy", "95 %", "macro-F1", "95 %", "UAR"), [
            (_marked(system), percent(system.accuracy), span(system.accuracy_interval), percent(system.macro_f1),
             span(system.macro_f1_interval), percent(system.uar)) for system in systems]),
        "classes": Table("Each class, by the fusion" + mark, ("class", "samples", "precision", "recall", "F1"), [
            (name, each.n, percent(each.precision), percent(each.recall), percent(each.f1))
            for name, each in fusion.per_class.items()]),
        "confusions": [Table(f"{_marked(system)}: samples by target (rows) and prediction (columns)", (), [
            [(count, count / max(sum(row), 1)) for count in row] for row in system.confusion])
            for system in reversed(systems)],
        "curves": run.history,
        "contributions": Table("Mean weight of each stream", ("stream", "weight"), [
            (name + marks.get(name, ""), f"{weight:.2f}") for name, weight in (fusion.contributions or {}).items()]),
        "analysis": analysis, **_stream_tables(run, analysis),
        "maps": {name: Markup(drawing.inline()) for name, drawing in maps.items()},
        "samples": [_list(caption, run, rows, images) for caption, rows in _listed(run.predictions) if len(rows)]}


def _page_drawings(run: Run) -> dict[str, Drawing]:
    if not run.metrics.systems:
        return {}
    mark, systems, fusion = _mark(run), run.metrics.systems, run.metrics.systems[-1]
    drawings = {f"forest-{kind}": figures.forest(words, [
        (_marked(system), getattr(system, kind), getattr(system, f"{kind}_interval")) for system in systems])
        for kind, words in (("macro_f1", "macro-F1, %"), ("accuracy", "accuracy, %"))}
    drawings |= {"reliability": figures.reliability("with temperature scaling" + mark, fusion.reliability),
                 "reliability-before-temperature": figures.reliability(
                     "before temperature scaling" + mark, fusion.reliability_before_temperature)}
    if run.history:
        drawings |= {"learning-macro_f1": figures.learning_curves("validation macro-F1, %" + mark, run.history,
                                                                  "val_macro_f1", scale=100),
                     "learning-loss": figures.learning_curves("training loss" + mark, run.history, "loss", scale=1)}
    return drawings


def _maps(run: Run, analysis: StoreAnalysis | None) -> dict[str, Drawing]:
    """The map coloured by target and, where no colour comes twice, by prediction; none without enough samples."""
    if analysis is None or analysis.positions is None:
        return {}
    every, classes, rows = run.predictions, run.taxonomy.classes, analysis.rows
    names = [f"{every.keys[row]}: {classes[every.target[row]]}, predicted {classes[every.predicted[row]]} "
             f"({every.confidence[row]:.2f})" for row in rows]
    colours = {"target": every.target} | ({"prediction": every.predicted} if len(classes) <= len(PALETTE) else {})
    return {name: figures.embedding_map(f"Map of {len(rows)} samples by their fused features, coloured by {name}"
                                        f"{_mark(run)}", analysis.positions, numbers[rows], every.wrong[rows], names,
                                        classes) for name, numbers in colours.items()}


def _stream_tables(run: Run, analysis: StoreAnalysis | None) -> dict[str, Table | None]:
    if analysis is None or len(analysis.streams) < 2:
        return {"streams": None, "agreement": None}
    names = [each.name + mark for each, mark in zip(analysis.streams, _stream_marks(run), strict=True)]
    numbers = [str(number) for number in range(1, len(names) + 1)]
    return {"streams": Table(f"Without a stream, and with it alone: macro-F1{_mark(run)}",
                             ("stream", "without it", "95 %", "alone"), [
        (name, f"{100 * each.without.difference:+.2f}", _span(each.without.interval), percent(each.alone))
        for name, each in zip(names, analysis.streams, strict=True)]),
            "agreement": Table("Agreement of the streams, each alone: Cohen's kappa", ("", *numbers), [
                (f"{number} {name}", *(f"{value:.2f}" for value in row))
                for number, name, row in zip(numbers, names, analysis.agreement, strict=True)])}


def _difference(each: PairedComparison, mark: str) -> tuple[object, ...]:
    result = each.comparison
    if result is None:
        return each.run + mark, "", each.obstacle, *("",) * 5
    return (each.run + mark, each.samples, f"{100 * result.difference:+.2f}", _span(result.interval), result.only_a,
            result.only_b, f"{result.p_value:.2g}", f"{each.kappa:.2f}")


def _listed(predictions: TestPredictions) -> list[tuple[str, np.ndarray]]:
    """Rows of the most confident errors, and of the least confident other predictions; each image once, for one that
    stands under several keys has the same probabilities."""
    _, first = np.unique(predictions.probabilities, axis=0, return_index=True)
    order = first[np.argsort(-predictions.confidence[first], kind="stable")]
    errors = order[predictions.wrong[order]][:LISTED]
    return [("The most confident errors", errors),
            ("The least confident predictions", order[::-1][~np.isin(order[::-1], errors)][:LISTED])]


def _list(caption: str, run: Run, rows: np.ndarray, images: ImageSource | None) -> dict[str, Any]:
    every, classes = run.predictions, run.taxonomy.classes
    samples = [{"key": every.keys[row], "target": classes[every.target[row]],
                "predicted": classes[every.predicted[row]], "confidence": f"{every.confidence[row]:.2f}",
                "wrong": every.wrong[row], "image": _data_uri(images, every.keys[row]) if images else ""}
               for row in rows]
    return {"caption": caption, "rows": samples, "table": Table(
        caption, ("sample", "target", "prediction", "confidence"), [
            [sample[name] for name in ("key", "target", "predicted", "confidence")] for sample in samples])}


def _data_uri(images: ImageSource, key: str) -> str:
    """The image as a JPEG within `SIDE` x `SIDE` pixels, without metadata; empty if it cannot be read."""
    try:
        content = thumbnail(images.read(key), side=SIDE, limits=images.limits)
    except ImageError:
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")


def _stream_marks(run: Run) -> list[str]:
    return [UNTRAINED_MARK if recipe.untrained else "" for _, _, recipe in run.streams]


def _mark(run: Run) -> str:
    """What stands beside all figures of a run, if an encoder of it has random weights."""
    return UNTRAINED_MARK if run.untrained else ""


def _marked(system: SystemRecord) -> str:
    return system.name + (UNTRAINED_MARK if system.untrained else "")


def _span(interval: Sequence[float] | None) -> str:
    return span(interval, sign="+") if interval else ""
