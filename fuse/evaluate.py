"""The verb `evaluate`: a trained run on the features of another store."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twofold.cache.store import Store
from twofold.data.utils.errors import InputError
from twofold.data.utils.options import choices_of
from twofold.fuse.features import FusedFeatures
from twofold.fuse.metrics import scores as metrics
from twofold.fuse.metrics.statistics import Comparison
from twofold.fuse.predictions import Figures, ScoredHead, against, figures
from twofold.fuse.runs.read import Run, read_run
from twofold.fuse.settings import Settings
from twofold.fuse.split import encoder_training_samples, leaking_encoders
from twofold.fuse.tables import (
    UNTRAINED,
    columns,
    compared,
    comparison_record,
    figures_lines,
    figures_table,
    percent,
    sureness_lines,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """Figures of a run on the labelled faces of a store, whose keys (n,) are `keys`."""

    run: Path
    split: str
    keys: np.ndarray
    figures: Figures
    classes: tuple[str, ...]
    seen: int  #: of the scored faces, those that the run has learned from or was chosen by
    notes: list[str]

    def record(self) -> dict:
        return {"run": str(self.run), "split": self.split, "seen": self.seen, "notes": self.notes,
                **self.figures.record(self.classes)}

    def text(self) -> str:
        scores = self.figures.scores
        rows = [("class", "n", "precision", "recall", "F1"), *(
            (name, str(scores.n[c]), *(percent(each[c]) for each in (scores.precision, scores.recall, scores.f1)))
            for c, name in enumerate(self.classes))]
        faces = f"{scores.n.sum()} {self.split} faces, {self.figures.groups} groups{seen_words(self)}"
        lines = [f"{self.run} on {faces}", "", *figures_lines([self.figures]), "", *columns(rows, left=1), "",
                 *sureness_lines([self.figures], self.classes)]
        if self.figures.head.untrained:
            lines += [f"* {UNTRAINED}"]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def seen_words(evaluation: Evaluation) -> str:
    """What a figure must say of itself where seen faces were scored."""
    return (f" ({evaluation.seen} SEEN in training or validation: no figure of new faces)" if evaluation.seen else "")


@dataclass(frozen=True)
class Evaluations:
    """Several runs on the same faces, side by side. table: plain or paper."""

    each: list[Evaluation]
    table: str
    comparison: Comparison | None
    best_other: str

    def record(self) -> dict:
        return {"runs": [evaluation.record() for evaluation in self.each],
                "comparison": comparison_record(self.comparison, self.best_other, chosen_on="the faces scored")}

    def text(self) -> str:
        heads, classes = [evaluation.figures for evaluation in self.each], self.each[0].classes
        seen = "".join(f"; {evaluation.run}{seen_words(evaluation)}" for evaluation in self.each if evaluation.seen)
        lines = [f"{heads[0].scores.n.sum()} {self.each[0].split} faces, {heads[0].groups} groups{seen}", "",
                 *figures_table(heads, classes, style=self.table)]
        if self.comparison:
            best = "" if len(self.each) == 2 else ", the best of the others on these very faces"
            lines += ["", f"{self.each[-1].run} against {self.best_other}{best}: {compared(self.comparison)}"]
        notes = dict.fromkeys(note for evaluation in self.each for note in evaluation.notes)
        return "\n".join([*lines, *(f"note: {note}" for note in notes)])


def evaluate_all(runs: Sequence[Path], store: Path, *, split: str = "", table: str = "plain", allow_seen: bool = False
                 ) -> Evaluations:
    """Score runs on the same faces, those that none of them has seen; the last is held against the best of the others.

    Raises InputError if their classes or, for lack of features, their faces are not the same, or nothing is left.
    """
    tables = choices_of(Settings, "table")
    if table not in tables:
        raise InputError(f"unknown table {table!r}: choose from {', '.join(tables)}")
    questions = _questions(runs, store, split=split, allow_seen=allow_seen)
    first = questions[0]
    for other in questions[1:]:
        if other.run.taxonomy.classes != first.run.taxonomy.classes:
            raise InputError(f"{first.run.path} and {other.run.path} know different classes: evaluate them one by one")
        if not np.array_equal(other.keys, first.keys):
            raise InputError(f"{store} has features of {len(first.keys)} faces for {first.run.path} and of "
                             f"{len(other.keys)} for {other.run.path}: extract what is missing, or evaluate them one "
                             "by one")
    scorable = np.asarray(np.logical_and.reduce([question.use.any(axis=1) for question in questions]))
    evaluations = [answer(question, scorable) for question in questions]
    if len(evaluations) == 1:
        return Evaluations(evaluations, table, None, "")
    best = max(evaluations[:-1], key=lambda evaluation: evaluation.figures.scores.macro_f1)
    comparison = against(evaluations[-1].figures.head, best.figures.head, classes=len(first.run.taxonomy.classes),
                         seed=0)
    return Evaluations(evaluations, table, comparison, str(best.run))


def evaluate(path: Path, store: Path, *, split: str = "", allow_seen: bool = False) -> Evaluation:
    """Score the run in `path` on a store. split: train, val, test or all; empty = test if there is any, else all, and
    all for a cross-validated run.

    Faces that the run has seen (learned from or chosen by: the same bytes or group) are left out, and a
    cross-validated run answers for a face by the members that have not seen it; allow_seen: they are scored like all
    others, and the figures say so. Raises InputError if the store's features are of another recipe, with the
    difference spelled out (another precision is only a note), if no face has a label or none is left; CacheError if a
    backbone is missing.
    """
    question, = _questions([path], store, split=split, allow_seen=allow_seen)
    return answer(question, np.asarray(question.use.any(axis=1)))


@dataclass(frozen=True, eq=False)
class Question:
    """A run and the labelled faces of a store. use: (n, F) bool, the folds whose members may answer for a face."""

    run: Run
    features: FusedFeatures
    rows: np.ndarray
    split: str
    use: np.ndarray
    seen: int  #: faces that every fold has seen
    allow_seen: bool
    notes: list[str]

    @property
    def keys(self) -> np.ndarray:
        return self.features.keys[self.rows]


def _questions(paths: Sequence[Path], store: Path, *, split: str, allow_seen: bool) -> list[Question]:
    """One of each run; without a `split`, cross-validated runs answer for all faces, as when they were trained."""
    runs = [read_run(path) for path in paths]
    split = split or ("all" if all(run.folds > 1 for run in runs) else "")
    return [ask(run, store, split=split, allow_seen=allow_seen) for run in runs]


def ask(run: Run, store: Path, *, split: str, allow_seen: bool) -> Question:
    """Join the store's features for a run, and find out who may answer for which face."""
    path = run.path
    features, notes = run.features(Store(store))
    for note in notes:
        log.warning("warning: %s", note)
    rows, split = _rows(features, split)
    use = run.seen.unseen(features, rows)
    taught = encoder_training_samples(features)[rows]
    use[taught] = False
    if taught.any():
        notes.append(f"the encoder of {leaking_encoders(features, rows)} was fine-tuned with {int(taught.sum())} of "
                     f"the {len(rows)} faces (the same bytes or group)")
    seen = int((~use.any(axis=1)).sum())
    if allow_seen:
        use[:] = True
    elif seen:
        notes.append(f"{seen} of {len(rows)} faces left out: {path} or an encoder has learned from them or was chosen "
                     "by them (the same bytes or group)")
    return Question(run, features, rows, split, use, seen, allow_seen, [*features.notes, *notes])


def answer(question: Question, scorable: np.ndarray) -> Evaluation:
    """Score the run on the faces (n,) bool that may be scored."""
    run, features, rows = question.run, question.features, question.rows[scorable]
    if not len(rows):
        raise InputError(f"nothing is left to score: {run.path} or an encoder has learned from all "
                         f"{len(question.rows)} labelled faces, or was chosen by them; --allow-seen scores them all "
                         "the same, and says so")
    head = _scored(run, features, rows, question.use[scorable])
    return Evaluation(
        run=run.path, split=question.split, keys=features.keys[rows],
        figures=figures(head, classes=len(run.taxonomy.classes), seed=run.settings.seed), classes=run.taxonomy.classes,
        seen=question.seen if question.allow_seen else 0, notes=question.notes)


def _scored(run: Run, features: FusedFeatures, rows: np.ndarray, use: np.ndarray) -> ScoredHead:
    scores = run.scores(features, rows)
    members, shares, calibrated = scores.probabilities, scores.shares, run.calibrated(scores)
    if run.folds > 1 and not use.all():
        weight = use / np.sum(use, axis=1, keepdims=True)
        members = _of_folds(members, weight)
        shares = None if shares is None else _of_folds(shares, weight)
        each = np.stack([metrics.tempered(fold.mean(axis=0), temperature) for fold, temperature in
                         zip(np.split(scores.probabilities, run.folds), run.temperatures, strict=True)])
        calibrated = np.where(np.all(use, axis=1, keepdims=True), calibrated, np.einsum("nf,fnc->nc", weight, each))
    mean_shares = None if shares is None else shares.mean(axis=(0, 1)).tolist()
    return ScoredHead(
        name=str(run.path), backbones=run.stream_names, head=run.kind, dim=features.dim, untrained=run.untrained,
        rows=rows, truth=features.label[rows], groups=features.group[rows], members=members, calibrated=calibrated,
        temperature=run.temperature, val_macro_f1=float("nan"), seconds=0.0,
        folds=run.folds if use.all() else 1,
        shares=dict(zip(run.stream_names, mean_shares, strict=True)) if mean_shares else None)


def _of_folds(members: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(S, n, C) of members that stand fold by fold, (F S, n, C): a seed's mean over folds, weighted (n, F) by face."""
    folds = weight.shape[1]
    by_fold = members.reshape(folds, len(members) // folds, *members.shape[1:])
    return np.einsum("nf,fsnc->snc", weight, by_fold).astype(np.float32)


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
