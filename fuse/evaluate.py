"""The verb `evaluate`: a trained run on the features of another store."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twofold.cache.store import Store
from twofold.data.errors import InputError
from twofold.fuse.experiment import Say
from twofold.fuse.features import FusedFeatures
from twofold.fuse.run import Run, read_run
from twofold.fuse.scores.scored_head import Figures, ScoredHead, against, figures
from twofold.fuse.scores.statistics import Comparison
from twofold.fuse.settings import choices_of
from twofold.fuse.tables.columns import columns, percent, span
from twofold.fuse.tables.figures import UNTRAINED, absent_lines, compared, comparison_record, figures_table


@dataclass(frozen=True)
class Evaluation:
    """Figures of a run on the labelled faces of a store, whose keys (n,) are `keys`."""

    run: Path
    split: str
    keys: np.ndarray
    figures: Figures
    classes: tuple[str, ...]
    notes: list[str]

    def record(self) -> dict:
        return {"run": str(self.run), "split": self.split, "notes": self.notes, **self.figures.record(self.classes)}

    def text(self) -> str:
        scores = self.figures.scores
        rows = [("class", "n", "precision", "recall", "F1"), *(
            (name, str(scores.n[c]), *(percent(each[c]) for each in (scores.precision, scores.recall, scores.f1)))
            for c, name in enumerate(self.classes))]
        lines = [f"{self.run} on {scores.n.sum()} {self.split} faces: accuracy {percent(scores.accuracy)} "
                 f"{span(self.figures.accuracy_interval)}, macro-F1 {percent(scores.macro_f1)} "
                 f"{span(self.figures.macro_f1_interval)} (95 %), UAR {percent(scores.uar)}, calibration error "
                 f"{self.figures.ece_calibrated:.3f}", "", *columns(rows, left=1),
                 *absent_lines([self.figures], self.classes)]
        if self.figures.head.untrained:
            lines += ["", f"* {UNTRAINED}"]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


@dataclass(frozen=True)
class Evaluations:
    """Several runs on the same faces, side by side. table: plain or paper."""

    each: list[Evaluation]
    table: str
    comparison: Comparison | None
    best_other: str

    def record(self) -> dict:
        return {"runs": [evaluation.record() for evaluation in self.each],
                "comparison": comparison_record(self.comparison, self.best_other)}

    def text(self) -> str:
        heads, classes = [evaluation.figures for evaluation in self.each], self.each[0].classes
        lines = [f"{heads[0].scores.n.sum()} {self.each[0].split} faces", "",
                 *figures_table(heads, classes, style=self.table)]
        if self.comparison:
            lines += ["", f"{self.each[-1].run} against {self.best_other}: {compared(self.comparison)}"]
        notes = dict.fromkeys(note for evaluation in self.each for note in evaluation.notes)
        return "\n".join([*lines, *(f"note: {note}" for note in notes)])


def evaluate_all(
    runs: Sequence[Path], store: Path, *, split: str = "", table: str = "plain", say: Say = lambda text: None,
) -> Evaluations:
    """Score runs on the same faces, as `evaluate` does each; the last one is held against the best of the others.

    Raises InputError if their classes or, for lack of features, their faces are not the same.
    """
    if table not in choices_of("table"):
        raise InputError(f"unknown table {table!r}: choose from {', '.join(choices_of('table'))}")
    evaluations = [evaluate(run, store, split=split, say=say) for run in runs]
    first = evaluations[0]
    for other in evaluations[1:]:
        if other.classes != first.classes:
            raise InputError(f"{first.run} and {other.run} know different classes: evaluate them one by one")
        if not np.array_equal(other.keys, first.keys):
            raise InputError(f"{store} has features of {len(first.keys)} faces for {first.run} and of "
                             f"{len(other.keys)} for {other.run}: extract what is missing, or evaluate them one by one")
    if len(evaluations) == 1:
        return Evaluations(evaluations, table, None, "")
    best = max(evaluations[:-1], key=lambda evaluation: evaluation.figures.scores.macro_f1)
    comparison = against(evaluations[-1].figures.head, best.figures.head, classes=len(first.classes), seed=0)
    return Evaluations(evaluations, table, comparison, str(best.run))


def evaluate(path: Path, store: Path, *, split: str = "", say: Say = lambda text: None) -> Evaluation:
    """Score the run in `path` on a store. split: train, val, test or all; empty = test if there is any, else all.

    Raises InputError if the store's features are of another recipe, with the difference spelled out (another
    precision is only a note), or if no face has a label; CacheError if a backbone is missing.
    """
    run = read_run(path)
    features, notes = run.features(Store(store))
    for note in notes:
        say(f"warning: {note}")
    rows, split = _rows(features, split)
    head = _scored(run, features, rows)
    return Evaluation(path, split, features.keys[rows],
                      figures(head, classes=len(run.taxonomy.classes), seed=run.settings.seed), run.taxonomy.classes,
                      [*features.notes, *notes])


def _scored(run: Run, features: FusedFeatures, rows: np.ndarray) -> ScoredHead:
    scores = run.scores(features, rows)
    shares = None if scores.shares is None else scores.shares.mean(axis=(0, 1)).tolist()
    return ScoredHead(
        name=str(run.path), backbones=run.stream_names, head=run.kind, dim=features.dim, untrained=run.untrained,
        rows=rows, truth=features.label[rows], groups=features.group[rows], members=scores.probabilities,
        calibrated=run.calibrated(scores), temperature=run.temperature, val_macro_f1=float("nan"), seconds=0.0,
        shares=dict(zip(run.stream_names, shares, strict=True)) if shares else None)


def _rows(features: FusedFeatures, split: str) -> tuple[np.ndarray, str]:
    """The labelled faces of a split, and its name."""
    if split not in ("", "train", "val", "test", "all"):
        raise InputError(f"unknown split {split!r}: choose train, val, test or all")
    labelled = features.label >= 0
    split = split or ("test" if (labelled & (features.split == "test")).any() else "all")
    rows = np.flatnonzero(labelled & ((features.split == split) | (split == "all")))
    if not len(rows):
        raise InputError(f"no labelled faces of {features.taxonomy.name} in the split {split!r} of the store")
    return rows, split
