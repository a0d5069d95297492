"""An ablation: one setting changed at a time, each scored on the faces of all folds and held against no change."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from twofold.data.utils.errors import InputError
from twofold.fuse.experiment import Experiment, score
from twofold.fuse.scores.scored_head import figures
from twofold.fuse.scores.statistics import Comparison, compare
from twofold.fuse.settings import settings_from
from twofold.fuse.tables.columns import grouped_columns, percent, span, spread
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
            "macro_f1_interval": list(each.macro_f1_interval) if each.macro_f1_interval else None,
            "seeds_macro_f1": list(each.seeds_macro_f1), "figures_of": head.ensemble,
            "calibration_error": each.reliability.error, "classes": classes, "truth": head.truth.tolist(),
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
    if not ablated:
        return []
    lines: list[tuple[str, ...]] = [("change", "accuracy", "macro-F1", "95 %", "calibration error", "macro-F1",
                                     "macro-F1", "macro-F1", "95 %", "")]
    for row in ablated:
        record, comparison = row.scored, row.comparison
        difference = ("", "", "") if comparison is None else (
            f"{100 * comparison.difference:+.2f}", span(comparison.interval, sign="+"),
            "within noise" if comparison.within_noise else "beyond noise")
        lines.append((row.change, percent(record["accuracy"]), percent(record["macro_f1"]),
                      span(record["macro_f1_interval"]), f"{record['calibration_error']:.3f}",
                      spread(record["seeds_macro_f1"]), percent(row.val_macro_f1), *difference))
    base = ablated[0].scored
    groups = [("", 1), (base["figures_of"], 4), ("one seed, mean ± sd", 1), ("validation", 1), ("difference", 3)]
    return [f"{len(base['truth'])} faces of all folds, {len(set(base['group']))} groups; intervals and paired "
            "differences by bootstrap of groups", "", *grouped_columns(lines, groups, left=1)]


def _against(a: dict, b: dict) -> Comparison:
    truth, group = np.array(a["truth"]), np.array(a["group"])
    return compare(truth, np.array(a["prediction"]), np.array(b["prediction"]), group, classes=a["classes"], seed=0)
