"""Compound scores from basic probabilities, without any compound label."""

from collections.abc import Sequence

import numpy as np
import torch

from twofold.data.labels import BASIC

THRESHOLD = 1 / 7  #: AVCER zeroes basic probabilities up to chance level of its seven basics
#: AVCER's weights d: how many facial regions take part in a basic emotion (arXiv 2403.12687)
REGIONS = {"anger": 5, "disgust": 6, "fear": 5, "happiness": 6, "sadness": 4, "surprise": 2}


def membership(parts: Sequence[Sequence[str]]) -> np.ndarray:
    """(8, C) 1 where a basic emotion is one of the parts of a class: both of a compound's pair, the one of a basic."""
    out = np.zeros((len(BASIC), len(parts)), np.float32)
    for column, basics in enumerate(parts):
        out[[BASIC.index(basic) for basic in basics], column] = 1
    return out


def pair_scores(basic: torch.Tensor, pairs: Sequence[Sequence[str]], *, rule: str) -> torch.Tensor:
    """(..., C) scores, not normalised, of basic probabilities (..., 8) in BASIC's order; pairs: of each class.

    threshold: zero what is <= 1/7, then sum the pair, and where nothing is left of any pair, take the plain sums;
    weighted: sum weighted by d_i / (d_i + d_j) (both AVCER, arXiv 2403.12687; where d is not published, neutral and
    contempt, the mean d of 4.67 stands in).
    mean, geometric, harmonic: that mean of the pair (arXiv 2407.13184).
    """
    first, second = (torch.tensor([BASIC.index(basics[side]) for basics in pairs], device=basic.device)
                     for side in (0, 1))
    a, b = basic[..., first], basic[..., second]
    if rule == "threshold":
        scores = a * (a > THRESHOLD) + b * (b > THRESHOLD)
        return torch.where(scores.sum(dim=-1, keepdim=True) > 0, scores, a + b)
    if rule == "weighted":
        mean = sum(REGIONS.values()) / len(REGIONS)
        d = torch.tensor([REGIONS.get(name, mean) for name in BASIC], device=basic.device)
        return (a * d[first] + b * d[second]) / (d[first] + d[second])
    if rule == "mean":
        return (a + b) / 2
    if rule == "geometric":
        return (a * b).sqrt()
    return 2 * a * b / (a + b).clamp_min(1e-12)
