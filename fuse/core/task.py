"""What is predicted: how targets are encoded, learned, calibrated, decided and scored. Nothing else asks its kind.

Targets and outputs have the same columns, one a class, label or number. A sample without a target has a row of zeros
among classes, nan in a cell of the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np
import pandas as pd
import torch

from twofold.data.labels import BASIC, Taxonomy
from twofold.data.manifest import Manifest
from twofold.data.splits import assign_folds
from twofold.fuse.core.settings import Settings
from twofold.fuse.metrics.metric import Metric

NAMED = 6  #: columns that a headline names


@dataclass(frozen=True, eq=False)
class Targets:
    """Of N samples: truth (N, C), what they are scored by; train_target (N, C), what they train with; label (N,), the
    class, or where there are no classes a stratum that splits balance, -1 for a sample without a target."""

    label: np.ndarray
    truth: np.ndarray
    train_target: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def basic_label(self) -> np.ndarray:
        """None are known here."""
        return np.full(len(self.label), -1)


class Encoded(Protocol):
    """Samples with their targets, as `Features` has them."""

    @property
    def label(self) -> np.ndarray: ...
    @property
    def truth(self) -> np.ndarray: ...
    @property
    def train_target(self) -> np.ndarray: ...
    @property
    def basic_label(self) -> np.ndarray: ...


class Predicted(Protocol):
    """Samples with targets and outputs, as `Predictions` has them."""

    @property
    def target(self) -> np.ndarray: ...
    @property
    def truth(self) -> np.ndarray: ...
    @property
    def mean(self) -> np.ndarray: ...
    @property
    def predicted(self) -> np.ndarray: ...
    @property
    def calibrated(self) -> np.ndarray: ...
    @property
    def thresholds(self) -> np.ndarray: ...


@dataclass(frozen=True)
class Calibration:
    """What validation fits. temperature: 1 for none; thresholds: of each label from which on it is called, or none."""

    temperature: float = 1.0
    thresholds: tuple[float, ...] = ()

    def rows(self, count: int) -> np.ndarray:
        """(n, thresholds) the thresholds for each of n samples."""
        return np.tile(np.array(self.thresholds, float), (count, 1))


def mean_calibration(each: Sequence[Calibration]) -> Calibration:
    """That of the ensemble of several folds."""
    return Calibration(float(np.mean([one.temperature for one in each])),
                       tuple(np.mean([one.thresholds for one in each], axis=0).tolist()))


@dataclass(frozen=True)
class Task:
    """What is predicted. taxonomy: the classes, or the columns of labels or numbers.

    kind: as `--task` names it; score: the metric that heads are chosen and compared by; metrics: those of tables, each
    with its interval; shown: of `figures_by_output`, the one that tables side by side give.
    learns_classes: False for zero-shot heads, which learn from basic labels and are only scored by the classes;
    trains: False where nothing is to be learned.
    """

    kind: ClassVar[str]
    score: ClassVar[Metric]
    metrics: ClassVar[tuple[Metric, ...]]
    shown: ClassVar[str]
    taxonomy: Taxonomy
    learns_classes: bool = True
    trains: bool = True

    @property
    def outputs(self) -> tuple[str, ...]:
        """The name of each column."""
        return self.taxonomy.classes

    @property
    def layout(self) -> str:
        """What a head's file says of its columns; see `kinds.link_of`."""
        return self.kind

    @property
    def parts(self) -> "tuple[Part, ...]":
        """The tasks that this one is made of, each with its columns."""
        return (Part(self, slice(0, len(self.outputs)), ""),)

    @property
    def numbers(self) -> tuple[bool, ...]:
        """Which columns hold numbers instead of probabilities."""
        return (False,) * len(self.outputs)

    @property
    def classes(self) -> int:
        """How many of the columns, the first, are shares of classes of which one is the answer."""
        return 0

    @property
    def score_name(self) -> str:
        """What `validate` returns as a score, in words: only equal ones may be ranked."""
        return self.score.name if self.learns_classes else f"{self.score.name} of the basic emotions"

    @property
    def learned_classes(self) -> tuple[str, ...]:
        """Names of the classes that are learned, none where there are no classes."""
        return self.taxonomy.classes[:self.classes] if self.learns_classes else BASIC

    @property
    def title(self) -> str:
        """The task and its columns in a headline."""
        names = self.outputs if len(self.outputs) <= NAMED else (*self.outputs[:2], "...", self.outputs[-1])
        return f"{self.kind} of {len(self.outputs)} ({', '.join(names)})"

    @property
    def words(self) -> str:
        """What a target is called in a sentence."""
        return f"{self.taxonomy.label_words} of {self.taxonomy.name}"

    def encode(self, manifest: Manifest) -> Targets:
        """The targets of a manifest's samples. Raises InputError for wrong cells."""
        raise NotImplementedError

    def for_training(self, features: Encoded) -> "tuple[Task, Targets]":
        """What a head learns: the task, and the targets of all samples."""
        return self, Targets(features.label, features.truth, features.train_target)

    def learned(self, features: Encoded) -> np.ndarray:
        """(N,) numbers of the learned classes, or strata, -1 for a sample that teaches nothing."""
        return features.label if self.learns_classes else features.basic_label

    def assign_folds(self, manifest: Manifest, *, folds: int, seed: int) -> np.ndarray:
        """(N,) the fold, from 0, that tests each sample of a manifest with a target, -1 for the others."""
        strata = self.encode(manifest).label
        names = tuple(map(str, range(strata.max(initial=0) + 1)))
        table = manifest.table.assign(**{self.kind: [str(number) if number >= 0 else "" for number in strata]})
        return assign_folds(replace(manifest, table=table), Taxonomy(self.kind, self.kind, names, ()), folds=folds,
                            seed=seed)

    def check(self, features: Encoded, train: np.ndarray, val: np.ndarray) -> None:
        """Raise InputError where these rows cannot teach, or cannot choose."""
        raise NotImplementedError

    def settings(self) -> dict:
        """The settings that ask for this task, as run.json holds them."""
        return {"task": [self.kind], "classes": "", "target": "", "labels": list(self.outputs)}

    def output_scale(self, train_target: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
        """Scale and shift (C,) from what a network is trained to give to the task's logits, of training rows (n, C)."""
        return np.ones(len(self.outputs)), np.zeros(len(self.outputs))

    def normalise(self, targets: np.ndarray, scale: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """(n, C) targets as the network is trained to give them."""
        return targets

    @staticmethod
    def link(logits: torch.Tensor) -> torch.Tensor:
        """Outputs of logits (..., C)."""
        raise NotImplementedError

    def loss(self, logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, rates: torch.Tensor,
             settings: Settings) -> torch.Tensor:
        """(M,) of logits and targets (M, B, C), class weights (M, B) and the rates (C,) of classes and labels."""
        raise NotImplementedError

    def epoch_figures(self, logits: torch.Tensor, target: np.ndarray, label: np.ndarray) -> dict[str, float]:
        """Figures of an epoch on validation by key, the score first, of logits (n, C)."""
        raise NotImplementedError

    def validate(self, features: Encoded, rows: np.ndarray, outputs: np.ndarray, basic: np.ndarray | None
                 ) -> tuple[Calibration, float]:
        """The calibration and the score of outputs (n, C), or of basic ones (n, 8), on validation samples."""
        raise NotImplementedError

    def calibrate(self, outputs: np.ndarray, calibration: Calibration) -> np.ndarray:
        """Outputs (..., C) under a calibration."""
        return outputs

    def calibrate_in_torch(self, outputs: torch.Tensor, calibration: Calibration) -> torch.Tensor:
        """`calibrate`, for programs that know torch only."""
        return outputs

    def decide(self, outputs: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
        """(n,) the answers in words, of calibrated outputs (n, C) and the thresholds of each row (n, C or 0)."""
        raise NotImplementedError

    def truth_columns(self, label: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of tables that hold the truth of n samples."""
        return {f"truth {name}": truth[:, c] for c, name in enumerate(self.outputs)}

    def read_truth(self, table: pd.DataFrame, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Labels (n,) and truth (n, C) of a table with `truth_columns`. Raises ValueError for values that are none, or
        outputs (n, C) that are not the task's."""
        if not np.isfinite(outputs).all():
            raise ValueError("it has outputs that are not finite")
        return np.zeros(len(table), int), table[[f"truth {name}" for name in self.outputs]].to_numpy()

    def read_decisions(self, answers: Sequence[str]) -> np.ndarray:
        """(n, C or 0) thresholds under which the task decides as these answers of `decide` say."""
        return np.zeros((len(answers), 0))

    def compared(self, metric: Metric, predictions: Predicted, outputs: np.ndarray | None = None
                 ) -> tuple[np.ndarray, np.ndarray]:
        """Target and output as the metric wants them, of all seeds together or of one's outputs (n, C)."""
        return predictions.truth, predictions.calibrated if outputs is None else outputs

    def figures_by_output(self, predictions: Predicted) -> dict[str, dict[str, float]]:
        """Figures of each class, label or number by its name."""
        raise NotImplementedError


@dataclass(frozen=True)
class Part:
    """A task among several. columns: its own; prefix: of its figures' keys."""

    task: Task
    columns: slice
    prefix: str

    def label(self, label: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """(N,) the labels of this task, -1 for none, of labels and targets of all of them: a class number, else 0."""
        if self.task.classes:
            return np.where(label < self.task.classes, label, -1)
        return np.where(np.isnan(truth[:, self.columns]).all(axis=1), -1, 0)
