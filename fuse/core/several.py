"""Several tasks that one head learns together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from twofold.data.manifest import Manifest
from twofold.fuse.core.settings import Settings
from twofold.fuse.core.task import Calibration, Encoded, Part, Targets, Task
from twofold.fuse.metrics.metric import Metric

APART = " | "  #: between the answers of the tasks


@dataclass(frozen=True)
class Several(Task):
    """Tasks side by side: their columns in order, those of classes first. weights: of each in the loss.

    The score of the first chooses and compares heads. A sample without a class, but with another target, has the number
    after the last class.
    """

    each: tuple[Task, ...] = ()
    weights: tuple[float, ...] = ()

    @property
    def kind(self) -> str:  # type: ignore[override]
        return "+".join(task.kind for task in self.each)

    @property
    def layout(self) -> str:
        return "+".join(f"{task.kind}:{len(task.outputs)}" for task in self.each)

    @property
    def score(self) -> Metric:  # type: ignore[override]
        return self.each[0].score

    @property
    def metrics(self) -> tuple[Metric, ...]:  # type: ignore[override]
        return tuple(replace(metric, key=part.prefix + metric.key, name=part.prefix.replace("_", " ") + metric.name)
                     for part in self.parts for metric in part.task.metrics)

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(name for task in self.each for name in task.outputs)

    @property
    def numbers(self) -> tuple[bool, ...]:
        return tuple(number for task in self.each for number in task.numbers)

    @property
    def classes(self) -> int:
        return self.each[0].classes

    @property
    def parts(self) -> tuple[Part, ...]:
        ends = np.cumsum([len(task.outputs) for task in self.each]).tolist()
        return tuple(Part(task, slice(end - len(task.outputs), end), f"{task.kind}_" if number else "")
                     for number, (task, end) in enumerate(zip(self.each, ends, strict=True)))

    @property
    def title(self) -> str:
        return " + ".join(task.title for task in self.each)

    @property
    def words(self) -> str:
        return " or a ".join(task.words for task in self.each)

    def settings(self) -> dict:
        labels = [name for task in self.each for name in task.settings().get("labels", [])]
        return self.each[0].settings() | {"task": [task.kind for task in self.each], "labels": labels,
                                          "task_weights": [f"{weight:g}" for weight in self.weights]}

    def encode(self, manifest: Manifest) -> Targets:
        targets = [task.encode(manifest) for task in self.each]
        first, others = targets[0].label, np.max([each.label for each in targets], axis=0) >= 0
        beyond = max(self.classes, int(first.max(initial=-1)) + 1)
        return Targets(np.where(first >= 0, first, np.where(others, beyond, -1)),
                       np.concatenate([each.truth for each in targets], axis=1),
                       np.concatenate([each.train_target for each in targets], axis=1),
                       tuple(note for each in targets for note in each.notes))

    def assign_folds(self, manifest: Manifest, *, folds: int, seed: int) -> np.ndarray:
        return (self.each[0] if self.classes else super()).assign_folds(manifest, folds=folds, seed=seed)

    def _targets(self, encoded: Encoded) -> Iterator[tuple[Part, Targets]]:
        """The targets of each task."""
        for part in self.parts:
            yield part, Targets(part.label(encoded.label, encoded.truth), encoded.truth[:, part.columns],
                                encoded.train_target[:, part.columns])

    def check(self, features: Encoded, train: np.ndarray, val: np.ndarray) -> None:
        for part, targets in self._targets(features):
            part.task.check(targets, train[targets.label[train] >= 0], val[targets.label[val] >= 0])

    def output_scale(self, train_target: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
        scales = [part.task.output_scale(train_target[:, part.columns], settings) for part in self.parts]
        return np.concatenate([scale for scale, _ in scales]), np.concatenate([shift for _, shift in scales])

    def normalise(self, targets: np.ndarray, scale: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return np.concatenate([part.task.normalise(targets[:, part.columns], (scale[0][part.columns],
                                                                             scale[1][part.columns]))
                               for part in self.parts], axis=1)

    def loss(self, logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, rates: torch.Tensor,
             settings: Settings) -> torch.Tensor:
        losses = [share * part.task.loss(logits[..., part.columns], target[..., part.columns], weight,
                                         rates[part.columns], settings)
                  for share, part in zip(self.weights, self.parts, strict=True)]
        return torch.stack(losses).sum(dim=0)

    def epoch_figures(self, logits: torch.Tensor, target: np.ndarray, label: np.ndarray) -> dict[str, float]:
        figures: dict[str, float] = {}
        for part in self.parts:
            own = part.label(label, target)
            rows = np.flatnonzero(own >= 0)
            each = part.task.epoch_figures(logits[rows][:, part.columns], target[rows][:, part.columns], own[rows])
            figures |= {part.prefix + key: value for key, value in each.items()}
        return figures

    def validate(self, features: Encoded, rows: np.ndarray, outputs: np.ndarray, basic: np.ndarray | None
                 ) -> tuple[Calibration, float]:
        fitted = []
        for part, targets in self._targets(features):
            labelled = targets.label[rows] >= 0
            fitted.append(part.task.validate(targets, rows[labelled], outputs[labelled][:, part.columns], None))
        thresholds = [value for (calibration, _), task in zip(fitted, self.each, strict=True)
                      for value in calibration.thresholds or [0.0] * len(task.outputs)]
        return Calibration(fitted[0][0].temperature, tuple(thresholds)), fitted[0][1]

    def calibrate(self, outputs: np.ndarray, calibration: Calibration) -> np.ndarray:
        return np.concatenate([part.task.calibrate(outputs[..., part.columns], calibration) for part in self.parts],
                              axis=-1)

    def calibrate_in_torch(self, outputs: torch.Tensor, calibration: Calibration) -> torch.Tensor:
        return torch.cat([part.task.calibrate_in_torch(outputs[..., part.columns], calibration)
                          for part in self.parts], dim=-1)

    def decide(self, outputs: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
        answers = [part.task.decide(outputs[:, part.columns], thresholds[:, part.columns]) for part in self.parts]
        return np.array([APART.join(row) for row in zip(*answers, strict=True)], object)

    def truth_columns(self, label: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
        columns: dict[str, np.ndarray] = {}
        for part in self.parts:
            columns |= part.task.truth_columns(part.label(label, truth), truth[:, part.columns])
        return columns

    def read_truth(self, table: pd.DataFrame, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        label, truth = np.full(len(table), self.classes), np.zeros(outputs.shape)
        for part in self.parts:
            labelled = (table["truth"] != "").to_numpy() if part.task.classes else np.ones(len(table), bool)
            answers: Any = {"prediction": table.loc[labelled, "truth"]} if part.task.classes else {}
            numbers, values = part.task.read_truth(table[labelled].assign(**answers),
                                                   outputs[labelled][:, part.columns])
            truth[np.ix_(labelled, np.arange(outputs.shape[1])[part.columns])] = values
            if part.task.classes:
                label[labelled] = numbers
        return label, truth

    def read_decisions(self, answers: Sequence[str]) -> np.ndarray:
        thresholds = np.zeros((len(answers), len(self.outputs)))
        for number, part in enumerate(self.parts):
            decided = part.task.read_decisions([(answer.split(APART) + [""] * len(self.each))[number]
                                                for answer in answers])
            if decided.shape[1]:
                thresholds[:, part.columns] = decided
        return thresholds
