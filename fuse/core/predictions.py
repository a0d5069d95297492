"""The one table of results, and its figures with their uncertainty."""

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np

from twofold.data.utils.errors import InputError
from twofold.fuse.core.features import Features
from twofold.fuse.core.split import group_digests
from twofold.fuse.core.task import Task
from twofold.fuse.metrics.scores import Reliability, Scores, compute_scores, reliability
from twofold.fuse.metrics.statistics import Comparison, Interval, compare, interval


@dataclass(frozen=True, kw_only=True)
class System:
    """What made predictions: a head on some backbones.

    val_score: on validation, nan where it is not known; score_name: what that is. stream_weights: the mean weight of
    each stream, or of what `weight_names` names, of heads that weigh them. folds: whose heads all predict each sample;
    1 where a sample has the head of its own fold only.
    """

    name: str
    backbones: tuple[str, ...]
    head: str
    dim: int
    untrained: bool
    temperature: float
    val_score: float = float("nan")
    score_name: str = ""
    stream_weights: dict[str, float] | None = None
    seconds: float = 0.0
    folds: int = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """The predictions of a system for n samples, all folds together: every array has a row per sample.

    group_digest: as files hold it, empty for a sample without a group; fold: the fold whose head predicts it; role:
    `test` or `val`; target: class number, or stratum; truth: (n, C) as `Targets` has it. outputs: (S, n, C) of each
    seed; the system predicts by their mean. calibrated: (n, C), that mean as calibrated on validation; thresholds:
    (n, C), (n, 0) where nothing has one.
    """

    task: Task
    system: System
    key: np.ndarray
    sha256: np.ndarray
    group: np.ndarray
    group_digest: np.ndarray
    fold: np.ndarray
    role: np.ndarray
    target: np.ndarray
    truth: np.ndarray
    outputs: np.ndarray
    calibrated: np.ndarray
    thresholds: np.ndarray

    @classmethod
    def of(cls, features: Features, rows: np.ndarray, *, system: System, fold: np.ndarray, outputs: np.ndarray,
           calibrated: np.ndarray, thresholds: np.ndarray, role: str = "test") -> "Predictions":
        """The predictions for these rows of the features."""
        return cls(task=features.task, system=system, key=features.keys[rows], sha256=features.sha256[rows],
                   group=features.group[rows], group_digest=group_digests(features, rows), fold=fold,
                   role=np.full(len(rows), role, object), target=features.label[rows], truth=features.truth[rows],
                   outputs=outputs, calibrated=calibrated, thresholds=thresholds)

    def __len__(self) -> int:
        return len(self.key)

    @property
    def mean(self) -> np.ndarray:
        """(n, C) mean outputs over the seeds."""
        return self.outputs.mean(axis=0)

    @property
    def predicted(self) -> np.ndarray:
        """(n,) class numbers, of tasks with classes."""
        return self.mean.argmax(axis=1)

    @property
    def ensemble(self) -> str:
        """What is averaged, in words."""
        folds, seeds = self.system.folds, self.outputs.shape[0] // self.system.folds
        each = "1 seed" if seeds == 1 else f"{seeds} seeds"
        if folds > 1:
            return f"ensemble of {folds} folds x {each}"
        return "one seed" if seeds == 1 else f"ensemble of {each}"

    @property
    def answers(self) -> np.ndarray:
        """(n,) the predictions in words."""
        return self.task.decide(self.mean, self.thresholds)

    def select(self, rows: np.ndarray) -> "Predictions":
        """These rows, by number or as a mask."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)
                   if field.name not in ("task", "system", "outputs")}
        return replace(self, outputs=self.outputs[:, rows], **{name: values[rows] for name, values in columns.items()})

    def parts(self) -> "list[tuple[str, Predictions]]":
        """What the task, or each of several tasks, predicts, of the samples that have a target of it; by the prefix of
        its figures' keys."""
        if len(self.task.parts) == 1:
            return [("", self)]
        parts = []
        for part in self.task.parts:
            target = part.label(self.target, self.truth)
            whole = replace(
                self, task=part.task, target=target, truth=self.truth[:, part.columns],
                outputs=self.outputs[..., part.columns], calibrated=self.calibrated[:, part.columns],
                thresholds=self.thresholds[:, part.columns])
            parts.append((part.prefix, whole.select(target >= 0)))
        return parts

    def columns(self) -> dict[str, np.ndarray]:
        """The columns of tables of results: the truth, the prediction, and each output."""
        return self.task.truth_columns(self.target, self.truth) | {
            "prediction": self.answers} | dict(
                zip(self.task.outputs, self.calibrated.T, strict=True))


class Figure(NamedTuple):
    """A metric of predictions. interval: of 95 %, by bootstrap of groups, None where there is none; seeds: of each seed
    by itself."""

    value: float
    interval: Interval | None
    seeds: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Figures:
    """The figures of predictions. of: each of the task's metrics by key; by_output: figures of each class, label or
    number; scores and reliability: of tasks with classes, else None; raw_reliability: before the temperature."""

    predictions: Predictions
    of: dict[str, Figure]
    by_output: dict[str, dict[str, float]]
    groups: int
    scores: Scores | None
    reliability: Reliability | None
    raw_reliability: Reliability | None

    @property
    def system(self) -> System:
        return self.predictions.system

    @property
    def task(self) -> Task:
        return self.predictions.task

    @property
    def score(self) -> float:
        """`Task.score`."""
        return self.of[self.task.score.key].value

    def record(self) -> dict:
        """As metrics.json holds it; nan (the recall of a class without samples) becomes None."""
        system, score = self.system, self.task.score.key
        record = {
            "name": system.name, "backbones": list(system.backbones), "head": system.head, "dim": system.dim,
            "untrained": system.untrained, "n": len(self.predictions), "groups": self.groups,
            "figures_of": self.predictions.ensemble}
        for key, figure in self.of.items():
            record |= {key: _none_if_nan(figure.value), f"{key}_interval": figure.interval,
                       f"seeds_{key}": [_none_if_nan(value) for value in figure.seeds]}
        record |= {f"val_{score}": _none_if_nan(system.val_score), "temperature": system.temperature, "per_class": {
            name: {key: _none_if_nan(value) for key, value in each.items()} for name, each in self.by_output.items()}}
        if self.scores and self.reliability and self.raw_reliability:
            record |= {
                "macro_f1_of_classes_with_faces": self.scores.score_present, "uar": self.scores.uar,
                "confusion": self.scores.confusion.tolist(), "calibration_error": self.reliability.error,
                "calibration_error_before_temperature": self.raw_reliability.error,
                "reliability": self.reliability.record(),
                "reliability_before_temperature": self.raw_reliability.record()}
        return record | {"contributions": system.stream_weights, "seconds": system.seconds}


def figures(predictions: Predictions, *, seed: int) -> Figures:
    """All figures of predictions."""
    of, by_output, parts = {}, {}, predictions.parts()
    for prefix, part in parts:
        for metric in part.task.metrics:
            pair = part.task.compared(metric, part)
            of[prefix + metric.key] = Figure(
                metric.of(*pair), interval(metric, *pair, part.group, seed=seed),
                tuple(metric.of(*part.task.compared(metric, part, output)) for output in part.outputs))
        by_output |= part.task.figures_by_output(part)
    first, classes = parts[0][1], parts[0][1].task.classes
    return Figures(
        predictions=predictions, of=of, by_output=by_output, groups=len(np.unique(predictions.group.astype(str))),
        scores=compute_scores(first.target, first.predicted, classes) if classes else None,
        reliability=reliability(first.calibrated, first.target) if classes else None,
        raw_reliability=reliability(first.mean, first.target) if classes else None)


def compare_predictions(a: Predictions, b: Predictions, *, seed: int) -> Comparison:
    """System a against b by the task's score, on the same samples in the same order. Raises InputError where these have
    other classes or targets."""
    (_, a), (_, b), metric = a.parts()[0], b.parts()[0], a.task.score
    (target, ours), (other, theirs) = (each.task.compared(metric, each) for each in (a, b))
    if a.task.outputs != b.task.outputs or not np.array_equal(target, other, equal_nan=True):
        raise InputError(f"{a.system.name} and {b.system.name} were scored by other classes or labels: compare heads "
                         "that were trained on the same ones")
    return compare(metric, target, ours, theirs, a.group, seed=seed)


def _none_if_nan(value: float) -> float | None:
    return value if isinstance(value, int) else None if np.isnan(value) else float(value)
