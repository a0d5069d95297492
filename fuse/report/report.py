"""The verb `report`: runs as a page that a person would rather look at."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from twofold.data.images.sources import check_roots, open_images
from twofold.data.manifest import read_manifest
from twofold.data.utils.errors import InputError
from twofold.data.utils.outputs import Output, OutputKind, read_head
from twofold.fuse.report.content import RunContent, read_content
from twofold.fuse.report.drawings import NO_PNG, can_write_png, paper_drawings, write_drawings
from twofold.fuse.report.faces import Pictures, shown_keys
from twofold.fuse.report.page import MARK, page
from twofold.fuse.report.pairs import Pair, forest_of, pairs, side_by_side
from twofold.fuse.report.stored import StoredContent, read_stored

PAGE = OutputKind("a page of `report`", lambda path: MARK in read_head(path), repeatable=True)

Licences = Callable[[Iterable[str]], dict[str, str]]  #: of encoders, by backbone: of those of which one is stated


@dataclass(frozen=True)
class Reported:
    """What `report` wrote. figures: the files of the drawings."""

    out: Path
    runs: list[RunContent]
    figures: list[Path]
    compared: list[Pair]
    stored: list[StoredContent | None]
    licences: dict[str, str]  #: of the encoders of which one is stated

    def text(self) -> str:
        drawn = f"; {len(self.figures)} files of drawings in {self.figures[0].parent}" if self.figures else ""
        note = f"\nnote: {NO_PNG}" if self.figures and not can_write_png() else ""
        return f"{len(self.runs)} run{'s' if len(self.runs) > 1 else ''} -> {self.out}{drawn}{note}"

    def record(self) -> dict:
        return {"out": str(self.out), "figures": [str(path) for path in self.figures],
                "runs": [{"run": str(run.path), "classes": list(run.classes), "systems": run.systems,
                          "fusion_against_best_single": run.comparison,
                          "streams": more.streams.record() if more else None}
                         for run, more in zip(self.runs, self.stored, strict=True)],
                "licences": self.licences, "against_the_first": [pair.record() for pair in self.compared]}


def report(paths: Sequence[Path], *, out: Path, figures: Path | None = None,
           root: Path | dict[str, Path] | None = None, store: Path | None = None,
           licences_of: Licences = lambda backbones: {}, overwrite: bool = False) -> Reported:
    """Write the page of these runs to `out`, and their drawings as SVG and PNG files into `figures`.

    licences_of: gives the licences of encoders, where they are known. root: where the faces lie; with it, and only
    then, the page shows the faces that it lists. store: whose manifest tells which faces belong together, so that runs
    are compared by group, and whose features show what each stream does and how the faces lie.
    overwrite: a page, and drawings, of earlier reports.
    Raises InputError for a folder that is no run, for faces that are not below `root`, or a place that cannot be
    written.
    """
    runs = [read_content(path) for path in paths]
    place = Output(out, PAGE, overwrite)
    place.check()
    if figures and figures.exists() and not figures.is_dir():
        raise InputError(f"{figures}: cannot be written: it is no folder")
    pictures = _pictures(root, runs) if root else None
    compared = pairs(runs, groups=_groups(store) if store else {})
    side = side_by_side(runs, compared, grouped=store is not None) if len(runs) > 1 else []
    stored = [read_stored(run, store) if store else None for run in runs]
    files = []
    if figures:
        named = {name if len(runs) == 1 else f"{number}-{name}": drawing
                 for number, (run, more) in enumerate(zip(runs, stored, strict=True), 1)
                 for name, drawing in paper_drawings(run, more).items()}
        together = {"side-by-side": forest_of(runs)} if len(runs) > 1 else {}
        files = write_drawings(figures, {name: drawing for name, drawing in (named | together).items() if drawing},
                               overwrite=overwrite)
    licences = licences_of(dict.fromkeys(str(stream["backbone"]) for run in runs for stream in run.record["streams"]))
    place.write_text(page(runs, licences=licences, pictures=pictures, side=side, stored=stored))
    return Reported(out, runs, files, compared, stored, licences)


def _pictures(root: Path | dict[str, Path], runs: Sequence[RunContent]) -> Pictures:
    source = open_images(root)
    check_roots(source, shown_keys(runs))
    return Pictures(source)


def _groups(store: Path) -> dict[str, str]:
    table = read_manifest(store / "manifest.csv").table
    return dict(zip(table["key"], table["group"], strict=True))
