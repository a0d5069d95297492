"""The verb `evaluate`: a trained run on the features of another store."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twofold.cache.format.featurefile import FeatureFile
from twofold.cache.recipe import Recipe, differences
from twofold.cache.store import Store
from twofold.data.errors import InputError
from twofold.fuse.features import FusedFeatures, join, spelled
from twofold.fuse.run import Run, read_run
from twofold.fuse.scores import metrics
from twofold.fuse.scores.scored_head import Figures, System, against, figures
from twofold.fuse.scores.statistics import Comparison
from twofold.fuse.settings import CHOICES
from twofold.fuse.tables.figures import (
    UNTRAINED,
    absent_lines,
    columns,
    compared,
    comparison_record,
    figures_rows,
    percent,
    recall_rows,
    span,
)
from twofold.fuse.tables.paper_tables import paper_table
from twofold.fuse.training.fit import contributions, probabilities


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
        found = self.figures.scores
        rows = [("class", "n", "precision", "recall", "F1"),
                *((name, str(found.n[c]), *(percent(getattr(found, kind)[c]) for kind in ("precision", "recall", "f1")))
                  for c, name in enumerate(self.classes))]
        lines = [f"{self.run} on {found.n.sum()} {self.split} faces: accuracy {percent(found.accuracy)} "
                 f"{span(self.figures.accuracy_interval)}, macro-F1 {percent(found.macro_f1)} "
                 f"{span(self.figures.macro_f1_interval)} (95 %), UAR {percent(found.uar)}, calibration error "
                 f"{self.figures.ece_calibrated:.3f}", "", *columns(rows, left=1),
                 *absent_lines([self.figures], self.classes)]
        if self.figures.system.untrained:
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
        return {"runs": [one.record() for one in self.each],
                "comparison": comparison_record(self.comparison, self.best_other)}

    def text(self) -> str:
        systems, classes = [one.figures for one in self.each], self.each[0].classes
        lines = paper_table(systems, classes) if self.table == "paper" else [
            *columns(figures_rows(systems)), "", *columns(recall_rows(systems, classes), left=1)]
        lines = [f"{systems[0].scores.n.sum()} {self.each[0].split} faces", "", *lines, *absent_lines(systems, classes)]
        if self.comparison:
            lines += ["", f"{self.each[-1].run} against {self.best_other}: {compared(self.comparison)}"]
        if any(one.system.untrained for one in systems):
            lines += ["", f"* {UNTRAINED}"]
        notes = dict.fromkeys(note for one in self.each for note in one.notes)
        return "\n".join([*lines, *(f"note: {note}" for note in notes)])


def evaluate_all(
    runs: Sequence[Path], store: Path, *, split: str = "", table: str = "plain",
    say: Callable[[str], None] = lambda text: None,
) -> Evaluations:
    """Score runs on the same faces, as `evaluate` does each; the last one is held against the best of the others.

    Raises InputError if their classes or, for lack of features, their faces are not the same.
    """
    if table not in CHOICES["table"]:
        raise InputError(f"unknown table {table!r}: choose from {', '.join(CHOICES['table'])}")
    each = [evaluate(run, store, split=split, say=say) for run in runs]
    keys, classes = each[0].keys, each[0].classes
    for one in each[1:]:
        if one.classes != classes:
            raise InputError(f"{each[0].run} and {one.run} know different classes: evaluate them one by one")
        if not np.array_equal(one.keys, keys):
            raise InputError(f"{store} has features of {len(keys)} faces for {each[0].run} and of "
                             f"{len(one.keys)} for {one.run}: extract what is missing, or evaluate them "
                             f"one by one")
    if len(each) == 1:
        return Evaluations(each, table, None, "")
    best = max(each[:-1], key=lambda one: one.figures.scores.macro_f1)
    found = against(each[-1].figures.system, best.figures.system, classes=len(classes), seed=0)
    return Evaluations(each, table, found, str(best.run))


def evaluate(run: Path, store: Path, *, split: str = "", say: Callable[[str], None] = lambda text: None) -> Evaluation:
    """Score the run in `run` on a store. split: train, val, test or all; empty = test if there is any, else all.

    Raises InputError if the store's features are of another recipe, with the difference spelled out (another
    precision is only a note), or if no face has a label; CacheError if a backbone is missing.
    """
    made = read_run(run)
    features, notes = matching_features(made, Store(store))
    for note in notes:
        say(f"warning: {note}")
    rows, chosen = _rows(features, split)
    streams = range(len(features.streams))
    members = probabilities(made.head, features, rows, streams)
    gates = contributions(made.head, features, rows, streams)
    system = System(
        name=str(run), backbones=tuple(stream.name for stream in features.streams), head=made.head.spec.kind,
        dim=features.dim, untrained=any(recipe.untrained for _, _, recipe in made.streams), rows=rows,
        truth=features.label[rows], groups=features.group[rows], members=members,
        calibrated=metrics.tempered(members.mean(axis=0), made.temperature), temperature=made.temperature,
        val_macro_f1=float("nan"), seconds=0.0,
        gates=dict(zip((stream.name for stream in features.streams), gates, strict=True)) if gates else None)
    classes = made.taxonomy.classes
    found = figures(system, classes=len(classes), seed=made.settings.seed)
    return Evaluation(run, chosen, features.keys[rows], found, classes, [*features.notes, *notes])


def matching_features(run: Run, store: Store) -> tuple[FusedFeatures, list[str]]:
    """The store's features in the order of the run's columns, and what is to be said about their recipes."""
    chosen = [matching_file(run, store, backbone, view, recipe) for backbone, view, recipe in run.streams]
    pairs = list(zip(chosen, (recipe for _, _, recipe in run.streams), strict=True))
    notes = [f"{file.backbone}: computed in {file.recipe.precision}, stored as {file.recipe.dtype}; the run was "
             f"trained on {recipe.precision}, {recipe.dtype}"
             for file, recipe in pairs if file.fingerprint != recipe.fingerprint]
    parts = [join([store], backbones=[f"{file.backbone}@{file.fingerprint}"], views=[file.view],
                  taxonomy=run.taxonomy) for file in chosen]
    return _side_by_side(parts), notes


def matching_file(run: Run, store: Store, backbone: str, view: str, recipe: Recipe) -> FeatureFile:
    """The store's file of that recipe, or one that differs in precision alone. Raises InputError, CacheError."""
    files = [file for file in store.readable()[0] if (file.backbone, file.view) == (backbone, view)]
    if not files:
        store.find(backbone, view)  # raises, naming what the store has
    apart = [(differences(recipe, file.recipe), file) for file in files]
    apart.sort(key=lambda one: (bool(set(one[0]) - {"precision", "dtype"}), len(one[0])))
    found, file = apart[0]
    if set(found) - {"precision", "dtype"}:
        raise InputError(f"{file.path}: {backbone} was extracted otherwise than what {run.path} was trained on (there, "
                         f"here): {spelled(found)}; extract it as the run wants it")
    return file


def _side_by_side(parts: list[FusedFeatures]) -> FusedFeatures:
    """Joined features of one stream each as one, on the keys that all have."""
    keys = set(parts[0].keys).intersection(*(part.keys for part in parts[1:]))
    if not keys:
        raise InputError("no face of the store has features of all backbones of the run")
    kept = [np.flatnonzero([key in keys for key in part.keys]) for part in parts]
    first, where = parts[0], kept[0]
    notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
    arrays = {name: getattr(first, name)[where] for name in
              ("keys", "store", "split", "group", "label", "basic", "basic_label", "sha256")}
    return FusedFeatures(taxonomy=first.taxonomy, streams=tuple(part.streams[0] for part in parts), notes=notes,
                         row=np.column_stack([part.row[rows] for part, rows in zip(parts, kept, strict=True)])
                         .reshape(len(where), -1), **arrays)


def _rows(features: FusedFeatures, split: str) -> tuple[np.ndarray, str]:
    if split not in ("", "train", "val", "test", "all"):
        raise InputError(f"unknown split {split!r}: choose train, val, test or all")
    labelled = features.label >= 0
    chosen = split or ("test" if (labelled & (features.split == "test")).any() else "all")
    rows = np.flatnonzero(labelled & ((features.split == chosen) | (chosen == "all")))
    if not len(rows):
        raise InputError(f"no labelled faces of {features.taxonomy.name} in the split {chosen!r} of the store")
    return rows, chosen
