"""What a report computes: runs compared in pairs; on a store, the effect of each stream and a map of the samples.

Nothing is trained again.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import cohen_kappa_score

from twofold.data.utils.errors import InputError
from twofold.fuse.core.predictions import Predictions, compare_predictions
from twofold.fuse.evaluate import RunOnStore, match_run_to_store, score_run
from twofold.fuse.heads.head import without_streams
from twofold.fuse.runs.read import Run

MAX_POINTS = 2000  #: samples on the map; of more, a random choice
MIN_POINTS = 10
COMPONENTS = 50  #: of PCA, before t-SNE: the authors' own way with wide features (van der Maaten & Hinton, 2008, 4.2)


@dataclass(frozen=True, eq=False)
class StoreAnalysis:
    """A run on its test samples in a store. record: what its streams do, as `report --json` prints it.

    positions: (m, 2) of the samples on the map, None for fewer than `MIN_POINTS`; rows: (m,) their rows in the run's
    predictions.
    """

    record: dict[str, Any]
    positions: np.ndarray | None
    rows: np.ndarray


def compare_with_first(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Each further run compared with the first on the test samples of both, by the groups that predictions.csv names;
    kappa: Cohen's, of their predictions. `obstacle` where they cannot be compared: why."""
    return [{"run": run.path.name} | _compare(run, runs[0]) for run in runs[1:]]


def _compare(run: Run, first: Run) -> dict[str, Any]:
    if (run.task.kind, run.task.outputs) != (first.task.kind, first.task.outputs):
        return {"obstacle": "another task, or other classes"}
    ours, theirs = run.predictions, first.predictions
    if len(set(ours.key)) < len(ours) or len(set(theirs.key)) < len(theirs):
        return {"obstacle": "a key stands for several samples"}
    place = pd.Index(theirs.key).get_indexer(pd.Index(ours.key))
    if (place < 0).all():
        return {"obstacle": "no sample that both were tested on"}
    ours, theirs = ours.select(place >= 0), theirs.select(place[place >= 0])
    if not np.array_equal(ours.truth, theirs.truth, equal_nan=True) or (ours.target != theirs.target).any():
        return {"obstacle": "other labels of the same samples"}
    result = compare_predictions(ours, theirs, seed=0)
    return {"faces": len(ours), "kappa": kappa(ours.answers, theirs.answers) if not any(run.task.numbers) else None,
            "difference": result.difference, "interval": result.interval, "groups": result.groups,
            "only_first": result.only_b, "only_this": result.only_a, "p_value": result.p_value}


def analyse_on_store(run: Run, store: Path) -> StoreAnalysis | None:
    """Run the head on its test samples in the store; None for a run that scored none.

    The record: the score of the head, for each stream the difference without it and the score of it alone, Cohen's
    kappa (K, K) of the predictions from one stream each, and how many predictions are not those of predictions.csv.
    Raises InputError or CacheError for a store without these samples, or without features of the run's recipes.
    """
    if not run.metrics.systems:
        return None
    matched = match_run_to_store(run, store, split="all", allow_seen=False)
    place = {key: row for row, key in enumerate(run.predictions.key)}
    scorable = np.array([key in place for key in matched.keys], bool) & matched.use.any(axis=1)
    if not scorable.any():
        raise InputError(f"{run.path}: none of the samples that it was scored on is in the store (--store)")
    every = set(range(len(run.streams)))
    whole, score = _without(matched, scorable, set())
    singles = [_without(matched, scorable, every - {k}) for k in every] if len(every) > 1 else [(whole, score)]
    streams = []
    for k, (name, (_, alone)) in enumerate(zip(run.stream_names, singles, strict=True)):
        without = compare_predictions(_without(matched, scorable, {k})[0], whole, seed=0)
        streams.append({"name": name, "without": without.difference, "without_interval": without.interval,
                        "alone": alone})
    rows = np.array([place[key] for key in matched.keys[scorable]])
    differing = (run.predictions.answers[rows] != run.task.decide(whole.calibrated, whole.thresholds)).sum()
    positions, shown = _embed(matched, scorable)
    return StoreAnalysis({
        "faces": int(scorable.sum()), run.task.score.key: score, "differing_calls": int(differing), "streams": streams,
        "agreement": [[kappa(a.answers, b.answers) for a, _ in singles]
                      for b, _ in singles if not any(run.task.numbers)]},
        positions, rows[shown])


def kappa(a: np.ndarray, b: np.ndarray) -> float:
    """Cohen's kappa (1960) of two predictions (n,); 1 where both are the same class throughout."""
    return 1.0 if np.array_equal(a, b) else float(cohen_kappa_score(a.astype(str), b.astype(str)))


def _without(matched: RunOnStore, scorable: np.ndarray, absent: Collection[int]) -> tuple[Predictions, float]:
    """The head with some streams at their mean over the training samples, and its score."""
    run = replace(matched.run, head=without_streams(matched.run.head, absent))
    figures = score_run(replace(matched, run=run), scorable).figures
    return figures.predictions, figures.score


def _embed(matched: RunOnStore, scorable: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """(m, 2) from 0 to 1 by t-SNE of the fused features, and which of the scorable samples they are (m,).

    Features are standardised as the head does it, and each stream is weighted by its width, so that all count alike.
    """
    rows = np.arange(int(scorable.sum()))
    if len(rows) < MIN_POINTS:
        return None, rows[:0]
    if len(rows) > MAX_POINTS:
        rows = np.sort(np.random.default_rng(0).choice(rows, MAX_POINTS, replace=False))
    head, streams = matched.run.head, matched.features.streams
    features = matched.features.read(matched.rows[np.flatnonzero(scorable)[rows]])
    frames = features.reshape(len(rows), -1, head.mean.shape[-1])  # of a clip; else there is one
    features = np.nanmean((frames - head.mean[0].numpy()) / head.std[0].numpy(), axis=1)
    features /= np.concatenate([np.full(stream.dim, np.sqrt(stream.dim), np.float32) for stream in streams])
    reduced = PCA(min(COMPONENTS, *features.shape), random_state=0).fit_transform(features)
    positions = TSNE(perplexity=min(30, (len(rows) - 1) / 3), init="pca", random_state=0).fit_transform(reduced)
    low, high = positions.min(axis=0), positions.max(axis=0)
    return (positions - low) / np.maximum(high - low, 1e-9), rows
