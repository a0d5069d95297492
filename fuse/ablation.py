"""Trials of a sweep scored on the samples of all folds: an ablation, one setting changed at a time; a nested choice."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from twofold.data.utils.errors import InputError
from twofold.fuse.core.predictions import figures
from twofold.fuse.core.settings import settings_from
from twofold.fuse.experiment import Experiment, predict_test
from twofold.fuse.heads.head import TrainedHead
from twofold.fuse.metrics.scores import compute_scores
from twofold.fuse.metrics.statistics import Comparison, compare
from twofold.fuse.tables import grouped_columns, percent, span, spread

KEPT_BACK = ("truth", "group", "prediction", "fold")  #: of a trial: too long for the report
SAMPLES_DEPEND_ON = ("backbones", "views", "target", "classes", "folds", "seed", "val_fraction")


@dataclass(frozen=True)
class Trial:
    """One setting and its validation score. error: why it failed, else empty.

    settings: as the TOML has them, so that one that makes no sense is a row as well. scored: with folds, figures over
    all of them; see `score_folds`.
    """

    name: str
    settings: dict
    score: float
    seconds: float
    error: str
    scored: dict | None = None


@dataclass(frozen=True)
class Row:
    """One change and its figures. scored: see `score_folds`; comparison: with no change, None for that itself."""

    change: str
    scored: dict
    val_macro_f1: float
    comparison: Comparison | None

    def record(self) -> dict:
        kept = {name: value for name, value in self.scored.items() if name not in KEPT_BACK}
        return {"change": self.change, "val_macro_f1": self.val_macro_f1, **kept,
                "against_no_change": asdict(self.comparison) if self.comparison else None}


def variations(base: dict, changes: dict, config: Path) -> list[dict]:
    """Settings: the base first, then it with one value changed at a time; what changes nothing is left out.

    Raises InputError for a change that would score other samples, and where no folds are asked for.
    """
    for name, values in changes.items():
        if name in SAMPLES_DEPEND_ON:
            raise InputError(f"{config}: [ablation] cannot change {name}: all rows must score the same samples")
        if not isinstance(values, list) or not values:
            raise InputError(f"{config}: [ablation] needs a list of values for {name}")
    if base.get("folds", 0) < 2:
        raise InputError(f"{config}: an ablation is scored on folds: give folds = 5 in [settings]")
    usual = settings_from(base)
    return [base, *(base | {name: value} for name, values in changes.items() for value in values
                    if getattr(usual, name) != value)]


def score_folds(experiment: Experiment, trained: Sequence[TrainedHead]) -> dict:
    """Figures over the samples of all folds, and the prediction for each, as JSON holds them."""
    predictions = predict_test(experiment, trained, name="")
    each = figures(predictions, seed=experiment.settings.seed)
    return {"accuracy": each.scores.accuracy, "macro_f1": each.scores.macro_f1, "uar": each.scores.uar,
            "macro_f1_interval": list(each.macro_f1_interval) if each.macro_f1_interval else None,
            "seeds_macro_f1": list(each.seeds_macro_f1), "figures_of": predictions.ensemble,
            "calibration_error": each.reliability.error, "classes": predictions.classes,
            "truth": predictions.target.tolist(),
            "group": np.unique(predictions.group.astype(str), return_inverse=True)[1].tolist(),
            "prediction": predictions.predicted.tolist(), "fold": predictions.fold.tolist(),
            "val_scores": [each.val_score for each in trained]}


def nested_macro_f1(trials: Sequence[Trial]) -> float | None:
    """Macro-F1 of choosing within each fold, by its own validation, the trial that predicts its test samples.

    One fold's validation samples are test samples of others, so the best trial's own figure is optimistic; this one
    is not. None without folds, or where trials do not share them.
    """
    if len({json.dumps([trial.settings.get(name) for name in SAMPLES_DEPEND_ON[1:]]) for trial in trials}) != 1 or any(
            trial.scored is None for trial in trials):
        return None
    records = [trial.scored or {} for trial in trials]
    targets, predicted = [], []
    for fold in range(len(records[0]["val_scores"])):
        chosen = max(records, key=lambda record: record["val_scores"][fold])
        rows = np.array(chosen["fold"]) == fold
        targets.append(np.array(chosen["truth"])[rows])
        predicted.append(np.array(chosen["prediction"])[rows])
    return compute_scores(np.concatenate(targets), np.concatenate(predicted), records[0]["classes"]).macro_f1


def ablation_rows(base: dict, done: Sequence[tuple[dict, dict, float]]) -> list[Row]:
    """Rows from (settings, scored, validation macro-F1) of the trials that worked, the base first."""
    unchanged = next((record for settings, record, _ in done if settings == base), None)
    lines = []
    for settings, record, val in done:
        change = ", ".join(f"{name} = {value}" for name, value in settings.items() if base.get(name) != value)
        comparison = _compare(record, unchanged) if change and unchanged else None
        lines.append(Row(change or "no change", record, val, comparison))
    return lines


def ablation_table(ablated: Sequence[Row]) -> list[str]:
    """One line per change, in points of a hundred."""
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
    return [f"{len(base['truth'])} samples of all folds, {len(set(base['group']))} groups; intervals and paired "
            "differences by bootstrap of groups", "", *grouped_columns(lines, groups, left=1)]


def _compare(a: dict, b: dict) -> Comparison:
    truth, group = np.array(a["truth"]), np.array(a["group"])
    return compare(truth, np.array(a["prediction"]), np.array(b["prediction"]), group, classes=a["classes"], seed=0)
