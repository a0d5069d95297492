"""An experiment: joined features, their splits, and the heads that are trained and tested on them."""

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from twofold.cache.classifier import BackboneClassifier
from twofold.cache.store import Store
from twofold.data.utils.errors import InputError
from twofold.fuse.core.features import Features, fits_in_memory, join, join_folds
from twofold.fuse.core.predictions import Predictions, System
from twofold.fuse.core.settings import HEAD_TYPES, Settings
from twofold.fuse.core.split import SeenSamples, Split, drop_encoder_training_samples, make_splits, seen_samples
from twofold.fuse.core.task import Task, check_pairs, chosen_classes
from twofold.fuse.heads.head import TrainedHead, fit, fit_single, run_head, training_rows
from twofold.fuse.heads.zeroshot import pretrained_classifiers
from twofold.fuse.metrics.scores import apply_temperature
from twofold.fuse.training.data import membership

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator
    from sklearn.pipeline import Pipeline

FEW_STEPS = 100  #: of training: a note says when a head takes fewer
Singles = Mapping[int, Sequence[TrainedHead]]  #: stream to its heads, one per fold


@dataclass(frozen=True)
class Fold:
    """One split, and the features that its heads see: those of its own encoders, if it has such.

    pretrained: for zero-shot, the classifier that each stream brings along; none: one is trained.
    """

    features: Features
    split: Split
    pretrained: list[BackboneClassifier]


@dataclass(frozen=True)
class Experiment:
    """Joined features and their splits; the same for every head that is tried on them."""

    task: Task
    features: Features
    folds: list[Fold]
    notes: list[str]
    settings: Settings  #: as asked for, less what these samples do not allow (said in `notes`)

    @property
    def splits(self) -> list[Split]:
        return [fold.split for fold in self.folds]


def prepare(stores: Sequence[Path], settings: Settings) -> Experiment:
    """Join the stores' features, in memory if they fit, and split the samples. Raises InputError, CacheError."""
    places = [Store(path) for path in stores]
    classes = chosen_classes(settings, places)
    settings, notes = with_extra_views(places, settings)
    features = join(places, backbones=settings.backbones, views=settings.views, taxonomy=classes, folds=settings.folds)
    features = replace(features, notes=(*features.notes, *notes))
    return experiment_on(features, settings, by_fold=join_folds(places, features, folds=settings.folds))


def experiment_on(features: Features, settings: Settings, *, by_fold: tuple[Features, ...] = (), needs_test: bool = True
                  ) -> Experiment:
    """The features, in memory if they fit, and their splits; encoders' training samples leave the test sets.

    by_fold: the same samples as the encoders of each fold give them. Raises InputError.
    """
    pretrained, note = [], ""
    if not HEAD_TYPES[settings.head].learns_classes:
        check_pairs(features.taxonomy)
        pretrained, note = pretrained_classifiers(features)
    task = Task.of(settings, features.taxonomy, trains=not pretrained)
    splits = make_splits(features, task, folds=settings.folds, val_fraction=settings.val_fraction, seed=settings.seed,
                         needs_test=needs_test)
    of_fold = by_fold or (features,) * len(splits)
    splits = [drop_encoder_training_samples(each, split, task.learned(features))
              for each, split in zip(of_fold, splits, strict=True)]
    notes = [*features.notes, *dict.fromkeys(splits[0].notes), *([note] if note else [])]
    if by_fold:
        notes.append(f"each of the {len(by_fold)} folds has its own encoder, fine-tuned without its test samples")
    if settings.compound_mixup and features.taxonomy.has_pairs and task.learns_classes and not can_mix_compounds(
            features, splits):
        notes.append("compound-mixup left out: no training samples with basic labels of both emotions of a class")
        settings = replace(settings, compound_mixup=0.0)
    classifiers = [pretrained_classifiers(each)[0] if by_fold and pretrained else pretrained for each in of_fold]
    if fits_in_memory(features, settings.memory_gb / max(len(by_fold), 1)):
        features, by_fold = features.loaded(), tuple(each.loaded() for each in by_fold)
    else:
        notes.append("features streamed from disk: they exceed the memory allowed")
    steps = settings.epochs * -(-min(len(split.train) for split in splits) // settings.batch_size)
    if task.trains and HEAD_TYPES[settings.head].seeded and steps < FEW_STEPS:
        notes.append(f"only {steps} training steps ({settings.epochs} epochs in batches of {settings.batch_size}): "
                     "the head may be far from converged; raise --epochs, lower --batch-size, or compare with --head "
                     "logreg")
    folds = list(map(Fold, by_fold or [features] * len(splits), splits, classifiers))
    return Experiment(task, features, folds, notes, settings)


def with_extra_views(stores: Sequence[Store], settings: Settings) -> tuple[Settings, list[str]]:
    """Settings whose views are those asked for and, of the extra ones, those that every store has of each backbone;
    and a note for each that is left out."""
    views, notes = list(settings.views), []
    names = {name.partition("@")[0] for name in settings.backbones or stores[0].backbones(views[0])}
    for view in (view for view in settings.extra_views if view not in views):
        lacking = [name for name in names if any(name not in store.backbones(view) for store in stores)]
        if lacking:
            notes.append(f"without the view {view}: there is none of {', '.join(sorted(lacking))} (`extract --views "
                         f"{view}` makes it)")
        else:
            views.append(view)
    return replace(settings, views=tuple(views), extra_views=()), notes


def can_mix_compounds(features: Features, splits: Sequence[Split]) -> bool:
    """True if in every fold the training samples have basic labels for both emotions of some class."""
    pairs = membership(features.taxonomy.basics).astype(bool)
    present = [np.isin(np.arange(len(pairs)), features.basic_label[np.union1d(split.train, split.extra)])
               for split in splits]
    return all(((pairs <= basics[:, None]).all(axis=0) & (pairs.sum(axis=0) == 2)).any() for basics in present)


def subsets(features: Features, settings: Settings) -> list[tuple[int, ...]]:
    """The subsets of streams in the table, small ones first, all streams last.

    Views that are versions of one stream stay together.
    """
    count = len(features.streams)
    units = [(k,) for k in range(count)]
    if HEAD_TYPES[settings.head].views == "versions":
        backbones = count // len(settings.views)
        units = [tuple(range(k, count, backbones)) for k in range(backbones)]
    sizes = range(1, len(units)) if settings.subsets == "all" else [1] if len(units) > 1 else []
    smaller = [combination for size in sizes for combination in itertools.combinations(units, size)]
    return [tuple(sorted(itertools.chain(*combination))) for combination in [*smaller, tuple(units)]]


def subset_name(features: Features, streams: Sequence[int], settings: Settings) -> str:
    """What the table calls a subset."""
    view, versions = features.streams[0].view, HEAD_TYPES[settings.head].views == "versions"
    first = [k for k in streams if not versions or features.streams[k].view == view]
    if len(first) == 1:
        return features.streams[first[0]].name
    if len(streams) == len(features.streams):
        return f"fusion of all {len(first)}"
    return " + ".join(features.streams[k].name for k in first)


def seen_by(experiment: Experiment) -> SeenSamples:
    """The training, validation and test samples of each fold."""
    return seen_samples(experiment.features, [
        (training_rows(experiment.settings, experiment.features, split), split.val, split.test)
        for split in experiment.splits])


def train_singles(experiment: Experiment) -> Singles:
    """For a head that averages singles, each stream's heads, trained once for all subsets; for others none."""
    if not HEAD_TYPES[experiment.settings.head].averages_singles:
        return {}
    return {k: [fit_single(experiment.settings, experiment.task, fold.features, fold.split, k)
                for fold in experiment.folds] for k in range(len(experiment.features.streams))}


def train_subset(experiment: Experiment, streams: Sequence[int], singles: Singles) -> list[TrainedHead]:
    """The heads of one subset of the streams, one per fold. singles: as `train_singles` gives them."""
    return [fit(experiment.settings, experiment.task, fold.features, fold.split, streams,
                singles=[singles[k][number] for k in streams] if singles else (),
                pretrained=[fold.pretrained[k] for k in streams] if fold.pretrained else ())
            for number, fold in enumerate(experiment.folds)]


def predict_test(experiment: Experiment, trained: Sequence[TrainedHead], *, name: str) -> Predictions:
    """The predictions of the trained heads of one subset, one per fold, each for its own test samples."""
    first = trained[0]
    streams = [experiment.features.streams[k] for k in first.streams]
    outputs = [run_head(each.head, fold.features, fold.split.test, each.streams)
               for fold, each in zip(experiment.folds, trained, strict=True)]
    weights = [each.stream_weights.mean(axis=(0, 1)).tolist() for each in outputs if each.stream_weights is not None]
    system = System(
        name=name, backbones=tuple(stream.name for stream in streams), head=first.head.spec.kind,
        dim=sum(stream.dim for stream in streams), untrained=any(stream.recipe.untrained for stream in streams),
        temperature=float(np.mean([each.temperature for each in trained])),
        val_score=float(np.mean([each.val_score for each in trained])), score_name=experiment.task.score_name,
        stream_weights=dict(zip((stream.name for stream in streams), np.mean(weights, axis=0).tolist(), strict=True))
        if weights else None,
        seconds=sum(each.seconds for each in trained))
    return _predictions(experiment, system, [each.probabilities for each in outputs],
                        [each.temperature for each in trained])


def predict_validation(experiment: Experiment, trained: Sequence[TrainedHead], *, system: System) -> Predictions:
    """The predictions for the labelled validation samples of the first fold."""
    fold, first = experiment.folds[0], trained[0]
    rows = fold.split.val[fold.features.label[fold.split.val] >= 0]
    outputs = run_head(first.head, fold.features, rows, first.streams).probabilities
    return Predictions.of(fold.features, rows, system=system, fold=np.zeros(len(rows), int), outputs=outputs,
                          calibrated=apply_temperature(outputs.mean(axis=0), first.temperature), role="val")


def predict_with_estimator(experiment: Experiment, estimator: "BaseEstimator", *, name: str = "") -> Predictions:
    """Fit a fresh copy on each fold's standardised training features; predict that fold's test samples.

    Validation samples only calibrate. Probabilities are those of `predict_proba`, else the softmax of
    `decision_function`. Raises InputError for what is no classifier, or one that has neither.
    """
    from sklearn.base import clone, is_classifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if not is_classifier(estimator):
        raise InputError(f"{type(estimator).__name__} is no scikit-learn classifier")
    started, features, task = time.perf_counter(), experiment.features, experiment.task
    outputs, temperatures, val_scores = [], [], []
    for split in experiment.splits:
        pipeline = make_pipeline(StandardScaler(), clone(estimator))
        pipeline.fit(features.read(split.train), features.label[split.train])
        temperature, score = task.validate(features, split.val, _probabilities(pipeline, features, split.val), None)
        temperatures.append(temperature)
        val_scores.append(score)
        outputs.append(_probabilities(pipeline, features, split.test)[None])
    system = System(
        name=name or type(estimator).__name__, backbones=tuple(stream.name for stream in features.streams),
        head=type(estimator).__name__, dim=features.dim,
        untrained=any(stream.recipe.untrained for stream in features.streams),
        temperature=float(np.mean(temperatures)), val_score=float(np.mean(val_scores)),
        seconds=time.perf_counter() - started)
    return _predictions(experiment, system, outputs, temperatures)


def _predictions(experiment: Experiment, system: System, outputs: Sequence[np.ndarray], temperatures: Sequence[float]
                 ) -> Predictions:
    """The test predictions of all folds. outputs: (M, n, C) of each."""
    tests = [split.test for split in experiment.splits]
    return Predictions.of(
        experiment.features, np.concatenate(tests), system=system,
        fold=np.repeat(np.arange(len(tests)), [len(rows) for rows in tests]),
        outputs=np.concatenate(outputs, axis=1),
        calibrated=np.concatenate([apply_temperature(output.mean(axis=0), temperature)
                                   for output, temperature in zip(outputs, temperatures, strict=True)]))


def _probabilities(pipeline: "Pipeline", features: Features, rows: np.ndarray) -> np.ndarray:
    """(n, C) float32; 0 for a class that the estimator was not trained on."""
    values = features.read(rows)
    if hasattr(pipeline, "predict_proba"):
        scores = pipeline.predict_proba(values)
    elif hasattr(pipeline, "decision_function"):
        margins = pipeline.decision_function(values)
        margins = np.column_stack([-margins, margins]) if margins.ndim == 1 else margins
        scores = np.exp(margins - margins.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    else:
        raise InputError(f"{type(pipeline[-1]).__name__} has neither predict_proba nor decision_function: take a "
                         "classifier with one, or wrap it in CalibratedClassifierCV")
    if np.shape(scores) != (len(rows), len(pipeline.classes_)):
        raise InputError(f"{type(pipeline[-1]).__name__} gives {np.shape(scores)[-1]} scores per sample for "
                         f"{len(pipeline.classes_)} classes: let it give one each (decision_function_shape='ovr', or "
                         "probability=True)")
    if not np.isfinite(scores).all():
        raise InputError(f"{type(pipeline[-1]).__name__} gives scores that are not finite numbers")
    probabilities = np.zeros((len(rows), len(features.taxonomy.classes)), np.float32)
    probabilities[:, pipeline.classes_] = scores
    return probabilities
