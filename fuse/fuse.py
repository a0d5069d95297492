"""The verb `fuse`: from stores to a table and a run."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twofold.cache.store import Store
from twofold.data.faces.settings import read_crop_lines
from twofold.data.labels import Taxonomy
from twofold.data.utils.options import settings_record
from twofold.fuse.experiment import (
    Experiment,
    prepare,
    score,
    seen_by,
    subset_name,
    subsets,
    train_singles,
    train_subset,
)
from twofold.fuse.features import FusedFeatures
from twofold.fuse.heads.head import TrainedHead, member_scores, read_streams
from twofold.fuse.metrics import scores as metrics
from twofold.fuse.metrics.statistics import Comparison
from twofold.fuse.predictions import Figures, ScoredHead, against, figures
from twofold.fuse.runs.tensorboard import check_tensorboard, write_curves, write_figures
from twofold.fuse.runs.write import (
    check_run_folder,
    check_same_inputs,
    inputs_record,
    predictions_csv,
    run_record,
    write_run,
)
from twofold.fuse.settings import Settings
from twofold.fuse.tables import columns, comparison_record, figures_table, fusion_lines, percent

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """What `fuse` returns. heads: of the singles (or all subsets), the fusion of all streams last."""

    out: Path | None
    settings: Settings
    classes: Taxonomy
    heads: list[Figures]  #: none where no face can be scored
    val: list[tuple[str, float]]  #: name and validation macro-F1 of each
    comparison: Comparison | None  #: of the fusion with the best single
    best_single: str
    notes: list[str]
    seconds: float

    def record(self) -> dict:
        return {"split": f"{self.settings.folds} folds" if self.settings.folds else "test",
                "classes": list(self.classes.classes),
                "systems": [head.record(self.classes.classes) for head in self.heads],
                "fusion_against_best_single": comparison_record(self.comparison, self.best_single,
                                                                chosen_on="validation")}

    def text(self) -> str:
        where = f"; run in {self.out}" if self.out else ""
        notes = [*(f"note: {note}" for note in self.notes), f"{self.seconds:.1f} s{where}"]
        if not self.heads:
            basics = "macro-F1 of the basic emotions on validation"
            table = columns([("features", basics), *((name, percent(value)) for name, value in self.val)], left=1)
            return "\n".join([f"{self.classes.name}, head {self.settings.head}: no test face has a label to score by",
                              "", *table, "", *notes])
        table = figures_table(self.heads, self.classes.classes, style=self.settings.table)
        below = fusion_lines(self.heads[-1], self.comparison, self.best_single)
        return "\n".join([self._headline, "", *table, "", *below, "", *notes])

    @property
    def _headline(self) -> str:
        fused, settings = self.heads[-1].head, self.settings
        scored = f"{settings.folds} folds by group" if settings.folds else "the test split"
        return (f"{self.classes.name} ({self.classes.target}), head {settings.head}, {fused.ensemble}, "
                f"{len(fused.truth)} faces of {scored}, {self.heads[-1].groups} groups")


def fuse(stores: Sequence[Path], settings: Settings, *, out: Path | None, overwrite: bool = False,
         tensorboard: Path | None = None) -> Fusion:
    """Train settings.head on each subset and on all streams, score once on test, and write the run to `out`.

    overwrite: replace a run of other settings, features or labels; one of the same is replaced by its like anyway.
    tensorboard: a folder for the learning curves of the fusion and the figures of all systems.
    Raises InputError or CacheError for what a person must mend, before anything is written.
    """
    started = time.perf_counter()
    if out:
        check_run_folder(out)
    if tensorboard:
        check_tensorboard()
    experiment = prepare(stores, settings)
    settings, features = experiment.settings, experiment.features
    if out and not overwrite:
        streams = [features.streams[k] for k in read_streams(settings, features, range(len(features.streams)))]
        check_same_inputs(out, inputs_record(_repeatable(settings, features), features, streams))
    singles = train_singles(experiment)
    heads, trained = [], []
    for streams in subsets(features, settings):
        name = subset_name(features, streams, settings)
        log.info("%s on %s", settings.head, name)
        trained = train_subset(experiment, streams, singles)
        heads.append(score(experiment, trained, name=name))
    scored = [figures(head, classes=len(features.taxonomy.classes), seed=settings.seed) for head in heads
              if len(head.truth)]
    best, comparison = _compared(heads, scored, settings)
    fusion = Fusion(out=out, settings=settings, classes=features.taxonomy, heads=scored,
                    val=[(head.name, head.val_macro_f1) for head in heads], comparison=comparison, best_single=best,
                    notes=experiment.notes, seconds=time.perf_counter() - started)
    if out:
        record = run_record(_repeatable(settings, features), features, trained, experiment.partitions,
                            seconds=fusion.seconds, notes=experiment.notes,
                            crops=[line for store in stores for line in read_crop_lines(Store(store).manifest_path)])
        write_run(out, record=record, metrics=fusion.record(), trained=trained, seen=seen_by(experiment),
                  predictions=predictions_csv(features, heads[-1], _validation(experiment, trained)))
    if tensorboard:
        write_curves(tensorboard, [each.history for each in trained])
        write_figures(tensorboard, fusion.record()["systems"])
    return fusion


def _compared(heads: Sequence[ScoredHead], scored: Sequence[Figures], settings: Settings
              ) -> tuple[str, Comparison | None]:
    """The fusion with the single that is best on validation: test only scores."""
    singles = [each.head for each in scored[:-1] if len(each.head.backbones) == 1]
    if not singles:
        return "", None
    best = max(singles, key=lambda head: head.val_macro_f1)
    return best.name, against(heads[-1], best, classes=best.members.shape[2], seed=settings.seed)


def _repeatable(settings: Settings, features: FusedFeatures) -> dict:
    """Settings as resolved: the backbones by name and fingerprint, so that a repeat takes the same files."""
    first = [stream for stream in features.streams if stream.view == features.streams[0].view]
    names = [f"{stream.backbone}@{stream.recipe.fingerprint[:8]}" for stream in first]
    return settings_record(settings) | {
        "classes": features.taxonomy.name, "target": features.taxonomy.target,
        "backbones": names if len(settings.views) == 1 else [stream.backbone for stream in first]}


def _validation(experiment: Experiment, trained: Sequence[TrainedHead]) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows and calibrated probabilities of the validation faces that have a class, where there is one partition."""
    if len(experiment.partitions) > 1:
        return None
    rows = experiment.partitions[0].val
    rows = rows[experiment.features.label[rows] >= 0]
    mean = member_scores(trained[0].head, experiment.features, rows, trained[0].streams).probabilities.mean(axis=0)
    return rows, metrics.tempered(mean, trained[0].temperature)
