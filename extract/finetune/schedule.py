"""The learning rate as a pure function of where a training is, so that a resumed one goes on as it would have.

(timm's schedulers would do, but for plateau, whose state its checkpoints lose.)
"""

import math
from collections.abc import Sequence

from twofold.extract.finetune.settings import Settings


def base_rate(settings: Settings) -> float:
    """The rate after warm-up: scaled linearly with the batch where it is meant for one of `lr_batch` faces."""
    return settings.lr * settings.batch_size / settings.lr_batch if settings.lr_batch else settings.lr


def rate(settings: Settings, epoch: float, scores: Sequence[float]) -> float:
    """The learning rate at a moment, before layer decay.

    epoch: epochs done, with their fraction; scores: validation score after each whole epoch so far.
    Warm-up is linear from 0; cosine is min + (lr - min) (1 + cos(pi t)) / 2, t being the share done of what follows
    warm-up (as MAE's fine-tuning does it, arXiv 2111.06377, table 9).
    """
    full = base_rate(settings)
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
