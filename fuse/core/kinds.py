"""The four tasks: one class, a distribution over classes, several labels at once, numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch

from twofold.data.labels import BASIC, Taxonomy, builtin_taxonomy, normalize_label
from twofold.data.manifest import SOFT, Manifest
from twofold.data.splits import assign_folds
from twofold.data.targets import contradictions, multilabel_targets, numeric_targets, soft_targets
from twofold.data.utils.errors import InputError
from twofold.fuse.core.losses import (
    adjust_logits,
    binary_cross_entropy,
    concordance_loss,
    smooth_labels,
    soft_cross_entropy,
)
from twofold.fuse.core.settings import Settings
from twofold.fuse.core.task import Calibration, Encoded, Predicted, Targets, Task
from twofold.fuse.metrics import labels, scores
from twofold.fuse.metrics.metric import Metric
from twofold.fuse.metrics.scores import ACCURACY, SCORE, apply_temperature, fit_temperature

LEAST_RATE = 1e-3  #: of a label among training samples: a rarer one weighs no more than one of this rate


class Classification(Task):
    """One class a sample: one-hot targets, softmax, cross-entropy, a temperature."""

    kind = "classification"
    score: ClassVar[Metric] = SCORE
    metrics: ClassVar[tuple[Metric, ...]] = (ACCURACY, SCORE)
    shown = "recall"

    @property
    def classes(self) -> int:
        return len(self.taxonomy.classes)

    @property
    def title(self) -> str:
        return f"{self.taxonomy.name} ({self.taxonomy.target})"

    def encode(self, manifest: Manifest) -> Targets:
        label, notes = hard_labels(manifest, self.taxonomy)
        truth = one_hot(label, self.classes)
        return Targets(label, truth, truth, notes)

    def assign_folds(self, manifest: Manifest, *, folds: int, seed: int) -> np.ndarray:
        return assign_folds(manifest, self.taxonomy, folds=folds, seed=seed)

    def for_training(self, features: Encoded) -> tuple[Task, Targets]:
        if self.learns_classes:
            return super().for_training(features)
        basic = one_hot(features.basic_label, len(BASIC))
        return Classification(builtin_taxonomy("basic8")), Targets(features.basic_label, basic, basic)

    def check(self, features: Encoded, train: np.ndarray, val: np.ndarray) -> None:
        learned, classes = self.learned(features), self.learned_classes
        validated = np.unique(learned[val])
        if len(validated) < 2:
            raise InputError(f"all {len(val)} validation samples are {classes[validated[0]]}: nothing can be "
                             "chosen by one class; give `val` samples of several classes, or none and a larger "
                             "--val-fraction")
        masses = features.train_target[train].sum(axis=0)
        absent = [name for name, mass in zip(classes, masses, strict=False) if not mass]
        if absent and self.learns_classes:  # what a zero-shot head needs depends on its compounds: its fit says so
            raise InputError(f"no training samples of {', '.join(absent)}: choose --classes that the data has, or add "
                             "samples")

    def settings(self) -> dict:
        return {"task": [self.kind], "classes": self.taxonomy.name, "target": self.taxonomy.target}

    @staticmethod
    def link(logits: torch.Tensor) -> torch.Tensor:
        return logits.float().softmax(dim=-1)

    def loss(self, logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, rates: torch.Tensor,
             settings: Settings) -> torch.Tensor:
        return soft_cross_entropy(adjust_logits(logits.float(), rates, settings.logit_adjustment),
                                  smooth_labels(target, settings.label_smoothing), weight)

    def epoch_figures(self, logits: torch.Tensor, target: np.ndarray, label: np.ndarray) -> dict[str, float]:
        table = scores.confusion_matrix(label, logits.argmax(dim=-1).numpy(), logits.shape[-1])
        return {SCORE.key: float(scores.macro_f1(table)), ACCURACY.key: float(scores.accuracy(table))}

    def validate(self, features: Encoded, rows: np.ndarray, outputs: np.ndarray, basic: np.ndarray | None
                 ) -> tuple[Calibration, float]:
        """A zero-shot head may not look at classes: its temperature is 1, its score that of the basic emotions."""
        target = self.learned(features)[rows]
        if self.learns_classes:
            return Calibration(fit_temperature(outputs, features.train_target[rows])), SCORE.of(target, outputs)
        assert basic is not None
        return Calibration(), scores.compute_scores(target, basic.argmax(axis=1), len(BASIC)).score_present

    def calibrate(self, outputs: np.ndarray, calibration: Calibration) -> np.ndarray:
        return apply_temperature(outputs, calibration.temperature)

    def calibrate_in_torch(self, outputs: torch.Tensor, calibration: Calibration) -> torch.Tensor:
        return (outputs.clamp_min(1e-12).log() / calibration.temperature).softmax(dim=-1)

    def decide(self, outputs: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
        return np.array(self.taxonomy.classes, object)[outputs.argmax(axis=1)]

    def truth_columns(self, label: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
        return {"truth": np.array([*self.taxonomy.classes, ""], object)[label]}  # -1 takes the last

    def read_truth(self, table: pd.DataFrame, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        target = pd.Index(self.taxonomy.classes).get_indexer(pd.Index(table["truth"]))
        strange = ~table["prediction"].isin(self.taxonomy.classes)
        if (target < 0).any() or strange.any() or not ((outputs >= 0) & (outputs <= 1)).all():
            raise ValueError("it has classes that are not those of the run, or values that are not probabilities")
        return target, one_hot(target, self.classes)

    def compared(self, metric: Metric, predictions: Predicted, outputs: np.ndarray | None = None
                 ) -> tuple[np.ndarray, np.ndarray]:
        return predictions.target, predictions.mean if outputs is None else outputs

    def figures_by_output(self, predictions: Predicted) -> dict[str, dict[str, float]]:
        table = scores.compute_scores(predictions.target, predictions.predicted, self.classes)
        return {name: {"n": int(table.n[c])} | {kind: float(getattr(table, kind)[c])
                                                for kind in ("precision", "recall", "f1")}
                for c, name in enumerate(self.taxonomy.classes)}


@dataclass(frozen=True)
class Distribution(Classification):
    """The shares that annotators gave the classes: softmax, Kullback-Leibler divergence, a temperature.

    A sample teaches its soft label, else its hard one; teach: `soft` or `hard`, which one where it has both. The soft
    labels are what it is scored by, and the derived class: the hard label, or that of the largest share.
    """

    kind = "distribution"
    score: ClassVar[Metric] = labels.KL
    metrics: ClassVar[tuple[Metric, ...]] = (*labels.DISTRIBUTION_METRICS, ACCURACY, SCORE)
    teach: str = "soft"

    def encode(self, manifest: Manifest) -> Targets:
        hard, notes = hard_labels(manifest, self.taxonomy)
        truth, said = self._shares(manifest)
        soft = truth.any(axis=1)
        label = np.where(hard < 0, np.where(soft, truth.argmax(axis=1), -1), hard)
        by_hard = (hard >= 0) & (~soft | (self.teach == "hard"))
        train_target = np.where(by_hard[:, None], one_hot(hard, self.classes), truth)
        said += [note for note in notes if "without a" not in note]
        said.append(f"{int(soft.sum())} samples with a soft label of {self.taxonomy.name}, "
                    f"{int(((hard >= 0) & ~soft).sum())} with a hard one alone, {int((label < 0).sum())} with none")
        target, names = self.taxonomy.target, self.taxonomy.classes
        if soft.any() and target in manifest.table and (count := int(contradictions(manifest, target, names).sum())):
            said.append(f"{count} hard labels contradict the largest share of their soft label: the {self.teach} ones "
                        "teach (--teach)")
        return Targets(label, truth, train_target, tuple(said))

    def _shares(self, manifest: Manifest) -> tuple[np.ndarray, list[str]]:
        """The soft labels (N, C) of a manifest, none where they are of other classes, and what is left out."""
        names, lacking = self.outputs, [name for name in self.outputs if f"{SOFT}{name}" not in manifest.table]
        if lacking:  # a store to predict on need not have them
            return np.zeros((len(manifest), len(names)), np.float32), [] if len(lacking) == len(names) else [
                f"soft labels left out: without a column {SOFT}{lacking[0]} they are not of {self.taxonomy.name}"]
        shares, votes = soft_targets(manifest, names), manifest.soft_labels(names)
        assert votes is not None
        few = int((votes.any(axis=1) & ~shares.any(axis=1)).sum())
        return shares, [f"{few} samples have less than half of their shares in {self.taxonomy.name}: no soft label of "
                        "it"] if few else []

    def check(self, features: Encoded, train: np.ndarray, val: np.ndarray) -> None:
        super().check(features, train, val)
        if not features.truth[val].any():
            raise InputError(f"no validation sample has a soft label to choose by (columns {SOFT}<class> of all of "
                             f"{self.taxonomy.name}): give `val` such samples, or use --task classification")

    @property
    def title(self) -> str:
        return f"distribution of {super().title}"

    def settings(self) -> dict:
        return super().settings() | {"teach": self.teach}

    def loss(self, logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, rates: torch.Tensor,
             settings: Settings) -> torch.Tensor:
        """Labels are smoothed where all of the mass is on one class."""
        certain = (target.amax(dim=-1, keepdim=True) == 1).float()
        return soft_cross_entropy(adjust_logits(logits.float(), rates, settings.logit_adjustment),
                                  certain * smooth_labels(target, settings.label_smoothing) + (1 - certain) * target,
                                  weight)

    def epoch_figures(self, logits: torch.Tensor, target: np.ndarray, label: np.ndarray) -> dict[str, float]:
        return {self.score.key: self.score.of(target, self.link(logits).numpy()),
                **super().epoch_figures(logits, target, label)}

    def validate(self, features: Encoded, rows: np.ndarray, outputs: np.ndarray, basic: np.ndarray | None
                 ) -> tuple[Calibration, float]:
        soft = features.truth[rows].any(axis=1)
        calibration = Calibration(fit_temperature(outputs[soft], features.truth[rows][soft]))
        return calibration, self.score.of(features.truth[rows], self.calibrate(outputs, calibration))

    def truth_columns(self, label: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
        return super().truth_columns(label, truth) | Task.truth_columns(self, label, truth)

    def read_truth(self, table: pd.DataFrame, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return super().read_truth(table, outputs)[0], Task.read_truth(self, table, outputs)[1]

    def compared(self, metric: Metric, predictions: Predicted, outputs: np.ndarray | None = None
                 ) -> tuple[np.ndarray, np.ndarray]:
        of_classes = metric in Classification.metrics
        return (Classification if of_classes else Task).compared(self, metric, predictions, outputs)


class Multilabel(Task):
    """Several labels a sample, each there or not: sigmoid, binary cross-entropy, a threshold for each label.

    A label that is there weighs (absent / there) ** (class_weights + balanced_sampling) in the loss, since samples of
    several labels cannot be drawn by one; the logits are freed of it again, so that probabilities stay what they say.
    """

    kind = "multilabel"
    score: ClassVar[Metric] = labels.MULTILABEL_F1
    metrics: ClassVar[tuple[Metric, ...]] = labels.MULTILABEL_METRICS
    shown = "f1"

    @property
    def words(self) -> str:
        return f"label in the columns {', '.join(self.outputs)}"

    def encode(self, manifest: Manifest) -> Targets:
        truth = read_columns(multilabel_targets, manifest, self.outputs)
        rarity = np.argsort(np.nansum(truth, axis=0), kind="stable")  # strata: by the rarest label that is there
        there = truth[:, rarity] > 0
        label = np.where(there.any(axis=1), there.argmax(axis=1), truth.shape[1])
        return Targets(np.where(np.isnan(truth).all(axis=1), -1, label), truth, truth)

    def check(self, features: Encoded, train: np.ndarray, val: np.ndarray) -> None:
        for name, column in zip(self.outputs, features.train_target[train].T, strict=True):
            seen = np.unique(column[~np.isnan(column)] > 0)
            if len(seen) < 2:
                raise InputError(f"the training samples never {'lack' if seen.any() else 'show'} {name}: leave it out "
                                 "(--labels), or add samples" if len(seen) else
                                 f"no training sample has a label in the column {name}: leave it out (--labels)")

    def output_scale(self, train_target: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
        weight = positive_weight(torch.from_numpy(np.nanmean(train_target, axis=0)), settings)
        return np.ones(len(self.outputs)), -weight.log().numpy()

    @staticmethod
    def link(logits: torch.Tensor) -> torch.Tensor:
        return logits.float().sigmoid()

    def loss(self, logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, rates: torch.Tensor,
             settings: Settings) -> torch.Tensor:
        return binary_cross_entropy(logits, target, positive_weight(rates, settings))

    def epoch_figures(self, logits: torch.Tensor, target: np.ndarray, label: np.ndarray) -> dict[str, float]:
        outputs = self.link(logits).numpy()
        called = (outputs >= labels.choose_thresholds(target, outputs)).astype(float)
        return {self.score.key: self.score.of(target, called),
                labels.MEAN_AVERAGE_PRECISION.key: labels.MEAN_AVERAGE_PRECISION.of(target, outputs)}

    def validate(self, features: Encoded, rows: np.ndarray, outputs: np.ndarray, basic: np.ndarray | None
                 ) -> tuple[Calibration, float]:
        truth = features.truth[rows]
        thresholds = labels.choose_thresholds(truth, outputs)
        return (Calibration(thresholds=tuple(thresholds.tolist())),
                self.score.of(truth, (outputs >= thresholds).astype(float)))

    def decide(self, outputs: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
        names = np.array(self.outputs, object)
        return np.array([" + ".join(names[row]) or "none" for row in outputs >= thresholds], object)

    def read_decisions(self, answers: Sequence[str]) -> np.ndarray:
        called = np.array([[name in answer.split(" + ") for name in self.outputs] for answer in answers], bool)
        return np.where(called.reshape(-1, len(self.outputs)), -np.inf, np.inf)

    def compared(self, metric: Metric, predictions: Predicted, outputs: np.ndarray | None = None
                 ) -> tuple[np.ndarray, np.ndarray]:
        truth, outputs = super().compared(metric, predictions, outputs)
        return truth, (outputs >= predictions.thresholds).astype(float) if metric is self.score else outputs

    def figures_by_output(self, predictions: Predicted) -> dict[str, dict[str, float]]:
        truth, calls = self.compared(self.score, predictions)
        precision = labels.average_precision_by_label(truth, predictions.calibrated, np.ones((1, len(truth))))[0]
        return {name: {"n": int((~np.isnan(truth[:, c])).sum()), "present": int(np.nansum(truth[:, c])),
                       "f1": float(f1), "average_precision": float(precision[c]),
                       "threshold": float(predictions.thresholds[:, c].mean()) if len(truth) else float("nan")}
                for c, (name, f1) in enumerate(zip(self.outputs, labels.f1_by_label(truth, calls), strict=True))}


class Regression(Task):
    """Numbers, such as valence and arousal: linear, concordance and squared error; no calibration."""

    kind = "regression"
    score: ClassVar[Metric] = labels.CCC
    metrics: ClassVar[tuple[Metric, ...]] = labels.REGRESSION_METRICS
    shown = "ccc"

    @property
    def numbers(self) -> tuple[bool, ...]:
        return (True,) * len(self.outputs)

    @property
    def words(self) -> str:
        return f"number in the columns {', '.join(self.outputs)}"

    def encode(self, manifest: Manifest) -> Targets:
        truth = read_columns(numeric_targets, manifest, self.outputs)
        mask = ~np.isnan(truth)
        mean = np.where(mask, truth, 0).sum(axis=1) / np.maximum(mask.sum(axis=1), 1)
        edges = np.quantile(mean[mask.any(axis=1)], (0.25, 0.5, 0.75)) if mask.any() else []
        return Targets(np.where(mask.any(axis=1), np.searchsorted(edges, mean), -1), truth, truth)

    def check(self, features: Encoded, train: np.ndarray, val: np.ndarray) -> None:
        for words, targets in (("training", features.train_target[train]), ("validation", features.truth[val])):
            for name, column in zip(self.outputs, targets.T, strict=True):
                if len(np.unique(column[~np.isnan(column)])) < 2:
                    raise InputError(f"the {words} samples have fewer than two different numbers in the column {name}: "
                                     "leave it out (--labels), or add samples")

    def output_scale(self, train_target: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
        return np.nanstd(train_target, axis=0, dtype=float), np.nanmean(train_target, axis=0, dtype=float)

    def normalise(self, targets: np.ndarray, scale: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return ((targets - scale[1]) / scale[0]).astype(np.float32)

    @staticmethod
    def link(logits: torch.Tensor) -> torch.Tensor:
        return logits.float()

    def loss(self, logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, rates: torch.Tensor,
             settings: Settings) -> torch.Tensor:
        return concordance_loss(logits, target)

    def epoch_figures(self, logits: torch.Tensor, target: np.ndarray, label: np.ndarray) -> dict[str, float]:
        return {metric.key: metric.of(target, logits.float().numpy()) for metric in (labels.CCC, labels.PEARSON)}

    def validate(self, features: Encoded, rows: np.ndarray, outputs: np.ndarray, basic: np.ndarray | None
                 ) -> tuple[Calibration, float]:
        return Calibration(), self.score.of(features.truth[rows], outputs)

    def decide(self, outputs: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
        return np.array([", ".join(f"{name} {value:+.2f}" for name, value in zip(self.outputs, row, strict=True))
                         for row in outputs], object)

    def figures_by_output(self, predictions: Predicted) -> dict[str, dict[str, float]]:
        columns = {name: (predictions.truth[:, c:c + 1], predictions.calibrated[:, c:c + 1])
                   for c, name in enumerate(self.outputs)}
        return {name: {"n": int((~np.isnan(pair[0])).sum())} | {metric.key: metric.of(*pair) for metric in self.metrics}
                for name, pair in columns.items()}


TASK_TYPES: dict[str, type[Task]] = {each.kind: each for each in (Classification, Distribution, Multilabel, Regression)}


def link_of(layout: str, logits: torch.Tensor) -> torch.Tensor:
    """Outputs of logits (..., C) whose columns are those of one task, or of several: `KIND:COLUMNS+KIND:COLUMNS`."""
    kinds = [name.partition(":") for name in layout.split("+")]
    if len(kinds) == 1:
        return TASK_TYPES[layout].link(logits)
    parts = logits.split([int(columns) for _, _, columns in kinds], dim=-1)
    return torch.cat([TASK_TYPES[kind].link(part) for (kind, _, _), part in zip(kinds, parts, strict=True)], dim=-1)


def positive_weight(rates: torch.Tensor, settings: Settings) -> torch.Tensor:
    """(L,) weight in the loss of labels that are there in these shares of the samples."""
    rates = rates.double().clamp(LEAST_RATE, 1 - LEAST_RATE)
    return (((1 - rates) / rates) ** (settings.class_weights + settings.balanced_sampling)).float()


def one_hot(label: np.ndarray, classes: int) -> np.ndarray:
    """(N, C) float32 of class numbers (N,), zeros for -1."""
    return np.eye(classes, dtype=np.float32)[np.maximum(label, 0)] * (label >= 0)[:, None]


def hard_labels(manifest: Manifest, taxonomy: Taxonomy) -> tuple[np.ndarray, tuple[str, ...]]:
    """(N,) class numbers of a manifest's samples, -1 for none, and notes on samples without a label."""
    table = manifest.table
    own = taxonomy.target in table.columns  # a store to predict on need not have a column of one's own
    column = table[taxonomy.target].to_numpy(object) if own else np.full(len(table), "", object)
    number = {name: index for index, name in enumerate(taxonomy.classes)}
    places = {name: number.get(normalize_label(name), -1) for name in set(column)}
    label = np.array([places[name] for name in column], np.int64)
    notes = []
    if outside := int(((label < 0) & (column != "")).sum()):
        notes.append(f"{outside} samples with a {taxonomy.label_words} outside {taxonomy.name}")
    if unlabelled := int((column == "").sum()):
        notes.append(f"{unlabelled} samples without a {taxonomy.label_words}")
    return label, tuple(notes)


def read_columns(read: Callable[..., np.ndarray], manifest: Manifest, names: Sequence[str]) -> np.ndarray:
    """(N, C) float32 of columns as `read` has them, nan in those that are not there: a store to predict on need not
    have them."""
    values = np.full((len(manifest), len(names)), np.nan, np.float32)
    there = [c for c, name in enumerate(names) if name in manifest.table]
    if there:
        values[:, there] = read(manifest, [names[c] for c in there])
    return values
