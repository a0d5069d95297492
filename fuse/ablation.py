"""An ablation: one setting changed at a time, each scored on the faces of all folds and held against no change."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from twofold.data.errors import InputError
from twofold.fuse.experiment import Experiment, score
from twofold.fuse.scores import metrics
from twofold.fuse.scores.scored_head import figures
from twofold.fuse.scores.statistics import Comparison, compare
from twofold.fuse.settings import settings_from
from twofold.fuse.tables.columns import columns, percent, span, spread
from twofold.fuse.training.fit import TrainedHead

#: what decides which faces are scored: paired comparisons need the same ones
FACES = ("backbones", "views", "target", "classes", "folds", "seed", "val_fraction")


@dataclass(frozen=True)
class Row:
    """One change and what came of it. scored: see `scored`; comparison: with no change, and None for that itself."""

    change: str
    scored: dict
    val_macro_f1: float
    comparison: Comparison | None

    def record(self) -> dict:
        kept = {name: value for name, value in self.scored.items() if name not in ("truth", "group", "prediction")}
        return {"change": self.change, "val_macro_f1": self.val_macro_f1, **kept,
                "against_no_change": asdict(self.comparison) if self.comparison else None}


def variations(base: dict, changes: dict, config: Path) -> list[dict]:
    """Settings: the base first, then it with one value changed at a time; what changes nothing is left out.

    Raises InputError for a change that would score other faces, and where no folds are asked for.
    """
    for name, values in changes.items():
        if name in FACES:
            raise InputError(f"{config}: [ablation] cannot change {name}: all rows must score the same faces")
        if not isinstance(values, list) or not values:
            raise InputError(f"{config}: [ablation] needs a list of values for {name}")
    if base.get("folds", 0) < 2:
        raise InputError(f"{config}: an ablation is scored on folds: give folds = 5 in [settings]")
    usual = settings_from(base)
    return [base, *(base | {name: value} for name, values in changes.items() for value in values
                    if getattr(usual, name) != value)]


def scored(experiment: Experiment, trained: Sequence[TrainedHead]) -> dict:
    """Figures over the faces of all folds, and the call for each, as JSON holds them."""
    head, classes = score(experiment, trained, name=""), len(experiment.features.taxonomy.classes)
    each = figures(head, classes=classes, seed=experiment.settings.seed)
    return {"accuracy": each.scores.accuracy, "macro_f1": each.scores.macro_f1, "uar": each.scores.uar,
            "macro_f1_interval": list(each.macro_f1_interval), "seeds_macro_f1": list(each.seeds_macro_f1),
            "ece": each.ece, "classes": classes, "truth": head.truth.tolist(),
            "group": np.unique(head.groups.astype(str), return_inverse=True)[1].tolist(),
            "prediction": head.prediction.tolist()}


def rows(base: dict, done: Sequence[tuple[dict, dict, float]]) -> list[Row]:
    """Rows from (settings, scored, validation macro-F1) of the trials that worked, the base first."""
    unchanged = next((record for settings, record, _ in done if settings == base), None)
    lines = []
    for settings, record, val in done:
        change = ", ".join(f"{name} = {value}" for name, value in settings.items() if base.get(name) != value)
        comparison = _against(record, unchanged) if change and unchanged else None
        lines.append(Row(change or "no change", record, val, comparison))
    return lines


def table(ablated: Sequence[Row]) -> list[str]:
    """A line a change, in points of a hundred."""
    lines: list[tuple[str, ...]] = [
        ("change", "accuracy", "macro-F1", "95 %", "one seed", "ECE", "val F1", "difference", "95 %")]
    for row in ablated:
        record, comparison = row.scored, row.comparison
        lines.append((row.change, percent(record["accuracy"]), percent(record["macro_f1"]),
                      span(record["macro_f1_interval"]), spread(record["seeds_macro_f1"]),
                      f"{record['ece']:.3f}", percent(row.val_macro_f1),
                      *((f"{100 * comparison.difference:+.2f}",
                         f"[{100 * comparison.low:+.2f}, {100 * comparison.high:+.2f}]") if comparison else ("", ""))))
    faces = len(ablated[0].scored["truth"]) if ablated else 0
    return [f"{faces} faces of all folds; macro-F1's intervals and paired differences by bootstrap of groups", "",
            *columns(lines, left=1)]


def _against(a: dict, b: dict) -> Comparison:
    truth, group = np.array(a["truth"]), np.array(a["group"])
    return compare(truth, np.array(a["prediction"]), np.array(b["prediction"]), group, metric=metrics.macro_f1,
                   classes=a["classes"], seed=0)
