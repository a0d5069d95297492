"""Late fusion: the single heads' probabilities averaged, with weights found on validation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from twofold.fuse.features import FusedFeatures
from twofold.fuse.heads.registry import Classifier
from twofold.fuse.partition import Partition
from twofold.fuse.scores import metrics
from twofold.fuse.settings import Settings
from twofold.fuse.training.loop import Epoch

if TYPE_CHECKING:
    from twofold.fuse.training.fit import Fitted

DRAWS = 2000


def fill_late(
    head: Classifier, settings: Settings, features: FusedFeatures, partition: Partition, singles: Sequence["Fitted"],
) -> list[Epoch]:
    """Put trained single heads into a Late classifier and find its weights by settings.late."""
    from twofold.fuse.training.fit import probabilities

    state = {}
    for k, single in enumerate(singles):
        state |= {f"body.single.{k}.{name.removeprefix('body.')}": values
                  for name, values in single.head.state_dict().items() if name.startswith("body.")}
    for name in ("mean", "std"):
        state[name] = torch.cat([getattr(single.head, name) for single in singles], dim=-1)
    found = np.stack([probabilities(single.head, features, partition.val, single.streams) for single in singles])
    truth = features.label[partition.val]
    weights = np.stack([find_weights(found[:, m], truth, how=settings.late, seed=settings.seed)
                        for m in range(found.shape[1])])
    state["body.weights"] = torch.from_numpy(weights.astype(np.float32))
    head.load_state_dict(state)
    return [line for single in singles for line in single.history]


def find_weights(found: np.ndarray, truth: np.ndarray, *, how: str, seed: int, draws: int = DRAWS) -> np.ndarray:
    """(K, C) weights, summing to one over K, of K heads' probabilities (K, N, C) for the truth (N,).

    mean: all alike. weighted: one weight a head, the draw with the best macro-F1. per-class: the weights of each class
    drawn by themselves, the draw with the best mean recall (AVCER, arXiv 2403.12687). Draws are Dirichlet(1); all
    alike is tried first and kept unless beaten.
    """
    heads, _, classes = found.shape
    alike = np.full((heads, classes), 1 / heads)
    if how == "mean" or heads == 1:
        return alike
    generator = np.random.default_rng((seed, 3))
    metric = metrics.uar if how == "per-class" else metrics.macro_f1
    best, best_score = alike, _score(metric, alike, found, truth)
    for _ in range(draws):
        drawn = generator.dirichlet(np.ones(heads), classes if how == "per-class" else 1).T
        weights = np.broadcast_to(drawn, (heads, classes))
        score = _score(metric, weights, found, truth)
        if score > best_score:
            best, best_score = weights, score
    return best


def _score(metric, weights: np.ndarray, found: np.ndarray, truth: np.ndarray) -> float:
    called = np.einsum("kc,knc->nc", weights, found).argmax(axis=1)
    return float(metric(metrics.confusion_matrix(truth, called, found.shape[2])))
