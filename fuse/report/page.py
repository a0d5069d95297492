"""The report as one HTML page: no script, no request, everything escaped."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from twofold.fuse.features import stream_name
from twofold.fuse.report.calibration import calibration_section
from twofold.fuse.report.content import RunContent, marked, stream_mark
from twofold.fuse.report.drawings import drawings
from twofold.fuse.report.embedding import embedding_section
from twofold.fuse.report.faces import PERSONAL, Pictures, faces_section
from twofold.fuse.report.markup import STYLE, framed, scrolled, table
from twofold.fuse.report.stored import StoredContent
from twofold.fuse.report.streams import streams_section
from twofold.fuse.tables import UNTRAINED, percent, span

MARK = "twofold report"  #: stands in the head of the page, so that a later run knows it


def page(runs: Sequence[RunContent], *, licences: Mapping[str, str], pictures: Pictures | None = None,
         side: Sequence[str] = (), stored: Sequence[StoredContent | None] = ()) -> str:
    """The whole page. licences: of encoders, where known; pictures: of the faces that it lists; side: what is said of
    all runs together; stored: what each run says of the store, if one is given."""
    title = "Twofold report: " + ", ".join(run.path.name for run in runs)
    links = " ".join(f'<a href="#run{number}">{escape(run.path.name)}</a>' for number, run in enumerate(runs))
    body = [f"<h1>{escape(title)}</h1>", f"<nav aria-label=\"runs\">{links}</nav>"]
    body += [f'<p class="warn" role="note">{escape(PERSONAL)}</p>'] if pictures else []
    body += side
    for number, (run, more) in enumerate(zip(runs, stored or [None] * len(runs), strict=True)):
        body += [f'<section id="run{number}"><h2>{escape(run.path.name)}</h2>', *_sections(run, licences)]
        body += streams_section(run, more.streams) if more else []
        body += embedding_section(run, more.embedding, number=number) if more and more.embedding else []
        body += [*faces_section(run, pictures), "</section>"] if run.systems else ["</section>"]
    images = "; img-src data:" if pictures else ""
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="generator" content="{MARK}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta http-equiv="Content-Security-Policy" '
            f"content=\"default-src 'none'; style-src 'unsafe-inline'{images}\">"
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n")


def _sections(run: RunContent, licences: Mapping[str, str]) -> list[str]:
    drawn = drawings(run)
    done = _done(run, licences)
    if not run.systems:
        return [*done, "<p>No test face has a label to score by.</p>"]
    fused = run.systems[-1]
    figures = ["<h3>Figures, with their 95 % intervals</h3>",
               f"<p>Of the {escape(str(fused.get('figures_of', 'ensemble of all seeds')))}, on {fused['n']} faces"
               + (f" of {escape(str(fused['groups']))} groups" if "groups" in fused else "") + ".</p>",
               *(f"<h4>{words}</h4>{scrolled(drawn[name])}" for name, words in (("forest-macro_f1", "macro-F1, %"),
                                                                     ("forest-accuracy", "accuracy, %"))),
               table("All systems", ("system", "accuracy", "95 %", "macro-F1", "95 %", "UAR"),
                      [(marked(system), percent(system["accuracy"]), span(system["accuracy_interval"]),
                        percent(system["macro_f1"]), span(system["macro_f1_interval"]), percent(system["uar"]))
                       for system in run.systems])]
    classes = table("Each class, by the fusion" + run.mark, ("class", "faces", "precision", "recall", "F1"), [
        (name, str(row["n"]), *(percent(row[kind]) for kind in ("precision", "recall", "f1")))
        for name, row in fused["per_class"].items()])
    confusions = [_confusion(system, run.classes) for system in reversed(run.systems)]
    folded = f"<details><summary>Of the other systems</summary>{''.join(confusions[1:])}</details>"
    return [*done, *figures, f"<h3>Classes</h3>{classes}", "<h3>Which classes are confused</h3>", confusions[0],
            folded if confusions[1:] else "", *calibration_section(fused, drawn, run.mark), *_training(run, drawn)]


def _done(run: RunContent, licences: Mapping[str, str]) -> list[str]:
    """What was done: classes, head, encoders with their weights and licences, faces of each side, notes."""
    record = run.record
    streams = [(str(stream["backbone"]) + stream_mark(stream), str(stream["view"]), str(stream["dim"]),
                str(stream["recipe"]["weights"])[:15], _licence(stream, licences)) for stream in record["streams"]]
    warn = [f'<p class="warn">{escape(UNTRAINED)}</p>'] if run.mark else []
    counts = [(f"fold {number}" if len(record["faces"]) > 1 else "split",
               *(str(side[name]) for name in ("train", "val", "test"))) for number, side in enumerate(record["faces"])]
    return [*warn, f"<p>Classes {escape(str(record['classes_name']))}, head {escape(str(record['head']['kind']))}, "
                   f"trained {escape(str(record['created']))} in {record['seconds']:.1f} s.</p>",
            table("Encoders", ("backbone", "view", "dim", "weights", "licence"), streams),
            table("Faces", ("", "train", "validation", "test"), counts),
            "<ul>" + "".join(f"<li>{escape(str(note))}</li>" for note in record["notes"]) + "</ul>"]


def _licence(stream: dict[str, Any], licences: Mapping[str, str]) -> str:
    return "random numbers: none" if stream_mark(stream) else licences.get(str(stream["backbone"]), "not stated")


def _confusion(system: dict[str, Any], classes: Sequence[str]) -> str:
    counts = np.array(system["confusion"], int)
    head = "".join(f'<th scope="col">{escape(name).replace("_", "_<wbr>")}</th>' for name in classes)
    rows = ""
    for name, row in zip(classes, counts, strict=True):
        shares = row / max(row.sum(), 1)
        cells = "".join(f'<td class="cell" style="--share:{share:.3f}">{count}<br><small>{100 * share:.0f} %</small>'
                        "</td>" for count, share in zip(row, shares, strict=True))
        rows += f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'
    caption = f"{marked(system)}: faces of a row called as a column"
    return framed(caption, f"<th>truth</th>{head}", rows)


def _training(run: RunContent, drawn: dict[str, str]) -> list[str]:
    lines = ["<h3>Learning, a line a fold and seed</h3>", '<div class="side">',
             *(f"<figure><figcaption>{words}{run.mark}</figcaption>{scrolled(drawn[name])}</figure>" for name, words in
               (("learning-macro_f1", "validation macro-F1, %"), ("learning-loss", "training loss"))), "</div>"
             ] if run.curves else []
    shares = run.systems[-1]["contributions"]
    if not shares:
        return lines
    marks = {stream_name(stream["backbone"], stream["view"]): stream_mark(stream) for stream in run.record["streams"]}
    rows = [(name + marks.get(name, ""), f"{share:.2f}") for name, share in shares.items()]
    return [*lines, table("Mean contribution of each stream", ("stream", "share"), rows)]
