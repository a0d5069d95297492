"""The verb `report`: runs as one HTML page of tables and drawings, and the drawings as files for a paper."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from twofold.data.images.sources import check_roots, open_images
from twofold.data.utils.errors import InputError
from twofold.data.utils.outputs import Output, OutputKind, read_head
from twofold.fuse.report.analysis import PairedComparison, StoreAnalysis, analyse_on_store, compare_with_first
from twofold.fuse.runs.read import Run, read_run

MARK = "twofold report"  #: in the head of the page, so that a later report knows its own
PAGE = OutputKind("a page of `report`", lambda path: MARK in read_head(path), repeatable=True)
Licences = Callable[[Iterable[str]], dict[str, str]]  #: of encoders, by backbone: of those of which one is stated


@dataclass(frozen=True)
class WrittenReport:
    """What `report` wrote. figures: the files of the drawings; licences: of the encoders where one is stated."""

    out: Path
    runs: list[Run]
    figures: list[Path]
    comparisons: list[PairedComparison]
    analyses: list[StoreAnalysis | None]
    licences: dict[str, str]

    def text(self) -> str:
        drawn = f"; {len(self.figures)} files of drawings in {self.figures[0].parent}" if self.figures else ""
        return f"{len(self.runs)} run{'s' if len(self.runs) > 1 else ''} -> {self.out}{drawn}"

    def record(self) -> dict[str, Any]:
        return {"out": str(self.out), "figures": [str(path) for path in self.figures],
                "runs": [{"run": str(run.path), "classes": list(run.taxonomy.classes),
                          "systems": msgspec.to_builtins(run.metrics.systems),
                          "fusion_against_best_single": run.metrics.fusion_against_best_single,
                          "streams": analysis.record() if analysis else None}
                         for run, analysis in zip(self.runs, self.analyses, strict=True)],
                "licences": self.licences, "against_the_first": [each.record() for each in self.comparisons]}


def report(paths: Sequence[Path], *, out: Path, figures: Path | None = None,
           root: Path | dict[str, Path] | None = None, store: Path | None = None,
           licences_of: Licences = lambda backbones: {}, overwrite: bool = False) -> WrittenReport:
    """Write the page of these runs to `out`, and their drawings as SVG, PDF and PNG files into `figures`.

    licences_of: gives the licences of encoders, where they are known. root: the folder of the images; with it, and
    only then, the page shows the samples that it lists. store: whose features show
    the effect of each stream and a map of the samples.
    overwrite: a page, and drawings, of earlier reports.
    Raises InputError for a folder that is not a run, images that are not below `root`, an output that cannot be
    written, and where matplotlib or Jinja2 is missing.
    """
    _require_packages()
    from twofold.fuse.report.figures import write_drawings
    from twofold.fuse.report.page import drawings_of, forest_of, listed_keys, render

    runs = [read_run(path) for path in paths]
    page = Output(out, PAGE, overwrite)
    page.check()
    images = open_images(root) if root else None
    if images:
        check_roots(images, listed_keys(runs))
    comparisons = compare_with_first(runs)
    analyses = [analyse_on_store(run, store) if store else None for run in runs]
    licences = licences_of(dict.fromkeys(stream.backbone for run in runs for stream in run.record.streams))
    files = []
    if figures:
        drawings = {name if len(runs) == 1 else f"{number}-{name}": drawing
                    for number, (run, analysis) in enumerate(zip(runs, analyses, strict=True), 1)
                    for name, drawing in drawings_of(run, analysis).items()}
        together = forest_of(runs) if len(runs) > 1 else None
        files = write_drawings(figures, drawings | ({"side-by-side": together} if together else {}),
                               overwrite=overwrite)
    page.write_text(render(runs, mark=MARK, licences=licences, comparisons=comparisons, analyses=analyses,
                           images=images))
    return WrittenReport(out, runs, files, comparisons, analyses, licences)


def _require_packages() -> None:
    try:
        import jinja2  # noqa: F401  # pyright: ignore[reportUnusedImport]
        import matplotlib  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise InputError(f"a report needs {error.name}: pip install 'twofold[report]'") from None
