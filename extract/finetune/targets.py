"""What is learned: the labels of each target as numbers, the loss towards them, and the scores on validation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional

from twofold.data.labels import Taxonomy, normalize_label
from twofold.data.manifest import SOFT, Manifest
from twofold.data.targets import UNIT, multilabel_targets, numeric_targets, soft_targets, target_columns
from twofold.data.utils.errors import InputError
from twofold.extract.finetune.settings import Settings


@dataclass(eq=False)
class Target:
    """What one linear layer learns, and what each of the N samples of a manifest teaches about it.

    outputs: names of its C classes, labels or numbers; values: (N, C) float32, what they are; weight: of its loss.
    """

    name: str
    task: str
    outputs: tuple[str, ...]
    values: np.ndarray
    weight: float = 1.0

    @property
    def labelled(self) -> np.ndarray:
        """(N,) bool: which samples teach something."""
        return np.asarray(~np.isnan(self.values).all(axis=1))

    def record(self, row: int) -> object:
        """What a sample teaches, as text of a digest."""
        return self.values[row].tobytes().hex()

    def check(self, train: np.ndarray, val: np.ndarray) -> list[str]:
        """Notes on outputs of which these rows teach nothing. Raises InputError for one that cannot be learned, and
        without validation."""
        if not self.labelled[val].any():
            raise InputError(f"no {self.name} validation samples are left: add labelled samples of further groups, or "
                             "a val split")
        return []

    def balance(self, rows: np.ndarray, power: float) -> None:
        """Weigh classes by their inverse frequency in these rows to a power, where there are classes."""

    def encode(self, rows: np.ndarray) -> torch.Tensor:
        """(B, E) what a batch teaches, weighted, so that samples may be mixed; zeros where one teaches nothing."""
        raise NotImplementedError

    def total(self, rows: np.ndarray) -> float:
        """The sum of the weights of a whole batch: what its loss is the mean over."""
        return float((~np.isnan(self.values[rows])).sum())

    def loss(self, logits: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        """The loss of a part of a batch, as a sum, not yet over the `total` of all of it."""
        raise NotImplementedError

    def score(self, rows: np.ndarray, logits: torch.Tensor) -> tuple[float, dict[str, float]]:
        """Of validation samples the loss, not smoothed nor weighted, and the scores; the first is what the epoch is
        chosen by."""
        raise NotImplementedError


@dataclass(eq=False)
class Classes(Target):
    """Classes that exclude each other: their shares, one-hot for a hard label, the annotators' for a soft one, zeros
    for none.

    soft: (N,) bool, which are soft; labels: (N,) the hard class of each sample, or its largest share where there is
    only one such, else -1; smoothing: of hard labels.
    """

    soft: np.ndarray = field(kw_only=True)
    labels: np.ndarray = field(kw_only=True)
    smoothing: float = 0.0
    class_weights: torch.Tensor = field(init=False)  #: (C,)

    def __post_init__(self) -> None:
        self.class_weights = torch.ones(len(self.outputs))

    @property
    def labelled(self) -> np.ndarray:
        return np.asarray(self.values.any(axis=1))

    def record(self, row: int) -> object:
        return super().record(row) if self.soft[row] else int(self.labels[row])

    def check(self, train: np.ndarray, val: np.ndarray) -> list[str]:
        notes, count = super().check(train, val), (self.values[train] > 0).sum(axis=0)
        rare = [f"{name} ({number})" for name, number in zip(self.outputs, count, strict=True) if number < 2]
        if (count > 0).sum() < 2:
            raise InputError(f"training samples of {(count > 0).sum()} {self.name} class: two are needed at least")
        if (count == 1).any():
            raise InputError(f"too few training samples of {', '.join(rare)}: add samples, or choose --classes without "
                             "it")
        if rare:
            notes.append(f"no training samples of {', '.join(name.split(' ')[0] for name in rare)}: "
                         f"the {self.name} classifier never predicts it")
        return notes

    def balance(self, rows: np.ndarray, power: float) -> None:
        self.class_weights = torch.from_numpy(class_weights(self.values[rows], power)).float()

    def encode(self, rows: np.ndarray) -> torch.Tensor:
        """(B, C) shares, smoothed where they are of a hard label, times their class weight."""
        shares, soft = torch.from_numpy(self.values[rows]), torch.from_numpy(self.soft[rows])[:, None]
        smooth = torch.where(soft, shares, shares * (1 - self.smoothing) + self.smoothing / shares.shape[1])
        return smooth * (shares * self.class_weights).sum(1, keepdim=True)

    def total(self, rows: np.ndarray) -> float:
        rows = rows[self.labelled[rows]]
        return float((torch.from_numpy(self.values[rows]) * self.class_weights).sum(1).sum())

    def loss(self, logits: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        """Weighted cross-entropy; of a soft label that is the Kullback-Leibler divergence but for the label's own
        entropy, which no gradient sees.

        Of hard labels with weights w it is torch's cross_entropy(weight=w), but smoothing stays within the class
        weight.
        """
        return -(encoded * logits.log_softmax(1)).sum()

    def score(self, rows: np.ndarray, logits: torch.Tensor) -> tuple[float, dict[str, float]]:
        """intersection: mean over samples of the sum of min(share, probability); kl: of the labels from the
        predictions, in nats."""
        mask = self.labelled[rows]
        rows, logits = rows[mask], logits[torch.from_numpy(mask)]
        labels, shares = self.labels[rows], torch.from_numpy(self.values[rows])
        accuracy, macro_f1 = accuracy_and_f1(labels[labels >= 0], logits.argmax(1).numpy()[labels >= 0], len(shares.T))
        scores = {"macro_f1": macro_f1, "accuracy": accuracy}
        if self.task == "classification":
            return float(functional.cross_entropy(logits, torch.from_numpy(labels))), scores
        loss = float(functional.cross_entropy(logits, shares))
        common = torch.minimum(shares, logits.softmax(1)).sum(1).mean()
        entropy = -torch.special.xlogy(shares, shares).sum(1).mean()
        return loss, {"intersection": float(common), "kl": loss + float(-entropy)} | scores


@dataclass(eq=False)
class Labels(Target):
    """Labels that do not exclude each other, such as action units: 0 or 1 in `values`, NaN where nobody said."""

    cell_weights: np.ndarray = field(init=False)  #: (2, C) of a label that is absent, and of one that is present

    def __post_init__(self) -> None:
        self.cell_weights = np.ones((2, len(self.outputs)))

    def check(self, train: np.ndarray, val: np.ndarray) -> list[str]:
        values, notes = self.values[train], super().check(train, val)
        single = [name for name, column in zip(self.outputs, values.T, strict=True) if not {0.0, 1.0} <= {*column}]
        if len(single) == len(self.outputs):
            raise InputError(f"{self.name}: no training sample differs from another in {', '.join(single)}")
        return notes + ([f"no training sample differs from another in {', '.join(single)}: nothing is learned of it"]
                        if single else [])

    def balance(self, rows: np.ndarray, power: float) -> None:
        pairs = [np.column_stack([values == 0, values == 1]) for values in self.values[rows].T]
        self.cell_weights = np.transpose([class_weights(pair, power) for pair in pairs])

    def encode(self, rows: np.ndarray) -> torch.Tensor:
        """(B, 2C) the weights of cells that are absent, then of those that are present."""
        values = self.values[rows]
        cells = [(values == side) * self.cell_weights[side] for side in (0, 1)]
        return torch.from_numpy(np.concatenate(cells, axis=1)).float()

    def total(self, rows: np.ndarray) -> float:
        return float(self.encode(rows).double().sum())

    def loss(self, logits: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        """Binary cross-entropy, the weighted mean over the cells that somebody labelled."""
        absent, present = encoded.chunk(2, 1)
        return -(absent * functional.logsigmoid(-logits) + present * functional.logsigmoid(logits)).sum()

    def score(self, rows: np.ndarray, logits: torch.Tensor) -> tuple[float, dict[str, float]]:
        """mean_ap: of the labels that are there and absent, average precision; macro_f1: of those, at one half."""
        values, logits = self.values[rows], logits.double()
        mask = ~np.isnan(values)
        loss = functional.binary_cross_entropy_with_logits(logits[mask], torch.from_numpy(values[mask]).double())
        precisions, f1 = [], []
        for truth, score, rated in zip(values.T, logits.numpy().T, mask.T, strict=True):
            truth, score = truth[rated] == 1, score[rated]
            if truth.any() and not truth.all():
                precisions.append(average_precision(truth, score))
                f1.append(2 * (truth & (score > 0)).sum() / (truth.sum() + (score > 0).sum()))
        return float(loss), {"mean_ap": float(np.mean(precisions or [0])), "macro_f1": float(np.mean(f1 or [0]))}


@dataclass(eq=False)
class Numbers(Target):
    """Numbers such as valence and arousal, of about one in size: in `values`, NaN where nobody said."""

    def check(self, train: np.ndarray, val: np.ndarray) -> list[str]:
        constant = [name for name, column in zip(self.outputs, self.values[train].T, strict=True)
                    if len({*column[~np.isnan(column)]}) < 2]
        if constant:
            raise InputError(f"{self.name}: {', '.join(constant)} is the same in all training samples: leave it out of "
                             "--labels")
        return super().check(train, val)

    def encode(self, rows: np.ndarray) -> torch.Tensor:
        """(B, 2C) numbers, 0 where there is none, then their weights, 1 or 0."""
        values = self.values[rows]
        return torch.from_numpy(np.concatenate([np.nan_to_num(values), ~np.isnan(values)], axis=1)).float()

    def loss(self, logits: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        """Mean squared error plus one minus Lin's concordance (1989), of each column, weighted by its samples. The
        concordance is that within a part of a batch, and left out where the part has one sample."""
        sums, weights = encoded.chunk(2, 1)
        count, truth = weights.sum(0), sums / weights.clamp_min(1e-9)
        weights = weights / count.clamp_min(1e-9)
        squared, concordance = moments(logits, truth, weights)
        return (count * (squared + torch.where(count > 1, 1 - concordance, 0))).sum()

    def score(self, rows: np.ndarray, logits: torch.Tensor) -> tuple[float, dict[str, float]]:
        """ccc: Lin's concordance, the mean over the columns; rmse: in the numbers' own unit, likewise."""
        values = torch.from_numpy(self.values[rows]).double()
        mask = ~values.isnan()
        weights = mask / mask.sum(0).clamp_min(1)
        squared, concordance = moments(logits.double(), values.nan_to_num(), weights)
        kept = mask.any(0)
        return float((squared + 1 - concordance)[kept].mean()), {
            "ccc": float(concordance[kept].mean()), "rmse": float(squared[kept].sqrt().mean())}


def moments(predicted: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(C,) mean squared error and Lin's concordance of (B, C) numbers, with weights that sum to one in each column."""
    means = [(weights * values).sum(0) for values in (predicted, truth)]
    x, y = predicted - means[0], truth - means[1]
    both = (weights * x * x).sum(0) + (weights * y * y).sum(0) + (means[0] - means[1]) ** 2
    return (weights * (predicted - truth) ** 2).sum(0), 2 * (weights * x * y).sum(0) / both.clamp_min(1e-8)


class Loss:
    """The loss of the outputs of all targets, side by side. widths: outputs of each target, in order."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self.targets, self.widths = targets, [len(target.outputs) for target in targets]

    def encode(self, rows: np.ndarray) -> list[torch.Tensor]:
        """Of each target, (B, E) what these rows of the manifest teach."""
        return [target.encode(rows) for target in self.targets]

    def totals(self, rows: np.ndarray) -> list[float]:
        """What the loss of a whole batch is the mean over, of each target."""
        return [target.total(rows) for target in self.targets]

    def __call__(self, logits: torch.Tensor, encoded: Sequence[torch.Tensor], totals: Sequence[float]) -> torch.Tensor:
        """The loss of a part of a batch: that of each target over its `totals`, weighted and summed."""
        loss = logits.new_zeros((), dtype=torch.float32)
        blocks = zip(self.targets, logits.float().split(self.widths, 1), encoded, totals, strict=True)
        for target, block, wanted, total in blocks:
            if total:
                loss = loss + target.weight * target.loss(block, wanted) / total
        return loss


# ------------------------------------------------------------------------------------------------- of a manifest
def make_targets(manifest: Manifest, settings: Settings) -> tuple[dict[str, Target], list[str]]:
    """What each sample of the manifest teaches about each target, and notes on it. Raises InputError."""
    targets: dict[str, Target] = {}
    notes: list[str] = []
    for name, taxonomy in settings.taxonomies.items():
        targets[name], note = _class_target(manifest, name, taxonomy, settings)
        notes += note
    if "distribution" in settings.task and all(target.task != "distribution" for target in targets.values()):
        raise InputError(f"task distribution: the manifest has no soft labels in columns {SOFT}<class> for all classes "
                         f"of {' or '.join(each.name for each in settings.taxonomies.values())}")
    further = [task for task in ("multilabel", "regression") if task in settings.task]
    for task in further:
        columns = tuple(name for name in settings.labels
                        if len(further) == 1 or name.startswith(UNIT) == (task == "multilabel"))
        columns = columns or target_columns(manifest, task)
        kind, read = (Labels, multilabel_targets) if task == "multilabel" else (Numbers, numeric_targets)
        targets[task] = kind(task, task, columns, read(manifest, columns), settings.weight_of(task))
    return targets, notes


def _class_target(manifest: Manifest, name: str, taxonomy: Taxonomy, settings: Settings) -> tuple[Classes, list[str]]:
    """The target, with soft labels where the task allows them and the manifest has those of all its classes."""
    table, classes = manifest.table, taxonomy.classes
    shares, notes = np.zeros((len(table), len(classes)), np.float32), []
    with_soft = "classification" not in settings.task and {f"{SOFT}{each}" for each in classes} <= set(table.columns)
    if with_soft:
        shares, votes = soft_targets(manifest, classes), manifest.soft_labels(classes)
        assert votes is not None
        if elsewhere := int((votes.any(axis=1) & ~shares.any(axis=1)).sum()):
            notes.append(f"{name}: {elsewhere:,} samples have more than half of their shares in none of "
                         f"{taxonomy.name}: they teach no soft label")
    if name not in table and not with_soft:
        raise InputError(f"the manifest has no column {name!r} of labels: it has {', '.join(table.columns)}")
    number = {label: place for place, label in enumerate(classes)}
    column = table[name] if name in table else [""] * len(table)
    labels = np.array([number.get(normalize_label(label), -1) for label in column], np.int64)
    soft, hard, most = shares.any(axis=1), labels >= 0, shares.max(axis=1)
    both = np.flatnonzero(soft & hard)
    differing = int((shares[both, labels[both]] < most[both]).sum())
    if settings.teach == "hard":
        soft = soft & ~hard
    if soft.any():
        clear = soft & ~hard & ((shares == most[:, None]).sum(axis=1) == 1)
        labels[clear] = shares[clear].argmax(axis=1)
        notes.append(f"{name}: task distribution, by the columns {SOFT}<class>: {int(soft.sum()):,} samples have soft "
                     f"labels that teach, {int((hard & ~soft).sum()):,} hard ones")
    if differing:
        other = "" if settings.teach == "hard" else "; --teach hard: the hard ones"
        notes.append(f"{name}: {differing:,} of {len(both):,} samples with both have a hard label that is not their "
                     f"largest share: the {settings.teach} labels teach{other}")
    one_hot = np.flatnonzero(hard & ~soft)
    shares[~soft] = 0
    shares[one_hot, labels[one_hot]] = 1
    basic_weight = settings.basic_weight if settings.target == "both" and name == "basic" else 1.0
    task = "distribution" if with_soft and (soft.any() or "distribution" in settings.task) else "classification"
    return Classes(name, task, classes, shares, basic_weight * settings.weight_of(task), soft=np.asarray(soft),
                   labels=labels, smoothing=settings.label_smoothing), notes


# ------------------------------------------------------------------------------------------------------- balance
def class_weights(shares: np.ndarray, power: float) -> np.ndarray:
    """(C,) inverse frequency in (n, C) shares to a power, so scaled that the mean over the samples is 1; 1 for classes
    without any."""
    counts = shares.sum(axis=0, dtype=float)
    weights = np.where(counts > 0, np.maximum(counts, 1) ** -power, 0)
    weights = weights * counts.sum() / max((weights * counts).sum(), 1e-12)
    return np.where(counts > 0, weights, 1.0)


def sampling_weights(targets: Mapping[str, Target], rows: np.ndarray, power: float) -> np.ndarray | None:
    """(n,) the probability of drawing each of these rows: the inverse frequency of its class to a power; None for
    power 0. Where a sample has labels of several targets, the last counts."""
    if not power:
        return None
    weights = np.ones(len(rows))
    for target in targets.values():
        if not isinstance(target, Classes):
            continue
        shares = target.values[rows]
        weights = np.where(shares.any(axis=1), shares @ class_weights(shares, power), weights)
    return weights / weights.sum()


def accuracy_and_f1(truth: np.ndarray, predicted: np.ndarray, classes: int) -> tuple[float, float]:
    """Of (N,) class numbers; the latter is the unweighted mean F1 of all classes.

    A class without samples, or without any right prediction, counts 0.
    """
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (truth, predicted), 1)
    hits, samples, predictions = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    f1 = 2 * hits / np.maximum(samples + predictions, 1)
    return float(hits.sum() / max(len(truth), 1)), float(f1.mean())


def average_precision(truth: np.ndarray, score: np.ndarray) -> float:
    """The area under precision over recall, as steps, of (n,) bool by (n,) scores; equal scores are one step."""
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    hits = np.cumsum(truth[order])[ends]
    return float((np.diff(hits, prepend=0) / truth.sum() * hits / (ends + 1)).sum())
