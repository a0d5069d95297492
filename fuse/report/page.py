"""The report as one HTML page: no script, no request, everything escaped."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from twofold.fuse.report import svg
from twofold.fuse.report.content import RunContent
from twofold.fuse.report.embedding import embedding_drawing, embedding_section
from twofold.fuse.report.faces import PERSONAL, Pictures, faces_section
from twofold.fuse.report.markup import STYLE, scrolled, table
from twofold.fuse.report.stored import StoredContent
from twofold.fuse.report.streams import streams_section
from twofold.fuse.tables.columns import percent, span
from twofold.fuse.tables.figures import UNTRAINED


def page(runs: Sequence[RunContent], *, pictures: Pictures | None = None, side: Sequence[str] = (),
         stored: Sequence[StoredContent | None] = ()) -> str:
    """The whole page. pictures: of the faces that it lists; side: what is said of all runs together; stored: what each
    run says of the store, if one is given."""
    title = "Twofold report: " + ", ".join(run.path.name for run in runs)
    links = " ".join(f'<a href="#run{number}">{escape(run.path.name)}</a>' for number, run in enumerate(runs))
    body = [f"<h1>{escape(title)}</h1>", f"<nav aria-label=\"runs\">{links}</nav>"]
    body += [f'<p class="warn" role="note">{escape(PERSONAL)}</p>'] if pictures else []
    body += side
    for number, (run, more) in enumerate(zip(runs, stored or [None] * len(runs), strict=True)):
        body += [f'<section id="run{number}"><h2>{escape(run.path.name)}</h2>', *_sections(run)]
        body += _stored(run, more, number=number) if more else []
        body += [*faces_section(run, pictures), "</section>"] if run.systems else ["</section>"]
    images = "; img-src data:" if pictures else ""
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
            'content="width=device-width, initial-scale=1"><meta http-equiv="Content-Security-Policy" '
            f"content=\"default-src 'none'; style-src 'unsafe-inline'{images}\">"
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n")


def drawings(run: RunContent, stored: StoredContent | None = None) -> dict[str, str]:
    """The drawings of a run by name, each an SVG that stands alone."""
    named = {f"forest-{kind}": svg.forest(words, [(system["name"], system[kind], system[f"{kind}_interval"])
                                                  for system in run.systems])
             for kind, words in (("macro_f1", "macro-F1, %"), ("accuracy", "accuracy, %"))} if run.systems else {}
    if len(run.answers.keys):
        named["reliability"] = svg.reliability(run.answers.confidence, ~run.answers.wrong)
    if run.curves:
        named["learning-macro_f1"] = svg.curves("validation macro-F1, %", [(e, f1) for e, _, f1 in run.curves],
                                                percent=True)
        named["learning-loss"] = svg.curves("training loss", [(e, loss) for e, loss, _ in run.curves], percent=False)
    if stored and stored.embedding:
        named["map"] = embedding_drawing(run, stored.embedding)
    return named


def _sections(run: RunContent) -> list[str]:
    drawn = drawings(run)
    done = [*_done(run)]
    if not run.systems:
        return [*done, "<p>No test face has a label to score by.</p>"]
    fused = run.systems[-1]
    figures = ["<h3>Figures, with their 95 % intervals</h3>",
               f"<p>Of the {escape(str(fused.get('figures_of', 'ensemble of all seeds')))}, on {fused['n']} faces"
               + (f" of {escape(str(fused['groups']))} groups" if "groups" in fused else "") + ".</p>",
               *(f"<h4>{words}</h4>{scrolled(drawn[name])}" for name, words in (("forest-macro_f1", "macro-F1, %"),
                                                                     ("forest-accuracy", "accuracy, %"))),
               table("All systems", ("system", "accuracy", "95 %", "macro-F1", "95 %", "UAR"),
                      [(system["name"], percent(system["accuracy"]), span(system["accuracy_interval"]),
                        percent(system["macro_f1"]), span(system["macro_f1_interval"]), percent(system["uar"]))
                       for system in run.systems])]
    classes = table("Each class, by the fusion", ("class", "faces", "precision", "recall", "F1"), [
        (name, str(row["n"]), *(percent(row[kind]) for kind in ("precision", "recall", "f1")))
        for name, row in fused["per_class"].items()])
    confusions = [_confusion(system, run.classes) for system in reversed(run.systems)]
    folded = f"<details><summary>Of the other systems</summary>{''.join(confusions[1:])}</details>"
    return [*done, *figures, f"<h3>Classes</h3>{classes}", "<h3>Which classes are confused</h3>", confusions[0],
            folded if confusions[1:] else "", *_confidence(run, drawn), *_training(run, drawn)]


def _stored(run: RunContent, stored: StoredContent, *, number: int) -> list[str]:
    drawn = embedding_section(run, stored.embedding, number=number) if stored.embedding else []
    return [*streams_section(stored.streams), *drawn]


def _done(run: RunContent) -> list[str]:
    record = run.record
    streams = [(str(stream["backbone"]), str(stream["view"]), str(stream["dim"]), str(stream["recipe"]["weights"])[:24])
               for stream in record["streams"]]
    warn = [f'<p class="warn">{escape(UNTRAINED)}</p>'] if any(s["untrained"] for s in run.systems) else []
    counts = [(f"fold {number}" if len(record["faces"]) > 1 else "split",
               *(str(side[name]) for name in ("train", "val", "test"))) for number, side in enumerate(record["faces"])]
    return [*warn, f"<p>Classes {escape(str(record['classes_name']))}, head {escape(str(record['head']['kind']))}, "
                   f"trained {escape(str(record['created']))} in {record['seconds']:.1f} s.</p>",
            table("Encoders", ("backbone", "view", "dim", "weights"), streams),
            table("Faces", ("", "train", "validation", "test"), counts),
            "<ul>" + "".join(f"<li>{escape(str(note))}</li>" for note in record["notes"]) + "</ul>"]


def _confusion(system: dict[str, Any], classes: Sequence[str]) -> str:
    counts = np.array(system["confusion"], int)
    head = "".join(f'<th scope="col">{escape(name).replace("_", "_<wbr>")}</th>' for name in classes)
    rows = ""
    for name, row in zip(classes, counts, strict=True):
        shares = row / max(row.sum(), 1)
        cells = "".join(f'<td class="cell" style="--share:{share:.3f}">{count}<br><small>{100 * share:.0f} %</small>'
                        "</td>" for count, share in zip(row, shares, strict=True))
        rows += f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'
    caption = f"{system['name']}: faces of a row called as a column"
    return (f'<div class="wide" tabindex="0"><table><caption>{escape(caption)}</caption>'
            f"<thead><tr><th>truth</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>")


def _confidence(run: RunContent, drawn: dict[str, str]) -> list[str]:
    fused = run.systems[-1]
    after = fused.get("calibration_error", fused.get("ece_calibrated"))
    before = fused.get("calibration_error_before_temperature", fused.get("ece"))
    return ["<h3>How sure it is, and how often rightly</h3>", scrolled(drawn.get("reliability", "")),
            f"<p>Calibration error {after:.3f}; before the temperature of {fused['temperature']:.2f}, fitted on "
            f"validation, {before:.3f}. Pale bars are of few faces.</p>"]


def _training(run: RunContent, drawn: dict[str, str]) -> list[str]:
    lines = ["<h3>Learning, a line a fold and seed</h3>", '<div class="side">',
             *(f"<figure><figcaption>{words}</figcaption>{scrolled(drawn[name])}</figure>" for name, words in
               (("learning-macro_f1", "validation macro-F1, %"), ("learning-loss", "training loss"))), "</div>"
             ] if run.curves else []
    shares = run.systems[-1]["contributions"]
    return [*lines, table("Mean contribution of each stream", ("stream", "share"),
                           [(name, f"{share:.2f}") for name, share in shares.items()])] if shares else lines
