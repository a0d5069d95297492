"""A head with what it says of the test faces, and its figures with their uncertainty."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twofold.fuse.metrics import scores as metrics
from twofold.fuse.metrics.scores import Reliability, Scores, scores
from twofold.fuse.metrics.statistics import ACCURACY, MACRO_F1, Comparison, Interval, compare, interval


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
    folds: int = 1  #: whose heads all score each face; 1 where a face is scored by its own fold's alone

    @property
    def ensemble(self) -> str:
        """Of what the head's own call is the mean, in words."""
        seeds = self.members.shape[0] // self.folds
        each = "1 seed" if seeds == 1 else f"{seeds} seeds"
        if self.folds > 1:
            return f"ensemble of {self.folds} folds x {each}"
        return "one seed" if seeds == 1 else f"ensemble of {each}"

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
    """What there is to say about a head: of the mean of its members, unless the name says `seeds`.

    Intervals are 95 %, by bootstrap of groups; None where they cannot be had (see `statistics.interval`).
    """

    head: ScoredHead
    scores: Scores
    groups: int  #: of the faces scored
    accuracy_interval: Interval | None
    macro_f1_interval: Interval | None
    seeds_macro_f1: tuple[float, ...]  #: of each seed by itself
    seeds_accuracy: tuple[float, ...]
    reliability: Reliability  #: of the probabilities that `predict` gives, under the temperature
    raw_reliability: Reliability  #: before the temperature

    def record(self, classes: Sequence[str]) -> dict:
        """As metrics.json holds it; nan (a class without faces) becomes None."""
        head, table = self.head, self.scores
        per_class = {name: {"n": int(table.n[c])} | {kind: _plain(getattr(table, kind)[c])
                                                     for kind in ("precision", "recall", "f1")}
                     for c, name in enumerate(classes)}
        return {
            "name": head.name, "backbones": list(head.backbones), "head": head.head, "dim": head.dim,
            "untrained": head.untrained, "n": len(head.truth), "groups": self.groups, "figures_of": head.ensemble,
            "accuracy": table.accuracy, "accuracy_interval": self.accuracy_interval, "macro_f1": table.macro_f1,
            "macro_f1_interval": self.macro_f1_interval, "macro_f1_of_classes_with_faces": table.macro_f1_present,
            "uar": table.uar, "per_class": per_class, "confusion": table.confusion.tolist(),
            "seeds_macro_f1": self.seeds_macro_f1, "seeds_accuracy": self.seeds_accuracy,
            "val_macro_f1": _plain(head.val_macro_f1), "calibration_error": self.reliability.error,
            "calibration_error_before_temperature": self.raw_reliability.error, "temperature": head.temperature,
            "reliability": self.reliability.record(),
            "reliability_before_temperature": self.raw_reliability.record(),
            "contributions": head.shares, "seconds": head.seconds,
        }


def figures(head: ScoredHead, *, classes: int, seed: int) -> Figures:
    """All figures of a scored head."""
    accuracy, macro_f1 = (interval(metric, head.truth, head.prediction, head.groups, classes=classes, seed=seed)
                          for metric in (ACCURACY, MACRO_F1))
    seeds = [scores(head.truth, member.argmax(axis=1), classes) for member in head.members]
    return Figures(
        head=head, scores=scores(head.truth, head.prediction, classes), groups=len(np.unique(head.groups.astype(str))),
        accuracy_interval=accuracy, macro_f1_interval=macro_f1,
        seeds_macro_f1=tuple(seed.macro_f1 for seed in seeds), seeds_accuracy=tuple(seed.accuracy for seed in seeds),
        reliability=metrics.reliability(head.calibrated, head.truth),
        raw_reliability=metrics.reliability(head.mean, head.truth))


def against(a: ScoredHead, b: ScoredHead, *, classes: int, seed: int) -> Comparison:
    """Head a against b in macro-F1, on the same test faces in the same order."""
    return compare(a.truth, a.prediction, b.prediction, a.groups, classes=classes, seed=seed)


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
