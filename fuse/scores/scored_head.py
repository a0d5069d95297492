"""A head with what it says of the test faces, and its figures with their uncertainty."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twofold.fuse.scores import metrics
from twofold.fuse.scores.metrics import Scores, scores
from twofold.fuse.scores.statistics import Comparison, bootstrap, compare, interval


@dataclass(frozen=True, kw_only=True)
class ScoredHead:
    """A head's predictions for n test faces, all folds together. members: (M, n, C) probabilities of each seed.

    Each seed is a member; the head's own call is their mean, as `predict` makes it. calibrated: (n, C), that mean
    under the temperature fitted on validation. shares: of each stream in the decision, of heads that weigh them.
    """

    name: str
    backbones: tuple[str, ...]
    head: str
    dim: int
    untrained: bool
    rows: np.ndarray
    truth: np.ndarray
    groups: np.ndarray
    members: np.ndarray
    calibrated: np.ndarray
    temperature: float
    val_macro_f1: float
    shares: dict[str, float] | None
    seconds: float

    @property
    def mean(self) -> np.ndarray:
        """(n, C) mean probabilities over the seeds."""
        return self.members.mean(axis=0)

    @property
    def prediction(self) -> np.ndarray:
        """(n,) class numbers."""
        return self.mean.argmax(axis=1)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What there is to say about a head. Intervals are 95 %, by bootstrap of groups."""

    head: ScoredHead
    scores: Scores
    accuracy_interval: tuple[float, float]
    macro_f1_interval: tuple[float, float]
    seeds_macro_f1: tuple[float, ...]  #: of each seed by itself
    seeds_accuracy: tuple[float, ...]
    ece: float
    ece_calibrated: float

    def record(self, classes: Sequence[str]) -> dict:
        """As metrics.json holds it; nan (a class without faces) becomes None."""
        head, table = self.head, self.scores
        per_class = {name: {"n": int(table.n[c])} | {kind: _plain(getattr(table, kind)[c])
                                                     for kind in ("precision", "recall", "f1")}
                     for c, name in enumerate(classes)}
        return {
            "name": head.name, "backbones": list(head.backbones), "head": head.head, "dim": head.dim,
            "untrained": head.untrained, "n": len(head.truth), "accuracy": table.accuracy,
            "accuracy_interval": self.accuracy_interval, "macro_f1": table.macro_f1,
            "macro_f1_interval": self.macro_f1_interval, "macro_f1_of_classes_with_faces": table.macro_f1_present,
            "uar": table.uar, "per_class": per_class,
            "confusion": table.confusion.tolist(), "seeds_macro_f1": self.seeds_macro_f1,
            "seeds_accuracy": self.seeds_accuracy, "val_macro_f1": _plain(head.val_macro_f1), "ece": self.ece,
            "ece_calibrated": self.ece_calibrated, "temperature": head.temperature, "contributions": head.shares,
            "seconds": head.seconds,
        }


def figures(head: ScoredHead, *, classes: int, seed: int) -> Figures:
    """All figures of a scored head."""
    accuracy, macro_f1 = (
        interval(bootstrap(metric, head.truth, [head.prediction], head.groups, classes=classes, seed=seed)[0])
        for metric in (metrics.accuracy, metrics.macro_f1))
    seeds = [scores(head.truth, member.argmax(axis=1), classes) for member in head.members]
    return Figures(
        head=head, scores=scores(head.truth, head.prediction, classes), accuracy_interval=accuracy,
        macro_f1_interval=macro_f1, seeds_macro_f1=tuple(seed.macro_f1 for seed in seeds),
        seeds_accuracy=tuple(seed.accuracy for seed in seeds), ece=metrics.calibration_error(head.mean, head.truth),
        ece_calibrated=metrics.calibration_error(head.calibrated, head.truth))


def against(a: ScoredHead, b: ScoredHead, *, classes: int, seed: int) -> Comparison:
    """Head a against b in macro-F1, on the same test faces in the same order."""
    return compare(a.truth, a.prediction, b.prediction, a.groups, metric=metrics.macro_f1, classes=classes, seed=seed)


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
