"""The one table of results, and its figures with their uncertainty."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twofold.fuse.core.features import Features
from twofold.fuse.core.split import group_digests
from twofold.fuse.core.task import Task
from twofold.fuse.metrics.scores import ACCURACY, Reliability, Scores, compute_scores, reliability
from twofold.fuse.metrics.statistics import Comparison, Interval, compare, interval


@dataclass(frozen=True, kw_only=True)
class System:
    """What made predictions: a head on some backbones.

    val_score: on validation, nan where it is not known; score_name: what that is. stream_weights: the mean weight of
    each stream, of heads that weigh them. folds: whose heads all predict each sample; 1 where a sample has the head of
    its own fold only.
    """

    name: str
    backbones: tuple[str, ...]
    head: str
    dim: int
    untrained: bool
    temperature: float
    val_score: float = float("nan")
    score_name: str = Task.score.name
    stream_weights: dict[str, float] | None = None
    seconds: float = 0.0
    folds: int = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """The predictions of a system for n samples, all folds together: every array has a row per sample.

    group_digest: as files hold it, empty for a sample without a group; fold: the fold whose head predicts it; role:
    `test` or `val`; target: class number. outputs: (S, n, C) probabilities of each seed; the system predicts by their
    mean. calibrated: (n, C), that mean under the temperature fitted on validation.
    """

    system: System
    key: np.ndarray
    sha256: np.ndarray
    group: np.ndarray
    group_digest: np.ndarray
    fold: np.ndarray
    role: np.ndarray
    target: np.ndarray
    outputs: np.ndarray
    calibrated: np.ndarray

    @classmethod
    def of(cls, features: Features, rows: np.ndarray, *, system: System, fold: np.ndarray, outputs: np.ndarray,
           calibrated: np.ndarray, role: str = "test") -> "Predictions":
        """The predictions for these rows of the features."""
        return cls(system=system, key=features.keys[rows], sha256=features.sha256[rows], group=features.group[rows],
                   group_digest=group_digests(features, rows), fold=fold, role=np.full(len(rows), role, object),
                   target=features.label[rows], outputs=outputs, calibrated=calibrated)

    def __len__(self) -> int:
        return len(self.key)

    @property
    def mean(self) -> np.ndarray:
        """(n, C) mean probabilities over the seeds."""
        return self.outputs.mean(axis=0)

    @property
    def predicted(self) -> np.ndarray:
        """(n,) class numbers."""
        return self.mean.argmax(axis=1)

    @property
    def classes(self) -> int:
        return self.outputs.shape[2]

    @property
    def ensemble(self) -> str:
        """What is averaged, in words."""
        folds, seeds = self.system.folds, self.outputs.shape[0] // self.system.folds
        each = "1 seed" if seeds == 1 else f"{seeds} seeds"
        if folds > 1:
            return f"ensemble of {folds} folds x {each}"
        return "one seed" if seeds == 1 else f"ensemble of {each}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Figures:
    """The figures of predictions: of the mean over seeds, unless the name says `seeds`.

    Intervals are 95 %, by bootstrap of groups; None where there is none (see `statistics.interval`).
    """

    predictions: Predictions
    scores: Scores
    score: float  #: `Task.score`
    groups: int
    accuracy_interval: Interval | None
    score_interval: Interval | None
    seeds_score: tuple[float, ...]  #: of each seed by itself
    seeds_accuracy: tuple[float, ...]
    reliability: Reliability  #: of the calibrated probabilities
    raw_reliability: Reliability  #: before the temperature

    @property
    def system(self) -> System:
        return self.predictions.system

    def record(self, classes: Sequence[str]) -> dict:
        """As metrics.json holds it; nan (the recall of a class without samples) becomes None."""
        system, table, key = self.system, self.scores, Task.score.key
        per_class = {name: {"n": int(table.n[c])} | {kind: _none_if_nan(getattr(table, kind)[c])
                                                     for kind in ("precision", "recall", "f1")}
                     for c, name in enumerate(classes)}
        return {
            "name": system.name, "backbones": list(system.backbones), "head": system.head, "dim": system.dim,
            "untrained": system.untrained, "n": len(self.predictions), "groups": self.groups,
            "figures_of": self.predictions.ensemble,
            "accuracy": table.accuracy, "accuracy_interval": self.accuracy_interval, key: self.score,
            f"{key}_interval": self.score_interval, f"{key}_of_classes_with_faces": table.score_present,
            "uar": table.uar, "per_class": per_class, "confusion": table.confusion.tolist(),
            f"seeds_{key}": self.seeds_score, "seeds_accuracy": self.seeds_accuracy,
            f"val_{key}": _none_if_nan(system.val_score), "calibration_error": self.reliability.error,
            "calibration_error_before_temperature": self.raw_reliability.error, "temperature": system.temperature,
            "reliability": self.reliability.record(),
            "reliability_before_temperature": self.raw_reliability.record(),
            "contributions": system.stream_weights, "seconds": system.seconds,
        }


def figures(predictions: Predictions, *, seed: int) -> Figures:
    """All figures of predictions."""
    target, predicted, classes = predictions.target, predictions.predicted, predictions.classes
    accuracy, score = (interval(metric, target, predictions.mean, predictions.group, seed=seed)
                       for metric in (ACCURACY, Task.score))
    seeds = [compute_scores(target, output.argmax(axis=1), classes) for output in predictions.outputs]
    scores = compute_scores(target, predicted, classes)
    return Figures(
        predictions=predictions, scores=scores, score=scores.score, accuracy_interval=accuracy, score_interval=score,
        groups=len(np.unique(predictions.group.astype(str))), seeds_score=tuple(each.score for each in seeds),
        seeds_accuracy=tuple(each.accuracy for each in seeds),
        reliability=reliability(predictions.calibrated, target),
        raw_reliability=reliability(predictions.mean, target))


def compare_predictions(a: Predictions, b: Predictions, *, seed: int) -> Comparison:
    """System a against b by the task's score, on the same samples in the same order."""
    return compare(Task.score, a.target, a.mean, b.mean, a.group, seed=seed)


def _none_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
