"""The verb `fuse`: from stores to a table and a run."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from twofold.cache.store import Store
from twofold.data.faces.settings import read_crop_lines
from twofold.data.utils.options import settings_record
from twofold.fuse.core.features import Features
from twofold.fuse.core.predictions import Figures, Predictions, compare_predictions, figures
from twofold.fuse.core.settings import Settings
from twofold.fuse.core.split import seen_samples
from twofold.fuse.core.task import Task
from twofold.fuse.experiment import cross_validate, predict_validation, prepare, subsets
from twofold.fuse.heads.head import input_streams, training_rows
from twofold.fuse.metrics.statistics import Comparison
from twofold.fuse.runs import write
from twofold.fuse.runs.tensorboard import check_tensorboard, write_curves, write_figures
from twofold.fuse.tables import columns, comparison_record, figures_table, fusion_lines, say

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """What `fuse` returns: predictions of the singles (or all subsets), of the fusion of all streams last.

    figures: of these, none where no sample can be scored; comparison: of the fusion with the best single.
    """

    out: Path | None
    settings: Settings
    task: Task
    predictions: list[Predictions]
    figures: list[Figures]
    comparison: Comparison | None
    best_single: str
    notes: list[str]
    seconds: float

    def record(self) -> dict:
        return {"split": f"{self.settings.folds} folds" if self.settings.folds else "test",
                "classes": list(self.task.outputs), "systems": [each.record() for each in self.figures],
                "fusion_against_best_single": comparison_record(self.comparison, self.best_single,
                                                                chosen_on="validation")}

    def text(self) -> str:
        settings, classes = self.settings, self.task.taxonomy
        notes = [*(f"note: {note}" for note in self.notes),
                 f"{self.seconds:.1f} s" + (f"; run in {self.out}" if self.out else "")]
        if not self.figures:
            systems = [each.system for each in self.predictions]
            table = columns([("features", f"{systems[0].score_name} on validation"),
                             *((system.name, say(self.task.score, system.val_score)) for system in systems)], left=1)
            return "\n".join([f"{classes.name}, head {settings.head}: no test sample has a label to score by", "",
                              *table, "", *notes])
        fused = self.figures[-1]
        scored = f"{settings.folds} folds by group" if settings.folds else "the test split"
        headline = (f"{self.task.title}, head {settings.head}, {fused.predictions.ensemble}, "
                    f"{len(fused.predictions)} samples of {scored}, {fused.groups} groups")
        table = figures_table(self.figures, style=settings.table)
        return "\n".join([headline, "", *table, "", *fusion_lines(fused, self.comparison, self.best_single), "",
                          *notes])


def fuse(stores: Sequence[Path], settings: Settings, *, out: Path | None, overwrite: bool = False,
         tensorboard: Path | None = None) -> Fusion:
    """Train settings.head on each subset and on all streams, score once on test, and write the run to `out`.

    overwrite: replace a run of other settings, features or labels; one of the same is replaced by its like anyway.
    tensorboard: a folder for the learning curves of the fusion and the figures of all systems.
    Raises InputError or CacheError for what a person must mend, before anything is written.
    """
    started = time.perf_counter()
    if out:
        write.check_run_folder(out)
    if tensorboard:
        check_tensorboard()
    experiment = prepare(stores, settings)
    settings, features = experiment.settings, experiment.features
    repeatable = _repeatable(settings, features)
    if out and not overwrite:
        streams = [features.streams[k] for k in input_streams(settings, features, range(len(features.streams)))]
        write.check_same_inputs(out, write.inputs_record(repeatable, features, streams))
    predictions, trained = [], []
    for name, subset in subsets(features, settings):
        log.info("%s on %s", settings.head, name)
        predicted, trained = cross_validate(experiment, subset, name=name)
        predictions.append(predicted)
    fused = predictions[-1]
    singles = [each for each in predictions[:-1] if len(each) and len(each.system.backbones) == 1
               and not math.isnan(each.system.val_score)]  # without validation there is no best: test only scores
    best = max(singles, key=lambda each: each.task.score.rank(each.system.val_score), default=None)
    fusion = Fusion(
        out=out, settings=settings, task=features.task, predictions=predictions,
        figures=[figures(each, seed=settings.seed) for each in predictions if len(each)],
        comparison=compare_predictions(fused, best, seed=settings.seed) if best else None,
        best_single=best.system.name if best else "", notes=experiment.notes, seconds=time.perf_counter() - started)
    if out:
        crops = [line for store in stores for line in read_crop_lines(Store(store).manifest_path)]
        record = write.run_record(repeatable, features, trained, experiment.splits, seconds=fusion.seconds,
                                  notes=experiment.notes, crops=list(dict.fromkeys(crops)) if any(crops) else [])
        seen = seen_samples(features, [(training_rows(settings, features, split), split.val, split.test)
                                       for split in experiment.splits])
        tables = [fused] if len(experiment.folds) > 1 else [
            fused, predict_validation(experiment, trained, system=fused.system)]
        write.write_run(out, task=features.task, record=record, metrics=fusion.record(), trained=trained, seen=seen,
                        predictions=write.predictions_csv(tables))
    if tensorboard:
        write_curves(tensorboard, [each.history for each in trained])
        write_figures(tensorboard, fusion.record()["systems"], features.task)
    return fusion


def _repeatable(settings: Settings, features: Features) -> dict:
    """Settings as resolved: the backbones by name and fingerprint, so that a repeat takes the same files."""
    first = [stream for stream in features.streams if stream.view == features.streams[0].view]
    names = [f"{stream.backbone}@{stream.recipe.fingerprint[:8]}" for stream in first]
    return settings_record(settings) | features.task.settings() | {
        "backbones": names if len(settings.views) == 1 else [stream.backbone for stream in first]}
