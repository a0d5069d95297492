"""Late fusion: the single heads' probabilities averaged, with weights found on validation."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from twofold.fuse.heads.registry import StandardisedHead
from twofold.fuse.scores import metrics

DRAWS = 2000


def fill_late(
    head: StandardisedHead, singles: Sequence[StandardisedHead], val: np.ndarray, truth: np.ndarray, *, how: str,
    seed: int,
) -> None:
    """Put trained single heads into a Late head and find its weights by `how`.

    val: (K, M, n, C) what the singles say of the validation faces, whose classes are `truth` (n,).
    """
    state = {}
    for k, single in enumerate(singles):
        state |= {f"body.single.{k}.{name.removeprefix('body.')}": values
                  for name, values in single.state_dict().items() if name.startswith("body.")}
    for name in ("mean", "std"):
        state[name] = torch.cat([single.state_dict()[name] for single in singles], dim=-1)
    weights = np.stack([find_weights(val[:, member], truth, how=how, seed=seed) for member in range(val.shape[1])])
    state["body.weights"] = torch.from_numpy(weights.astype(np.float32))
    head.load_state_dict(state)


def find_weights(probabilities: np.ndarray, truth: np.ndarray, *, how: str, seed: int, draws: int = DRAWS
                 ) -> np.ndarray:
    """(K, C) weights, summing to one over K, of K heads' probabilities (K, N, C) for the truth (N,).

    mean: all alike. weighted: one weight a head, the draw with the best macro-F1. per-class: the weights of each class
    drawn by themselves, the draw with the best mean recall (AVCER, arXiv 2403.12687). Draws are Dirichlet(1); all
    alike is tried first and kept unless beaten.
    """
    heads, _, classes = probabilities.shape
    alike = np.full((heads, classes), 1 / heads)
    if how == "mean" or heads == 1:
        return alike
    generator = np.random.default_rng((seed, 3))
    metric = metrics.uar if how == "per-class" else metrics.macro_f1
    best, best_score = alike, _score(metric, alike, probabilities, truth)
    for _ in range(draws):
        drawn = generator.dirichlet(np.ones(heads), classes if how == "per-class" else 1).T
        weights = np.broadcast_to(drawn, (heads, classes))
        score = _score(metric, weights, probabilities, truth)
        if score > best_score:
            best, best_score = weights, score
    return best


def _score(metric: Callable[[np.ndarray], np.ndarray], weights: np.ndarray, probabilities: np.ndarray,
           truth: np.ndarray) -> float:
    prediction = np.einsum("kc,knc->nc", weights, probabilities).argmax(axis=1)
    return float(metric(metrics.confusion_matrix(truth, prediction, probabilities.shape[2])))
