"""The loss, its class weights, the learning rate and the optimiser: what a step of the training minimises, and how."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from timm import optim as timm_optim
from torch import nn, optim

from twofold.extract.finetune.model import Classifier
from twofold.extract.finetune.settings import Settings


@dataclass(frozen=True, eq=False)
class Loss:
    """Weighted cross-entropy of the logits of all targets, side by side. widths: classes of each target, in order.

    class_weights: (C,) of all classes; target_weights: of each target.
    """

    widths: tuple[int, ...]
    class_weights: torch.Tensor
    target_weights: tuple[float, ...]
    smoothing: float

    def encode(self, labels: Sequence[np.ndarray]) -> torch.Tensor:
        """(B, C) one-hot rows of labels (B,) of each target, smoothed; zeros where a sample has no label (-1).

        Class weights are in them: a row sums to the weight of its class.
        """
        blocks = []
        for label, width, weights in zip(labels, self.widths, self.class_weights.split(self.widths), strict=True):
            number = torch.from_numpy(label)
            one_hot = nn.functional.one_hot(number.clamp_min(0), width).float()
            smooth = one_hot * (1 - self.smoothing) + self.smoothing / width
            blocks.append(smooth * (weights[number.clamp_min(0)] * (number >= 0))[:, None])
        return torch.cat(blocks, 1)

    def totals(self, labels: Sequence[np.ndarray]) -> list[float]:
        """The sum of the class weights of a whole batch, of each target: what its loss is the mean over."""
        return [float(weights[torch.from_numpy(label[label >= 0])].sum())
                for label, weights in zip(labels, self.class_weights.split(self.widths), strict=True)]

    def __call__(self, logits: torch.Tensor, encoded: torch.Tensor, totals: Sequence[float]) -> torch.Tensor:
        """The loss of a part of a batch: weighted cross-entropy of each target over `totals`, summed.

        Of a whole batch with weights w it is torch's cross_entropy(weight=w), but smoothing stays within the class
        weight.
        """
        loss = logits.new_zeros(())
        blocks = zip(logits.float().split(self.widths, 1), encoded.split(self.widths, 1), self.target_weights, totals,
                     strict=True)
        for block, wanted, weight, total in blocks:
            if total:
                loss = loss - weight * (wanted * block.log_softmax(1)).sum() / total
        return loss


def make_loss(settings: Settings, labels: Sequence[np.ndarray]) -> Loss:
    """labels: of each target, those of the training samples."""
    widths = tuple(len(names.classes) for names in settings.taxonomies.values())
    weights = [class_weights(label, width, settings.class_weights) for label, width in zip(labels, widths, strict=True)]
    by_target = tuple(settings.basic_weight if settings.target == "both" and target == "basic" else 1.0
                      for target in settings.targets)
    return Loss(widths, torch.from_numpy(np.concatenate(weights)).float(), by_target, settings.label_smoothing)


def class_weights(labels: np.ndarray, classes: int, power: float) -> np.ndarray:
    """(C,) inverse frequency to a power, so scaled that the mean over the samples is 1; 1 for classes without any."""
    counts = np.bincount(labels[labels >= 0], minlength=classes).astype(float)
    weights = np.where(counts > 0, np.maximum(counts, 1) ** -power, 0)
    weights = weights * counts.sum() / max((weights * counts).sum(), 1e-12)
    return np.where(counts > 0, weights, 1.0)


def sampling_weights(labels: Sequence[np.ndarray], power: float) -> np.ndarray | None:
    """(n,) the probability of drawing each sample: the inverse frequency of its class to a power; None for power 0.

    labels: (n,) of each target; where a sample has several, the last counts.
    """
    if not power:
        return None
    weights = np.ones(len(labels[0]))
    for label in labels:
        by_class = class_weights(label, label.max() + 1, power)
        weights = np.where(label >= 0, by_class[label], weights)
    return weights / weights.sum()


def learning_rate(settings: Settings, epoch: float, scores: Sequence[float]) -> float:
    """The learning rate at a moment, before layer decay: a pure function, so that a resumed training goes on alike.

    epoch: epochs done, with their fraction; scores: validation score after each whole epoch so far.
    Warm-up is linear from 0; cosine is min + (lr - min) (1 + cos(pi t)) / 2, t being the fraction done of what follows
    warm-up (as MAE's fine-tuning does it, arXiv 2111.06377, table 9). Where `lr_batch` is given the rate is scaled
    linearly with the batch. (timm's schedulers would do, but for plateau, whose state its checkpoints lose.)
    """
    full = settings.lr * settings.batch_size / settings.lr_batch if settings.lr_batch else settings.lr
    if epoch < settings.warmup:
        return full * epoch / settings.warmup
    if settings.schedule == "cosine":
        done = (epoch - settings.warmup) / max(settings.epochs - settings.warmup, 1e-9)
        return settings.min_lr + (full - settings.min_lr) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    if settings.schedule == "step":
        return full * settings.lr_factor ** (int(epoch) // settings.step_epochs)
    if settings.schedule == "plateau":
        return max(settings.min_lr, full * settings.lr_factor ** _plateaus(scores, settings.patience))
    return full


def _plateaus(scores: Sequence[float], patience: int) -> int:
    """How often the best score has stood for more than `patience` epochs."""
    best, waited, plateaus = -math.inf, 0, 0
    for score in scores:
        best, waited = (score, 0) if score > best else (best, waited + 1)
        if waited > patience:
            plateaus, waited = plateaus + 1, 0
    return plateaus


def build_optimizer(model: Classifier, settings: Settings) -> optim.Optimizer:
    """timm's Adam or AdamW over what is trained; each group has `lr_scale`, its factor of the rate."""
    skipped = model.no_weight_decay()
    if settings.layer_decay == 1.0:
        groups = timm_optim.param_groups_weight_decay(  # pyright: ignore[reportPrivateImportUsage]
            model, settings.weight_decay, no_weight_decay_list=skipped)
    else:
        groups = timm_optim.param_groups_layer_decay(  # pyright: ignore[reportPrivateImportUsage]
            model, settings.weight_decay, no_weight_decay_list=skipped, layer_decay=settings.layer_decay)
    return timm_optim.create_optimizer_v2(  # pyright: ignore[reportPrivateImportUsage]
        groups, opt=settings.optimizer, lr=settings.lr, weight_decay=0.0)


def set_learning_rate(optimizer: optim.Optimizer, rate: float) -> None:
    """Give each group its factor of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
