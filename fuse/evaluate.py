"""The verb `evaluate`: trained runs on the features of another store."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from twofold.cache.store import Store
from twofold.data.utils.errors import InputError
from twofold.data.utils.options import choices_of
from twofold.data.utils.outputs import Output, OutputKind
from twofold.fuse import tables
from twofold.fuse.core.features import Features
from twofold.fuse.core.predictions import Figures, Predictions, System, compare_predictions, figures
from twofold.fuse.core.settings import Settings
from twofold.fuse.core.split import encoder_training_samples, leaking_encoders
from twofold.fuse.core.streams import pieces_of, weight_names
from twofold.fuse.metrics.statistics import Comparison
from twofold.fuse.predict import check_table_name, column_names, write_table
from twofold.fuse.runs.read import Run, read_run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """Figures of a run on the labelled samples of a store. seen: how many of them were in its training or validation
    set."""

    run: Path
    split: str
    figures: Figures
    seen: int
    notes: list[str]

    def record(self) -> dict:
        return {"run": str(self.run), "split": self.split, "seen": self.seen, "notes": self.notes,
                **self.figures.record()}

    def text(self) -> str:
        lines = [f"{self.run} on {self.samples}{self.seen_words}", "", *tables.figures_lines([self.figures]), "",
                 *tables.output_lines(self.figures), "", *tables.uncertainty_lines([self.figures])]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    @property
    def samples(self) -> str:
        return f"{len(self.figures.predictions)} {self.split} samples, {self.figures.groups} groups"

    @property
    def seen_words(self) -> str:
        """The warning that goes with the figures of seen samples."""
        return f" ({self.seen} SEEN in training or validation: no figure of new samples)" if self.seen else ""


@dataclass(frozen=True)
class Evaluations:
    """Several runs on the same samples, side by side. table: plain or paper; comparison: of the last with the best of
    the others."""

    each: list[Evaluation]
    table: str
    comparison: Comparison | None
    best_other: str

    def record(self) -> dict:
        return {"runs": [evaluation.record() for evaluation in self.each],
                "comparison": tables.comparison_record(self.comparison, self.best_other,
                                                       chosen_on="the samples scored")}

    def text(self) -> str:
        seen = "".join(f"; {evaluation.run}{evaluation.seen_words}" for evaluation in self.each if evaluation.seen)
        lines = [f"{self.each[0].samples}{seen}", "", *tables.figures_table(
            [evaluation.figures for evaluation in self.each], style=self.table)]
        if self.comparison:
            best = "" if len(self.each) == 2 else ", the best of the others on these very samples"
            lines += ["", f"{self.each[-1].run} against {self.best_other}{best}: "
                          f"{tables.describe_comparison(self.comparison, self.each[0].figures.task)}"]
        notes = dict.fromkeys(note for evaluation in self.each for note in evaluation.notes)
        return "\n".join([*lines, *(f"note: {note}" for note in notes)])


def evaluated_output(out: Path, *, overwrite: bool) -> Output:
    """The file of `write_evaluated`. Raises InputError, before anything is scored, if it cannot be written."""
    check_table_name(out)
    output = Output(out, OutputKind("a table of `evaluate`", _is_evaluated), overwrite)
    output.check()
    return output


def _is_evaluated(path: Path) -> bool:
    names = column_names(path)
    return names[:2] == ["run", "key"] and "prediction" in names


def write_evaluated(evaluations: Sequence[Evaluation], out: Output) -> None:
    """Write one row per run and sample: run, key, truth, prediction, and each calibrated output."""
    write_table(pd.concat([pd.DataFrame({"run": str(each.run), "key": each.figures.predictions.key,
                                         **each.figures.predictions.columns()}) for each in evaluations]), out)


def evaluate_all(runs: Sequence[Path], store: Path, *, split: str = "", table: str = "plain", allow_seen: bool = False
                 ) -> Evaluations:
    """Score the runs in these folders on the same samples of a store, those that none of them has seen; compare the
    last with the best of the others.

    split: train, val, test or all; empty = test if there is any, else all, and all for cross-validated runs.
    Samples that a run has seen (in training or validation: the same bytes or group) are left out, and a
    cross-validated run predicts a sample by the members that have not seen it; allow_seen: they are scored like all
    others, and the figures say so. Raises InputError if the store's features are of another recipe, with the
    difference spelled out (another precision is only a note), if the runs' classes or, for lack of features, their
    samples are not the same, or if no sample has a label or none is left; CacheError if a backbone is missing.
    """
    if table not in (styles := choices_of(Settings, "table")):
        raise InputError(f"unknown table {table!r}: choose from {', '.join(styles)}")
    read = [read_run(path) for path in runs]
    split = split or ("all" if all(run.folds > 1 for run in read) else "")  # as when they were trained
    matched = [match_run_to_store(run, store, split=split, allow_seen=allow_seen) for run in read]
    first = matched[0]
    for other in matched[1:]:
        if (other.run.task.kind, other.run.task.outputs) != (first.run.task.kind, first.run.task.outputs):
            raise InputError(f"{first.run.path} and {other.run.path} have different classes or tasks: evaluate them "
                             "one by one")
        if not np.array_equal(other.keys, first.keys):
            raise InputError(f"{store} has features of {len(first.keys)} samples for {first.run.path} and of "
                             f"{len(other.keys)} for {other.run.path}: extract what is missing, or evaluate them one "
                             "by one")
    scorable = np.logical_and.reduce([each.use.any(axis=1) for each in matched])
    evaluations = [score_run(each, scorable) for each in matched]
    if len(evaluations) == 1:
        return Evaluations(evaluations, table, None, "")
    best = max(evaluations[:-1], key=lambda each: each.figures.task.score.rank(each.figures.score))
    comparison = compare_predictions(evaluations[-1].figures.predictions, best.figures.predictions, seed=0)
    return Evaluations(evaluations, table, comparison, str(best.run))


def evaluate(path: Path, store: Path, *, split: str = "", allow_seen: bool = False) -> Evaluation:
    """Score one run on a store, as `evaluate_all` does it."""
    return evaluate_all([path], store, split=split, allow_seen=allow_seen).each[0]


@dataclass(frozen=True, eq=False)
class RunOnStore:
    """A run and the labelled samples of a store. use: (n, F) bool, the folds whose members may predict a sample."""

    run: Run
    features: Features
    rows: np.ndarray
    split: str
    use: np.ndarray
    seen: int  #: samples that every fold has seen and that are scored all the same
    notes: list[str]

    @property
    def keys(self) -> np.ndarray:
        return self.features.keys[self.rows]


def match_run_to_store(run: Run, store: Path, *, split: str, allow_seen: bool) -> RunOnStore:
    """Join the store's features for a run, and find which folds may predict which labelled sample of the split."""
    features, notes = run.features(Store(store))
    for note in notes:
        log.warning("warning: %s", note)
    if split not in ("", "train", "val", "test", "all"):
        raise InputError(f"unknown split {split!r}: choose train, val, test or all")
    labelled = features.label >= 0
    split = split or ("test" if (labelled & (features.split == "test")).any() else "all")
    rows = np.flatnonzero(labelled & ((features.split == split) | (split == "all")))
    if not len(rows):
        raise InputError(f"no labelled samples of {features.taxonomy.name} in the split {split!r} of the store")
    use = run.seen.unseen(features, rows)
    leaked = encoder_training_samples(features)[rows]
    use[leaked] = False
    if leaked.any():
        notes.append(f"the encoder of {leaking_encoders(features, rows)} was fine-tuned with {int(leaked.sum())} of "
                     f"the {len(rows)} samples (the same bytes or group)")
    seen = int((~use.any(axis=1)).sum())
    if allow_seen:
        use[:] = True
    elif seen:
        notes.append(f"{seen} of {len(rows)} samples left out: {run.path} or an encoder was trained or validated on "
                     "them (the same bytes or group)")
    return RunOnStore(run, features, rows, split, use, seen if allow_seen else 0, [*features.notes, *notes])


def score_run(matched: RunOnStore, scorable: np.ndarray) -> Evaluation:
    """Score the run on the samples (n,) bool that may be scored."""
    run, features, rows, use = matched.run, matched.features, matched.rows[scorable], matched.use[scorable]
    if not len(rows):
        raise InputError(f"nothing is left to score: {run.path} or an encoder was trained or validated on all "
                         f"{len(matched.rows)} labelled samples; --allow-seen scores them all the same, and says so")
    output = run.scores(features, rows)
    outputs, weights, calibrated = output.probabilities, output.weights, run.calibrated(output)
    thresholds = run.calibration.rows(len(rows))
    if run.folds > 1 and not use.all():
        share = use / np.sum(use, axis=1, keepdims=True)
        outputs = _average_folds(outputs, share)
        weights = None if weights is None else _average_folds(weights, share)
        each = np.stack([run.task.calibrate(fold.mean(axis=0), calibration) for fold, calibration in
                         zip(np.split(output.probabilities, run.folds), run.calibrations, strict=True)])
        thresholds = share @ np.stack([calibration.thresholds for calibration in run.calibrations])
        calibrated = np.where(np.all(use, axis=1, keepdims=True), calibrated, np.einsum("nf,fnc->nc", share, each))
    pool = run.settings.pool if run.settings.unit else ()
    streams = [(name, pieces_of(recipe, pool))
               for name, (_, _, recipe) in zip(run.stream_names, run.streams, strict=True)]
    mean_weights = None if weights is None else dict(zip(
        weight_names(streams, weights.shape[2], frames=run.head.spec.frames), weights.mean(axis=(0, 1)).tolist(),
        strict=True))
    system = System(name=str(run.path), backbones=run.stream_names, head=run.kind, dim=features.dim,
                    untrained=run.untrained, temperature=run.record.temperature, folds=run.folds if use.all() else 1,
                    stream_weights=mean_weights)
    predictions = Predictions.of(features, rows, system=system, fold=use.argmax(axis=1), outputs=outputs,
                                 calibrated=calibrated, thresholds=thresholds)
    return Evaluation(run.path, matched.split, figures(predictions, seed=run.settings.seed), matched.seen,
                      matched.notes)


def _average_folds(members: np.ndarray, share: np.ndarray) -> np.ndarray:
    """(S, n, C) of members ordered by fold, (F S, n, C): a seed's mean over folds, weighted (n, F) by sample."""
    folds = share.shape[1]
    by_fold = members.reshape(folds, len(members) // folds, *members.shape[1:])
    return np.einsum("nf,fsnc->snc", share, by_fold).astype(np.float32)
