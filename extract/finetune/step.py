"""One step: forward, loss and backward over the parts of a batch, whose sum is the gradient of the whole."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from twofold.extract.devices import PRECISIONS
from twofold.extract.encoders.preprocessing import Preprocessing
from twofold.extract.finetune.augment import erased, jittered, mixed, moved
from twofold.extract.finetune.settings import Settings


@dataclass(frozen=True, eq=False)
class Targets:
    """What the logits of all targets side by side are taught. widths: classes of each target, in order.

    weights: (C,) of each class in the loss; scale: of each target's loss.
    """

    widths: tuple[int, ...]
    weights: torch.Tensor
    scale: tuple[float, ...]
    smoothing: float

    def of(self, labels: Sequence[np.ndarray]) -> torch.Tensor:
        """(B, C) one-hot rows of labels (B,) of each target, smoothed; zeros where a face has no label (-1).

        Class weights are in them: a row sums to the weight of its class.
        """
        blocks = []
        for label, width, weights in zip(labels, self.widths, self.weights.split(self.widths), strict=True):
            number = torch.from_numpy(label)
            one_hot = nn.functional.one_hot(number.clamp_min(0), width).float()
            smooth = one_hot * (1 - self.smoothing) + self.smoothing / width
            blocks.append(smooth * (weights[number.clamp_min(0)] * (number >= 0))[:, None])
        return torch.cat(blocks, 1)

    def totals(self, labels: Sequence[np.ndarray]) -> list[float]:
        """The sum of the weights of a whole batch, of each target: what its loss is the mean over."""
        return [float(weights[torch.from_numpy(label[label >= 0])].sum())
                for label, weights in zip(labels, self.weights.split(self.widths), strict=True)]


def loss_of(logits: torch.Tensor, targets: torch.Tensor, how: Targets, totals: Sequence[float]) -> torch.Tensor:
    """A part's share of the loss of its batch: weighted cross-entropy of each target over `totals`, summed.

    Without parts and with weights w it is torch's cross_entropy(weight=w), but smoothing stays within the class weight.
    """
    loss = logits.new_zeros(())
    blocks = zip(logits.float().split(how.widths, 1), targets.split(how.widths, 1), how.scale, totals, strict=True)
    for part, wanted, scale, total in blocks:
        if total:
            loss = loss - scale * (wanted * part.log_softmax(1)).sum() / total
    return loss


def normalised(pictures: torch.Tensor, how: Preprocessing) -> torch.Tensor:
    """(B, 3, S, S) pixels in 0..255 as the network sees them."""
    mean, std = (torch.tensor(values, device=pictures.device)[:, None, None] for values in (how.mean, how.std))
    return (pictures * how.scale - mean) / std


def prepared(pictures: torch.Tensor, targets: torch.Tensor, settings: Settings, how: Preprocessing,
             device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, S, S, 3) uint8 pictures, changed at random and normalised: (B, 3, S, S) channels-last; and their targets."""
    pixels = pictures.to(device, non_blocking=True).permute(0, 3, 1, 2).float()
    pixels = normalised(jittered(moved(pixels, settings), settings), how)
    pixels, targets = mixed(erased(pixels, settings), targets.to(device), settings)
    return pixels.contiguous(memory_format=torch.channels_last), targets


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The arithmetic of the forward pass."""
    return torch.autocast(device.type, dtype=PRECISIONS[precision], enabled=precision != "fp32")


def class_weights(labels: np.ndarray, classes: int, power: float) -> np.ndarray:
    """(C,) inverse frequency to a power, so scaled that the mean over the faces is 1; 1 for classes without faces."""
    counts = np.bincount(labels[labels >= 0], minlength=classes).astype(float)
    weights = np.where(counts > 0, np.maximum(counts, 1) ** -power, 0)
    weights = weights * counts.sum() / max((weights * counts).sum(), 1e-12)
    return np.where(counts > 0, weights, 1.0)
