"""An ablation: one setting changed at a time, each scored on the faces of all folds and held against no change."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from twofold.data.errors import InputError
from twofold.fuse.fuse import Work
from twofold.fuse.scores import metrics
from twofold.fuse.scores.scored_head import figures, system
from twofold.fuse.scores.statistics import Comparison, compare
from twofold.fuse.settings import settings_from
from twofold.fuse.tables.figures import columns, percent, span
from twofold.fuse.training.fit import Fitted

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


def scored(work: Work, fitted: Sequence[Fitted]) -> dict:
    """Figures over the faces of all folds, and the call for each, as JSON holds them."""
    made = system(work.features, work.partitions, fitted, name="")
    found = figures(made, classes=len(work.features.taxonomy.classes), seed=work.settings.seed)
    return {"accuracy": found.scores.accuracy, "macro_f1": found.scores.macro_f1, "uar": found.scores.uar,
            "macro_f1_interval": list(found.macro_f1_interval), "seeds_macro_f1": list(found.seeds_macro_f1),
            "ece": found.ece, "classes": len(work.features.taxonomy.classes), "truth": made.truth.tolist(),
            "group": np.unique(made.groups.astype(str), return_inverse=True)[1].tolist(),
            "prediction": made.prediction.tolist()}


def rows(base: dict, done: Sequence[tuple[dict, dict, float]]) -> list[Row]:
    """Rows from (settings, scored, validation macro-F1) of the trials that worked, the base first."""
    unchanged = next((found for settings, found, _ in done if settings == base), None)
    out = []
    for settings, found, val in done:
        change = ", ".join(f"{name} = {value}" for name, value in settings.items() if base.get(name) != value)
        out.append(Row(change or "no change", found, val, _against(found, unchanged) if change and unchanged else None))
    return out


def table(made: Sequence[Row]) -> list[str]:
    """A line a change, in points of a hundred."""
    lines = [("change", "accuracy", "macro-F1", "95 %", "one seed", "ECE", "val F1", "difference", "95 %")]
    for row in made:
        each, found = row.scored["seeds_macro_f1"], row.comparison
        spread = f" ± {100 * np.std(each, ddof=1):.1f}" if len(each) > 1 else ""
        lines.append((row.change, percent(row.scored["accuracy"]), percent(row.scored["macro_f1"]),
                      span(row.scored["macro_f1_interval"]), f"{100 * np.mean(each):.1f}{spread}",
                      f"{row.scored['ece']:.3f}", percent(row.val_macro_f1),
                      *((f"{100 * found.difference:+.2f}", f"[{100 * found.low:+.2f}, {100 * found.high:+.2f}]")
                        if found else ("", ""))))
    faces = len(made[0].scored["truth"]) if made else 0
    return [f"{faces} faces of all folds; macro-F1's intervals and paired differences by bootstrap of groups", "",
            *columns(lines, left=1)]


def _against(a: dict, b: dict) -> Comparison:
    truth, group = np.array(a["truth"]), np.array(a["group"])
    return compare(truth, np.array(a["prediction"]), np.array(b["prediction"]), group, metric=metrics.macro_f1,
                   classes=a["classes"], seed=0)
