"""What a report computes: runs compared in pairs; on a store, the effect of each stream and a map of the samples.

Nothing is trained again.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import cohen_kappa_score

from twofold.data.utils.errors import InputError
from twofold.fuse.core.predictions import Predictions, compare_predictions
from twofold.fuse.evaluate import RunOnStore, match_run_to_store, score_run
from twofold.fuse.heads.head import without_streams
from twofold.fuse.metrics.statistics import Comparison, compare
from twofold.fuse.runs.read import Run

MAX_POINTS = 2000  #: samples on the map; of more, a random choice
MIN_POINTS = 10
COMPONENTS = 50  #: of PCA, before t-SNE: the authors' own way with wide features (van der Maaten & Hinton, 2008, 4.2)


@dataclass(frozen=True)
class PairedComparison:
    """A run compared with the first on the test samples of both. kappa: Cohen's, of their predictions.

    obstacle: why there is no comparison.
    """

    run: str
    samples: int = 0
    comparison: Comparison | None = None
    kappa: float = float("nan")
    obstacle: str = ""

    def record(self) -> dict[str, Any]:
        return {"run": self.run, "obstacle": self.obstacle} if self.comparison is None else {
            "run": self.run, "faces": self.samples, "kappa": self.kappa, "difference": self.comparison.difference,
            "interval": self.comparison.interval, "groups": self.comparison.groups,
            "only_first": self.comparison.only_b, "only_this": self.comparison.only_a,
            "p_value": self.comparison.p_value}


@dataclass(frozen=True, eq=False)
class StreamContribution:
    """One stream of a head. without: the head without it, compared with the whole head; alone: macro-F1 with it
    alone."""

    name: str
    without: Comparison
    alone: float


@dataclass(frozen=True, eq=False)
class StoreAnalysis:
    """A run on n of its test samples in a store.

    agreement: (K, K) Cohen's kappa of the predictions from one stream each; differing: predictions that are not those
    of the run's predictions.csv. positions: (m, 2) of the samples on the map, None for fewer than `MIN_POINTS`; rows:
    (m,) their rows in the run's predictions.
    """

    samples: int
    macro_f1: float
    streams: tuple[StreamContribution, ...]
    agreement: np.ndarray
    differing: int
    positions: np.ndarray | None
    rows: np.ndarray

    def record(self) -> dict[str, Any]:
        return {"faces": self.samples, "macro_f1": self.macro_f1, "differing_calls": self.differing, "streams": [
            {"name": each.name, "without": each.without.difference, "without_interval": each.without.interval,
             "alone": each.alone} for each in self.streams], "agreement": self.agreement.tolist()}


def compare_with_first(runs: Sequence[Run]) -> list[PairedComparison]:
    """Each further run compared with the first, by the groups that predictions.csv names."""
    return [_compare(run, runs[0]) for run in runs[1:]]


def analyse_on_store(run: Run, store: Path) -> StoreAnalysis | None:
    """Run the head on its test samples in the store; None for a run that scored none.

    Raises InputError or CacheError for a store without these samples, or without features of the run's recipes.
    """
    if not run.metrics.systems:
        return None
    question = match_run_to_store(run, store, split="all", allow_seen=False)
    number = {key: row for row, key in enumerate(run.predictions.keys)}
    scorable = np.isin(question.keys.astype(str), run.predictions.keys) & question.use.any(axis=1)
    if not scorable.any():
        raise InputError(f"{run.path}: none of the samples that it was scored on is in the store (--store)")
    names = run.stream_names
    every = set(range(len(names)))
    whole, macro_f1 = _without(question, scorable, set())
    singles = [_without(question, scorable, every - {k}) for k in every] if len(names) > 1 else [(whole, macro_f1)]
    without = [_without(question, scorable, {k})[0] for k in every]
    streams = tuple(StreamContribution(name, compare_predictions(less, whole, seed=0), single[1])
                    for name, less, single in zip(names, without, singles, strict=True))
    rows = np.array([number[str(key)] for key in question.keys[scorable]])
    differing = int((run.predictions.predicted[rows] != whole.calibrated.argmax(axis=1)).sum())
    positions, shown = _embed(question, scorable)
    return StoreAnalysis(int(scorable.sum()), macro_f1, streams,
                         np.array([[kappa(a.predicted, b.predicted) for a, _ in singles] for b, _ in singles]),
                         differing, positions, rows[shown])


def kappa(a: np.ndarray, b: np.ndarray) -> float:
    """Cohen's kappa (1960) of two predictions (n,); 1 where both are the same class throughout."""
    return 1.0 if np.array_equal(a, b) else float(cohen_kappa_score(a, b))


def _compare(run: Run, first: Run) -> PairedComparison:
    name, ours, theirs = run.path.name, run.predictions, first.predictions
    if run.taxonomy.classes != first.taxonomy.classes:
        return PairedComparison(name, obstacle="other classes")
    if any(len(set(each.keys)) < len(each.keys) for each in (ours, theirs)):
        return PairedComparison(name, obstacle="a key stands for several samples")
    place = {key: row for row, key in enumerate(theirs.keys)}
    rows = np.array([row for row, key in enumerate(ours.keys) if key in place], int)
    others = np.array([place[ours.keys[row]] for row in rows], int)
    if not len(rows):
        return PairedComparison(name, obstacle="no sample that both were tested on")
    if not np.array_equal(ours.target[rows], theirs.target[others]):
        return PairedComparison(name, obstacle="other labels of the same samples")
    predicted = ours.predicted[rows], theirs.predicted[others]
    comparison = compare(ours.target[rows], *predicted, ours.groups[rows], classes=len(run.taxonomy.classes), seed=0)
    return PairedComparison(name, len(rows), comparison, kappa(*predicted))


def _without(question: RunOnStore, scorable: np.ndarray, absent: Collection[int]) -> tuple[Predictions, float]:
    """The head with some streams at their mean over the training samples, and its macro-F1."""
    run = replace(question.run, head=without_streams(question.run.head, absent))
    figures = score_run(replace(question, run=run), scorable).figures
    return figures.predictions, figures.scores.macro_f1


def _embed(question: RunOnStore, scorable: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """(m, 2) from 0 to 1 by t-SNE of the fused features, and which of the scorable samples they are (m,).

    Features are standardised as the head does it, and each stream is weighted by its width, so that all count alike.
    """
    rows = np.arange(int(scorable.sum()))
    if len(rows) < MIN_POINTS:
        return None, rows[:0]
    if len(rows) > MAX_POINTS:
        rows = np.sort(np.random.default_rng(0).choice(rows, MAX_POINTS, replace=False))
    head, streams = question.run.head, question.features.streams
    features = question.features.read(question.rows[np.flatnonzero(scorable)[rows]])
    features = (features - head.mean[0].numpy()) / head.std[0].numpy()
    features /= np.concatenate([np.full(stream.dim, np.sqrt(stream.dim), np.float32) for stream in streams])
    reduced = PCA(min(COMPONENTS, *features.shape), random_state=0).fit_transform(features)
    positions = TSNE(perplexity=min(30, (len(rows) - 1) / 3), init="pca", random_state=0).fit_transform(reduced)
    low, high = positions.min(axis=0), positions.max(axis=0)
    return (positions - low) / np.maximum(high - low, 1e-9), rows
