"""What is learned: the labels of each target as numbers, the loss towards them, and the scores on validation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional

from twofold.data.labels import Taxonomy, label_column, normalize_label
from twofold.data.manifest import SOFT, Manifest
from twofold.data.utils.errors import InputError
from twofold.extract.finetune.settings import Settings


@dataclass(eq=False)
class Target:
    """Classes that one linear classifier learns, and what each of the N samples of a manifest teaches about them.

    shares: (N, C) float32: one-hot for a hard label, the annotators' shares for a soft one, zeros for none; soft: (N,)
    bool, which are soft; labels: (N,) the hard class of each sample, or its largest share where there is only one such,
    else -1; weight: of its loss; smoothing: of hard labels.
    """

    name: str
    task: str
    outputs: tuple[str, ...]
    shares: np.ndarray
    soft: np.ndarray
    labels: np.ndarray
    weight: float = 1.0
    smoothing: float = 0.0
    class_weights: torch.Tensor = field(init=False)  #: (C,)

    def __post_init__(self) -> None:
        self.class_weights = torch.ones(len(self.outputs))

    @property
    def known(self) -> np.ndarray:
        """(N,) bool: which samples teach something."""
        return self.shares.any(axis=1)

    def balance(self, rows: np.ndarray, power: float) -> None:
        """Weigh classes by their inverse frequency in these rows to a power."""
        self.class_weights = torch.from_numpy(class_weights(self.shares[rows], power)).float()

    def encode(self, rows: np.ndarray) -> torch.Tensor:
        """(B, C) what a batch teaches: shares, smoothed where they are of a hard label, times their class weight."""
        shares, soft = torch.from_numpy(self.shares[rows]), torch.from_numpy(self.soft[rows])[:, None]
        smooth = torch.where(soft, shares, shares * (1 - self.smoothing) + self.smoothing / shares.shape[1])
        return smooth * (shares * self.class_weights).sum(1, keepdim=True)

    def total(self, rows: np.ndarray) -> float:
        """The sum of the class weights of a whole batch: what its loss is the mean over."""
        rows = rows[self.known[rows]]
        return float((torch.from_numpy(self.shares[rows]) * self.class_weights).sum(1).sum())

    def loss(self, logits: torch.Tensor, encoded: torch.Tensor, total: float) -> torch.Tensor:
        """Weighted cross-entropy of a part of a batch over its `total`; of a soft label it is the Kullback-Leibler
        divergence but for the label's own entropy, which no gradient sees.

        Of hard labels with weights w it is torch's cross_entropy(weight=w), but smoothing stays within the class
        weight.
        """
        return -self.weight * (encoded * logits.log_softmax(1)).sum() / total

    def score(self, rows: np.ndarray, logits: torch.Tensor) -> tuple[float, dict[str, float]]:
        """Of validation samples the loss, not smoothed nor weighted, and the scores; the first is what the epoch is
        chosen by. intersection: mean over samples of the sum of min(share, probability); kl: of the labels from the
        predictions, in nats."""
        known = self.known[rows]
        rows, logits = rows[known], logits[torch.from_numpy(known)]
        labels, shares = self.labels[rows], torch.from_numpy(self.shares[rows])
        accuracy, macro_f1 = accuracy_and_f1(labels[labels >= 0], logits.argmax(1).numpy()[labels >= 0], len(shares.T))
        scores = {"macro_f1": macro_f1, "accuracy": accuracy}
        if self.task == "classification":
            return float(functional.cross_entropy(logits, torch.from_numpy(labels))), scores
        loss = float(functional.cross_entropy(logits, shares))
        common = torch.minimum(shares, logits.softmax(1)).sum(1).mean()
        entropy = -torch.special.xlogy(shares, shares).sum(1).mean()
        return loss, {"intersection": float(common), "kl": loss + float(-entropy)} | scores


class Loss:
    """The loss of the logits of all targets, side by side. widths: outputs of each target, in order."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self.targets, self.widths = targets, [len(target.outputs) for target in targets]

    def encode(self, rows: np.ndarray) -> torch.Tensor:
        """(B, C) of these rows of the manifest; zeros where a sample has no label."""
        return torch.cat([target.encode(rows) for target in self.targets], 1)

    def totals(self, rows: np.ndarray) -> list[float]:
        """What the loss of a whole batch is the mean over, of each target."""
        return [target.total(rows) for target in self.targets]

    def __call__(self, logits: torch.Tensor, encoded: torch.Tensor, totals: Sequence[float]) -> torch.Tensor:
        """The loss of a part of a batch: that of each target over its `totals`, summed."""
        loss = logits.new_zeros((), dtype=torch.float32)
        blocks = zip(self.targets, logits.float().split(self.widths, 1), encoded.split(self.widths, 1), totals,
                     strict=True)
        for target, block, wanted, total in blocks:
            if total:
                loss = loss + target.loss(block, wanted, total)
        return loss


# ------------------------------------------------------------------------------------------------- of a manifest
def make_targets(manifest: Manifest, settings: Settings) -> tuple[dict[str, Target], list[str]]:
    """What each sample of the manifest teaches about each target, and notes on it. Raises InputError."""
    targets, notes = {}, []
    for name, taxonomy in settings.taxonomies.items():
        targets[name], note = _class_target(manifest, name, taxonomy, settings)
        notes += note
    if settings.task == "distribution" and all(target.task != "distribution" for target in targets.values()):
        raise InputError(f"task distribution: the manifest has no soft labels in columns {SOFT}<class> for all classes "
                         f"of {' or '.join(each.name for each in settings.taxonomies.values())}")
    return targets, notes


def _class_target(manifest: Manifest, name: str, taxonomy: Taxonomy, settings: Settings) -> tuple[Target, list[str]]:
    """The target, with soft labels where the task allows them and the manifest has those of all its classes."""
    table, classes = manifest.table, taxonomy.classes
    shares, notes = np.zeros((len(table), len(classes)), np.float32), []
    with_soft = settings.task != "classification" and {f"{SOFT}{each}" for each in classes} <= set(table.columns)
    if with_soft:
        others = [each for each in manifest.soft_classes
                  if each not in classes and (label_column(each) or "basic") == name]
        votes = manifest.soft_labels([*classes, *others])
        assert votes is not None
        part = votes[:, :len(classes)].sum(axis=1, keepdims=True)
        shares = np.where(part >= 0.5, votes[:, :len(classes)] / np.maximum(part, 0.5), 0).astype(np.float32)
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
    taught = np.flatnonzero(hard & ~soft)
    shares[~soft] = 0
    shares[taught, labels[taught]] = 1
    weight = settings.basic_weight if settings.target == "both" and name == "basic" else 1.0
    task = "distribution" if with_soft and (soft.any() or settings.task) else "classification"
    return Target(name, task, classes, shares, soft, labels, weight, settings.label_smoothing), notes


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
        shares = target.shares[rows]
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
