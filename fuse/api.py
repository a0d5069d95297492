"""The Python API of stage two: features as arrays, heads as estimators, results with their uncertainty."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator

from twofold.data.utils.errors import InputError
from twofold.fuse.core.features import Features as JoinedFeatures
from twofold.fuse.core.kinds import Classification
from twofold.fuse.core.predictions import Predictions, compare_predictions, figures
from twofold.fuse.core.settings import Settings, resolve
from twofold.fuse.experiment import cross_validate, experiment_on
from twofold.fuse.heads.head import run_on_array
from twofold.fuse.metrics.scores import confusion_matrix
from twofold.fuse.metrics.statistics import Comparison
from twofold.fuse.runs.read import as_features
from twofold.fuse.tables import describe_comparison


class Features:
    """Embeddings and labels of N samples as arrays, in the manifest's order.

    X (N, D) float32: the streams side by side (with pool="sequence" (N, T, D), nan beyond the end of a unit); y (N,):
    numbers of `classes`, -1 for a sample without a label of the taxonomy; of other tasks than a classification (N, C),
    a column each of `classes`; groups, keys, split (N,): text, samples of one group must not cross a split (a sample
    without a group is its own, by its key); streams: the backbones (and views) whose columns X has, in order.
    """

    def __init__(self, joined: JoinedFeatures, by_fold: tuple[JoinedFeatures, ...] = ()):
        self._joined, self._by_fold = joined, by_fold
        self.X: np.ndarray = joined.read(np.arange(len(joined)), range(len(joined.streams)))
        if joined.most_frames:
            self.X = self.X.reshape(len(joined), -1, joined.dim)
        self.keys, self.split = joined.keys, joined.split
        self.y: np.ndarray = joined.label if joined.task.kind == Classification.kind else joined.truth
        self.groups = np.array([group.rpartition("\0")[2] for group in joined.group], object)
        self.classes = joined.task.outputs
        self.streams = [stream.name for stream in joined.streams]

    def __len__(self) -> int:
        return len(self.y)

    def frame(self) -> pd.DataFrame:
        """One row per sample: key, split, group, label."""
        columns = {"key": self.keys, "split": self.split, "group": self.groups}
        if self.y.ndim > 1:
            return pd.DataFrame(columns | dict(zip(self.classes, self.y.T, strict=True)))
        names = [*self.classes, ""]  # -1 takes the last
        return pd.DataFrame(columns | {"label": [names[label] for label in self.y]})

    def train(self, head: str | BaseEstimator = "mlp", *, name: str = "", random_state: int | None = None,
              n_jobs: int | None = None, **settings: Any) -> Result:
        """Train a head, by name, or any scikit-learn classifier; score it on the test samples, or by `folds=K`.

        settings: as the options of the verb `fuse` (folds, seeds, epochs, lr, ...); random_state: the first seed;
        n_jobs: threads. An estimator takes folds, random_state, n_jobs and val_fraction; what else it needs it has
        itself. Both have the same samples, groups and folds. Raises InputError for what cannot be.
        """
        if not isinstance(head, str) and (own := sorted(settings.keys() - {"folds", "seed", "val_fraction"})):
            raise InputError(f"{', '.join(own)}: settings of our heads; set those of {type(head).__name__} on the "
                             "estimator itself")
        resolved = _resolve(self, head if isinstance(head, str) else "mlp", random_state, settings)
        if self._by_fold and resolved.folds != len(self._by_fold):
            raise InputError(f"these features have an encoder per fold: train with folds={len(self._by_fold)}")
        experiment = experiment_on(self._joined, resolved, by_fold=self._by_fold)
        with _threads(n_jobs):
            predictions, _ = cross_validate(experiment, name=name, estimator=None if isinstance(head, str) else head)
        return Result(self, predictions, resolved.seed)


class Head:
    """A fusion head as a scikit-learn estimator, to be trained on features and to predict.

    head: its name; random_state: the first seed; n_jobs: threads while it trains, None for all; settings: as the
    options of the verb `fuse` (seeds, epochs, lr, ...). Raises InputError for unknown ones.
    """

    def __init__(self, head: str = "mlp", *, random_state: int = 0, n_jobs: int | None = None, **settings: Any):
        if settings.get("folds"):
            raise InputError("folds: a head is trained once; score it with Features.train(..., folds=K)")
        self.head, self.random_state, self.n_jobs, self.settings = head, random_state, n_jobs, settings
        _resolve(None, head, random_state, settings)

    def fit(self, features: Features) -> Head:
        """Train on the training samples; validation samples (carved by group where there are none) choose epoch and
        temperature; test samples are not used. Raises InputError."""
        settings = _resolve(features, self.head, self.random_state, self.settings)
        experiment = experiment_on(features._joined, settings, needs_test=False)
        with _threads(self.n_jobs):
            _, (self._trained,) = cross_validate(experiment)
        self._task = experiment.task
        self.classes_, self._names, self.notes_ = np.array(features.classes, object), features.streams, experiment.notes
        return self

    def predict_proba(self, features: Features | np.ndarray) -> np.ndarray:
        """(N, C) calibrated probabilities, of a regression its numbers, in the order of `classes_`; features: as `fit`
        had, or their X."""
        if not hasattr(self, "_trained"):
            raise InputError("the head is not trained: call fit first")
        head = self._trained.head
        X = as_features(features.X if isinstance(features, Features) else features, head.spec,
                        [self._names[k] for k in self._trained.streams])
        output = run_on_array(head, X)
        return self._task.calibrate(output.probabilities.mean(axis=0), self._trained.calibration)

    def predict(self, features: Features | np.ndarray) -> np.ndarray:
        """(N,) names of the classes; of labels and numbers the answers in words."""
        outputs = self.predict_proba(features)
        return self._task.decide(outputs, self._trained.calibration.rows(len(outputs)))


class Result:
    """The predictions of a trained head for the test samples, and their figures."""

    def __init__(self, features: Features, predictions: Predictions, seed: int):
        self._features, self._predictions, self._seed = features, predictions, seed

    @property
    def figures(self) -> pd.DataFrame:
        """One row: the task's metrics with their 95 % intervals, groups, seeds, calibration, as metrics.json."""
        record = figures(self._predictions, seed=self._seed).record()
        return pd.DataFrame([figures_row(record)])

    @property
    def confusion(self) -> pd.DataFrame:
        """(C, C) counts: rows truth, columns prediction. Raises InputError for a task without classes."""
        first = self._predictions.parts()[0][1]
        classes = list(first.task.outputs)
        if not first.task.classes:
            raise InputError(f"{first.task.kind} has no confusion matrix: see figures")
        counts = confusion_matrix(first.target, first.predicted, len(classes))
        return pd.DataFrame(counts, index=pd.Index(classes, name="truth"), columns=classes)

    @property
    def predictions(self) -> pd.DataFrame:
        """One row per test sample: key, truth, prediction, and each calibrated output."""
        return pd.DataFrame({"key": self._predictions.key, **self._predictions.columns()})

    def compare(self, other: Result) -> ResultComparison:
        """The difference in the task's score on the same samples, paired by group.

        Raises InputError if the two were scored on different samples, or by other classes or labels of them.
        """
        ours, theirs = self._predictions, other._predictions
        if not np.array_equal(ours.key, theirs.key):
            raise InputError("these two were scored on different samples: train both with the same folds and seed")
        result = compare_predictions(ours, theirs, seed=self._seed)
        return ResultComparison(
            **vars(result),
            text=f"{ours.system.name} against {theirs.system.name}: {describe_comparison(result, ours.task)}")


@dataclass(frozen=True, kw_only=True, repr=False)
class ResultComparison(Comparison):
    """A difference in the task's score, which prints as a sentence. p: `p_value`, by sign flips of groups."""

    text: str

    @property
    def p(self) -> float:
        return self.p_value

    def __repr__(self) -> str:
        return self.text


def _resolve(features: Features | None, head: str, random_state: int | None, settings: dict[str, Any]) -> Settings:
    """Settings of a head on features. Raises InputError for what is unknown, or decided by the features already."""
    if joined := [name for name in ("backbones", "views", "extra_views", "task", "task_weights", "labels", "teach",
                                    "target", "classes", "unit", "pool") if name in settings]:
        raise InputError(f"{', '.join(joined)}: decided by the features already; choose in Store.features(...)")
    if random_state is not None:
        if not isinstance(random_state, int | np.integer):
            raise InputError(f"random_state is {str(random_state)[:80]}: give a whole number, from which all is drawn")
        settings = settings | {"seed": int(random_state)}
    task = features._joined.task.settings() if features else {}
    return resolve(changes={**task, "head": head, **settings})


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """torch with that many threads (None or -1: as it is) while something trains, its tensors on the CPU unless said
    otherwise, whatever a notebook has made the default device."""
    usual = torch.get_default_device().type == "cpu"
    before = torch.get_num_threads()
    torch.set_num_threads(count if count and count > 0 else before)
    try:
        with contextlib.nullcontext() if usual else torch.device("cpu"):
            yield
    finally:
        torch.set_num_threads(before)


def figures_row(record: dict[str, Any]) -> dict[str, Any]:
    """What of a system's record fits into a row."""
    return {name: value for name, value in record.items() if name not in ("per_class", "confusion", "contributions")}
