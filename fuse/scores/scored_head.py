"""A system is a head on a subset of the streams; here its predictions become figures with their uncertainty."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twofold.fuse.features import FusedFeatures
from twofold.fuse.partition import Partition
from twofold.fuse.scores import metrics
from twofold.fuse.scores.metrics import Scores, scores
from twofold.fuse.scores.statistics import Comparison, bootstrap, compare, interval
from twofold.fuse.training.fit import Fitted, contributions, probabilities


@dataclass(frozen=True)
class System:
    """Predictions for n test faces, all folds together. members: (M, n, C) probabilities of each seed.

    Each seed is a member; the system's own call is their mean, as `predict` makes it. calibrated: (n, C), that mean
    under the temperature fitted on validation.
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
    gates: dict[str, float] | None
    seconds: float

    @property
    def mean(self) -> np.ndarray:
        """(n, C) mean probabilities over the seeds."""
        return self.members.mean(axis=0)

    @property
    def prediction(self) -> np.ndarray:
        """(n,) class numbers."""
        return self.mean.argmax(axis=1)


@dataclass(frozen=True)
class Figures:
    """What there is to say about a system. Intervals are 95 %, by bootstrap of groups."""

    system: System
    scores: Scores
    accuracy_interval: tuple[float, float]
    macro_f1_interval: tuple[float, float]
    seeds_macro_f1: tuple[float, ...]  #: of each seed by itself
    seeds_accuracy: tuple[float, ...]
    ece: float
    ece_calibrated: float

    def record(self, classes: Sequence[str]) -> dict:
        """As metrics.json holds it; nan (a class without faces) becomes None."""
        made, found = self.system, self.scores
        per_class = {name: {"n": int(found.n[c])} | {kind: _plain(getattr(found, kind)[c])
                                                     for kind in ("precision", "recall", "f1")}
                     for c, name in enumerate(classes)}
        return {
            "name": made.name, "backbones": list(made.backbones), "head": made.head, "dim": made.dim,
            "untrained": made.untrained, "n": len(made.truth), "accuracy": found.accuracy,
            "accuracy_interval": self.accuracy_interval, "macro_f1": found.macro_f1,
            "macro_f1_interval": self.macro_f1_interval, "macro_f1_of_classes_with_faces": found.macro_f1_present,
            "uar": found.uar, "per_class": per_class,
            "confusion": found.confusion.tolist(), "seeds_macro_f1": self.seeds_macro_f1,
            "seeds_accuracy": self.seeds_accuracy, "val_macro_f1": _plain(made.val_macro_f1), "ece": self.ece,
            "ece_calibrated": self.ece_calibrated, "temperature": made.temperature, "contributions": made.gates,
            "seconds": made.seconds,
        }


def system(
    features: FusedFeatures, partitions: Sequence[Partition], fitted: Sequence[Fitted], *, name: str,
) -> System:
    """Score the heads of one system, one a partition, each on its own test faces."""
    rows = np.concatenate([part.test for part in partitions])
    streams = [features.streams[k] for k in fitted[0].streams]
    found = [probabilities(one.head, features, part.test, one.streams)
             for part, one in zip(partitions, fitted, strict=True)]
    shares = [contributions(one.head, features, part.test, one.streams)
              for part, one in zip(partitions, fitted, strict=True)]
    gates = np.mean(shares, axis=0).tolist() if shares[0] else None
    return System(
        name=name, backbones=tuple(stream.name for stream in streams), head=fitted[0].head.spec.kind,
        dim=sum(stream.dim for stream in streams), untrained=any(stream.recipe.untrained for stream in streams),
        rows=rows, truth=features.label[rows], groups=features.group[rows], members=np.concatenate(found, axis=1),
        calibrated=np.concatenate([metrics.tempered(some.mean(axis=0), one.temperature)
                                   for some, one in zip(found, fitted, strict=True)]),
        temperature=float(np.mean([one.temperature for one in fitted])),
        val_macro_f1=float(np.mean([one.val_macro_f1 for one in fitted])),
        gates=dict(zip((stream.name for stream in streams), gates, strict=True)) if gates else None,
        seconds=sum(one.seconds for one in fitted))


def figures(made: System, *, classes: int, seed: int) -> Figures:
    """All figures of a system."""
    samples = [interval(bootstrap(metric, made.truth, [made.prediction], made.groups, classes=classes, seed=seed)[0])
               for metric in (metrics.accuracy, metrics.macro_f1)]
    each = [scores(made.truth, member.argmax(axis=1), classes) for member in made.members]
    return Figures(made, scores(made.truth, made.prediction, classes), *samples,
                   tuple(one.macro_f1 for one in each), tuple(one.accuracy for one in each),
                   metrics.calibration_error(made.mean, made.truth),
                   metrics.calibration_error(made.calibrated, made.truth))


def against(a: System, b: System, *, classes: int, seed: int) -> Comparison:
    """System a against b in macro-F1, on the same test faces in the same order."""
    return compare(a.truth, a.prediction, b.prediction, a.groups, metric=metrics.macro_f1, classes=classes, seed=seed)


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
