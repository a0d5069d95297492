"""The verb `fuse`: from stores to a table and a run."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from twofold.cache.store import Store
from twofold.data.errors import InputError
from twofold.data.labels import Taxonomy, taxonomy
from twofold.fuse.features import FusedFeatures, fits, join
from twofold.fuse.heads.own_classifier import own_classifiers
from twofold.fuse.heads.pair_rules import membership
from twofold.fuse.partition import Partition, partitions
from twofold.fuse.run import check_out, predictions_csv, run_record, write_run
from twofold.fuse.scores import metrics
from twofold.fuse.scores.scored_head import Figures, System, against, figures, system
from twofold.fuse.scores.statistics import Comparison
from twofold.fuse.settings import Settings, record_of
from twofold.fuse.tables.figures import comparison_record, figures_table
from twofold.fuse.training.fit import Fitted, fit, probabilities

Say = Callable[[str], None]


@dataclass(frozen=True)
class Fusion:
    """What `fuse` made. systems: the singles (or all subsets), the fusion of all streams last."""

    out: Path | None
    settings: Settings
    classes: Taxonomy
    systems: list[Figures]
    comparison: Comparison | None  #: of the fusion with the best single
    best_single: str
    notes: list[str]
    seconds: float

    def record(self) -> dict:
        return {"split": f"{self.settings.folds} folds" if self.settings.folds else "test",
                "classes": list(self.classes.classes),
                "systems": [one.record(self.classes.classes) for one in self.systems],
                "fusion_against_best_single": comparison_record(self.comparison, self.best_single)}

    def text(self) -> str:
        return figures_table(self)


@dataclass(frozen=True)
class Work:
    """Joined features and who trains, chooses and scores; the same for every head that is tried on them."""

    features: FusedFeatures
    partitions: list[Partition]
    notes: list[str]
    settings: Settings  #: as asked for, less what these faces do not allow (said in `notes`)


def prepare(stores: Sequence[Path], settings: Settings) -> Work:
    """Join the stores' features, in memory if they fit, and part the faces. Raises InputError, CacheError."""
    classes = taxonomy(settings.taxonomy_name)
    if classes.target != settings.target:
        raise InputError(f"--classes {classes.name} are {classes.target} expressions: use --target {classes.target}")
    features = join([Store(path) for path in stores], backbones=settings.backbones, views=settings.views,
                    taxonomy=classes)
    parts = partitions(features, folds=settings.folds, val_fraction=settings.val_fraction, seed=settings.seed)
    notes = [*features.notes, *dict.fromkeys(note for part in parts[:1] for note in part.notes)]
    if settings.compound_mixup and settings.target == "compound" and not can_make_compounds(features, parts):
        notes.append("compound-mixup left out: no training faces with basic labels of both emotions of a class")
        settings = replace(settings, compound_mixup=0.0)
    if settings.head == "zeroshot":
        notes.append(own_classifiers(features)[1])
    if fits(features, settings.memory_gb):
        return Work(features.loaded(), parts, notes, settings)
    return Work(features, parts, [*notes, "features streamed from disk: they exceed the memory allowed"], settings)


def fuse(stores: Sequence[Path], settings: Settings, *, out: Path | None, say: Say = lambda text: None) -> Fusion:
    """Train settings.head on each subset and on all streams, score once on test, and write the run to `out`.

    Raises InputError or CacheError for what a person must mend, before anything is written.
    """
    started = time.perf_counter()
    if out:
        check_out(out)
    work = prepare(stores, settings)
    settings = work.settings
    done: dict[tuple[int, ...], tuple[list[Fitted], System]] = {}
    for chosen in subsets(work.features, settings):
        name = label(work.features, chosen, settings)
        say(f"{settings.head} on {name}")
        fitted = train_subset(work, settings, chosen)
        done[chosen] = fitted, system(work.features, work.partitions, fitted, name=name)
    fitted, fused = list(done.values())[-1]
    classes = len(work.features.taxonomy.classes)
    scored = [figures(made, classes=classes, seed=settings.seed) for _, made in done.values()]
    best, comparison = _compared(scored, settings)
    seconds = time.perf_counter() - started
    result = Fusion(out, settings, work.features.taxonomy, scored, comparison, best, work.notes, seconds)
    if out:
        record = run_record(_repeatable(settings, work.features), work.features, fitted, work.partitions,
                            seconds=seconds, notes=work.notes)
        write_run(out, record=record, metrics=result.record(), fitted=fitted,
                  predictions=predictions_csv(work.features, fused, _val(work, fitted)))
    return result


def can_make_compounds(features: FusedFeatures, parts: Sequence[Partition]) -> bool:
    """True if in every partition the training faces have basic labels for both emotions of some class."""
    pairs = membership(features.taxonomy.classes).astype(bool)
    have = [np.isin(np.arange(len(pairs)), features.basic_label[np.union1d(part.train, part.extra)]) for part in parts]
    return all((pairs <= some[:, None]).all(axis=0).any() for some in have)


def train_subset(work: Work, settings: Settings, chosen: Sequence[int]) -> list[Fitted]:
    """The heads of one subset of the streams, one a partition."""
    return [fit(settings, work.features, part, chosen) for part in work.partitions]


def subsets(features: FusedFeatures, settings: Settings) -> list[tuple[int, ...]]:
    """The subsets of streams in the table, small ones first, all streams last.

    With the paper's head the views of a backbone stay together: they are versions of one stream.
    """
    count = len(features.streams)
    units = [(k,) for k in range(count)]
    if settings.head == "paper":
        each = count // len(settings.views)
        units = [tuple(range(k, count, each)) for k in range(each)]
    sizes = range(1, len(units)) if settings.subsets == "all" else [1] if len(units) > 1 else []
    chosen = [some for size in sizes for some in itertools.combinations(units, size)]
    return [tuple(sorted(itertools.chain(*some))) for some in [*chosen, tuple(units)]]


def label(features: FusedFeatures, chosen: Sequence[int], settings: Settings) -> str:
    """What the table calls a subset."""
    first = [k for k in chosen if settings.head != "paper" or features.streams[k].view == settings.views[0]]
    if len(first) == 1:
        return features.streams[first[0]].name
    if len(chosen) == len(features.streams):
        return f"fusion of all {len(first)}"
    return " + ".join(features.streams[k].name for k in first)


def _compared(scored: list[Figures], settings: Settings) -> tuple[str, Comparison | None]:
    """The fusion with the single that is best on test: to choose it there favours it, so a win is a win."""
    singles = [one.system for one in scored[:-1] if len(one.system.backbones) == 1]
    if not singles:
        return "", None
    classes = singles[0].members.shape[2]
    best = max(singles, key=lambda made: metrics.scores(made.truth, made.prediction, classes).macro_f1)
    return best.name, against(scored[-1].system, best, classes=classes, seed=settings.seed)


def _repeatable(settings: Settings, features: FusedFeatures) -> dict:
    """Settings as resolved: the backbones by name and fingerprint, so that a repeat takes the same files."""
    first = [stream for stream in features.streams if stream.view == settings.views[0]]
    names = [f"{stream.backbone}@{stream.recipe.fingerprint[:8]}" for stream in first]
    return record_of(settings) | {"classes": features.taxonomy.name,
                                  "backbones": names if len(settings.views) == 1 else [s.backbone for s in first]}


def _val(work: Work, fitted: Sequence[Fitted]) -> tuple[np.ndarray, np.ndarray] | None:
    if len(work.partitions) > 1:
        return None
    rows = work.partitions[0].val
    found = probabilities(fitted[0].head, work.features, rows, fitted[0].streams).mean(axis=0)
    return rows, metrics.tempered(found, fitted[0].temperature)


