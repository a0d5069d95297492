"""An experiment: joined features, their splits, and the heads that are trained and tested on them."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from twofold.cache.classifier import BackboneClassifier
from twofold.cache.store import Store
from twofold.data.utils.errors import InputError
from twofold.data.utils.machine import USUAL_MEMORY, free_memory
from twofold.fuse.core.choice import check_head, check_pairs, chosen_task
from twofold.fuse.core.features import Features, join, join_folds
from twofold.fuse.core.predictions import Predictions, System
from twofold.fuse.core.settings import HEAD_TYPES, SINGLE, Settings
from twofold.fuse.core.split import Split, drop_encoder_training_samples, make_splits
from twofold.fuse.core.streams import weight_names
from twofold.fuse.core.task import Task, mean_calibration
from twofold.fuse.heads.head import TrainedHead, averaged_views, fit, input_streams
from twofold.fuse.heads.sklearn import FittedEstimator
from twofold.fuse.heads.zeroshot import pretrained_classifiers
from twofold.fuse.training.data import pools

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

#: of the features in memory: joined, the standardised training rows of the widest head, and what is passing through
COPIES = 2.5
FEW_STEPS = 100  #: of training: a note says when a head takes fewer
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Fold:
    """One split, and the features that its heads see: those of its own encoders, if it has such.

    pretrained: the classifier that each stream brings along, for heads that take it; zero-shot trains one if none.
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

    @cached_property
    def singles(self) -> list[list[TrainedHead]]:
        """What a head that averages singles is made of: for each fold an mlp on each stream. Trained once."""
        settings = replace(self.settings, head=SINGLE)
        return [[fit(settings, self.task, fold.features, fold.split, (k,)) for k in range(len(self.features.streams))]
                for fold in self.folds]


def prepare(stores: Sequence[Path], settings: Settings) -> Experiment:
    """Join the stores' features, in memory if they fit, and split the samples. Raises InputError, CacheError."""
    places = [Store(path) for path in stores]
    task = chosen_task(settings, places)
    settings, notes = _with_extra_views(places, settings)
    features = join(places, backbones=settings.backbones, views=settings.views, task=task, folds=settings.folds,
                    unit=settings.unit, pool=settings.pool)
    features = replace(features, notes=(*features.notes, *notes))
    return experiment_on(features, settings, by_fold=join_folds(places, features, folds=settings.folds,
                                                                   unit=settings.unit))


def experiment_on(features: Features, settings: Settings, *, by_fold: tuple[Features, ...] = (), needs_test: bool = True
                  ) -> Experiment:
    """The features, in memory if they fit, and their splits; encoders' training samples leave the test sets.

    by_fold: the same samples as the encoders of each fold give them. Raises InputError.
    """
    pretrained, note = [], ""
    check_head(features.task, settings.head, features)
    kind = HEAD_TYPES[settings.head]
    if not kind.learns_classes:
        check_pairs(features.taxonomy)
    if kind.pretrained_body:
        pretrained, note = pretrained_classifiers(features)
        if not pretrained and not kind.body:
            raise InputError(f"head {settings.head}: not every stream has an encoder with a classifier of basic "
                             "emotions, as `finetune` writes them: choose other --backbones or another --head")
        note = "" if kind.learns_classes else note
    task = replace(features.task, learns_classes=kind.learns_classes, trains=kind.learns_classes or not pretrained)
    splits = make_splits(features, task, folds=settings.folds, val_fraction=settings.val_fraction, seed=settings.seed,
                         needs_test=needs_test)
    of_fold = by_fold or (features,) * len(splits)
    splits = [drop_encoder_training_samples(each, split, task.learned(features))
              for each, split in zip(of_fold, splits, strict=True)]
    notes = [*features.notes, *dict.fromkeys(splits[0].notes), *([note] if note else [])]
    if by_fold:
        notes.append(f"each of the {len(by_fold)} folds has its own encoder, fine-tuned without its test samples")
    if settings.compound_mixup and features.taxonomy.has_pairs and task.learns_classes and not all(
            pools(features.basic_label[np.union1d(split.train, split.extra)], features.taxonomy.basics, CPU)
            for split in splits):
        notes.append("compound-mixup left out: no training samples with basic labels of both emotions of a class")
        settings = replace(settings, compound_mixup=0.0)
    if features.most_frames and (settings.mixup or (settings.compound_mixup and features.taxonomy.has_pairs)):
        notes.append("mixup left out: frames of clips of unlike lengths do not mix")
        settings = replace(settings, mixup=0.0, compound_mixup=0.0)
    classifiers = [pretrained_classifiers(each)[0] if by_fold and pretrained else pretrained for each in of_fold]
    memory = settings.memory_gb * 1e9 or 0.5 * (free_memory() or USUAL_MEMORY)
    if COPIES * 4 * len(features) * features.width * max(len(by_fold), 1) <= memory:
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


def _with_extra_views(stores: Sequence[Store], settings: Settings) -> tuple[Settings, list[str]]:
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


def subsets(features: Features, settings: Settings) -> list[tuple[str, list[int]]]:
    """The subsets of streams in the table, each with its name, small ones first, all streams last.

    Views that are versions of one stream, or averaged, stay together, and only the first is named.
    """
    everything = range(len(features.streams))
    views = averaged_views(settings, features, everything)
    first = input_streams(settings, features, everything)[:len(everything) // views]
    units = [list(everything[k::len(first)]) for k in range(len(first))]
    sizes = range(1, len(units)) if settings.subsets == "all" else [1] if len(units) > 1 else []
    named_subsets = []
    for chosen in itertools.chain(*(itertools.combinations(units, size) for size in sizes), [units]):
        streams = sorted(itertools.chain(*chosen))
        read = input_streams(settings, features, streams)
        names = [features.streams[k].name for k in read[:len(read) // views]]
        whole = len(chosen) == len(units) > 1
        named_subsets.append((f"fusion of all {len(names)}" if whole else " + ".join(names), streams))
    return named_subsets


def cross_validate(experiment: Experiment, streams: Sequence[int] = (), *, name: str = "",
                   estimator: "BaseEstimator | None" = None) -> tuple[Predictions, list]:
    """Train the settings' head, or a scikit-learn classifier, in each fold; predict the fold's test samples.

    streams: numbers of those it is trained on, none: all; name: what tables call it. Returns the trained heads, one per
    fold, with the predictions of all folds.
    """
    streams = streams or range(len(experiment.features.streams))
    trained: list[TrainedHead | FittedEstimator] = []
    for number, fold in enumerate(experiment.folds):
        if estimator is not None and experiment.settings.view_pooling != "concat":
            raise InputError("view_pooling is for the heads of Twofold: average the views in the estimator's pipeline")
        if estimator is not None:
            trained.append(FittedEstimator(estimator, experiment.task, fold.features, fold.split))
            continue
        averaged = HEAD_TYPES[experiment.settings.head].averages_singles
        trained.append(fit(experiment.settings, experiment.task, fold.features, fold.split, streams,
                           singles=[experiment.singles[number][k] for k in streams] if averaged else (),
                           pretrained=[fold.pretrained[k] for k in streams] if fold.pretrained else ()))
    outputs = [each.predict(fold.features, fold.split.test)
               for each, fold in zip(trained, experiment.folds, strict=True)]
    views = trained[0].head.spec.views if isinstance(trained[0], TrainedHead) else 1
    read = [experiment.features.streams[k] for k in trained[0].streams[:len(trained[0].streams) // views]]
    weights = [each.weights.mean(axis=(0, 1)) for each in outputs if each.weights is not None]
    system = System(
        name=name or trained[0].name, backbones=tuple(stream.name for stream in read), head=trained[0].name,
        dim=sum(stream.dim for stream in read), untrained=any(stream.recipe.untrained for stream in read),
        temperature=mean_calibration([each.calibration for each in trained]).temperature,
        val_score=float(np.mean([each.val_score for each in trained])), score_name=experiment.task.score_name,
        stream_weights=dict(zip(
            weight_names([(stream.name, stream.pieces) for stream in read], len(weights[0]),
                         frames=experiment.features.most_frames > 0),
            np.mean(weights, axis=0).tolist(), strict=True)) if weights else None,
        seconds=sum(each.seconds for each in trained))
    tests = [split.test for split in experiment.splits]
    return Predictions.of(
        experiment.features, np.concatenate(tests), system=system,
        fold=np.repeat(np.arange(len(tests)), [len(rows) for rows in tests]),
        outputs=np.concatenate([each.probabilities for each in outputs], axis=1),
        calibrated=np.concatenate([
            experiment.task.calibrate(output.probabilities.mean(axis=0), each.calibration)
            for output, each in zip(outputs, trained, strict=True)]),
        thresholds=np.concatenate([each.calibration.rows(len(rows))
                                   for rows, each in zip(tests, trained, strict=True)])), trained


def predict_validation(experiment: Experiment, trained: Sequence[TrainedHead], *, system: System) -> Predictions:
    """The predictions for the labelled validation samples of the first fold."""
    fold = experiment.folds[0]
    rows = fold.split.val[fold.features.label[fold.split.val] >= 0]
    outputs = trained[0].predict(fold.features, rows).probabilities
    return Predictions.of(fold.features, rows, system=system, fold=np.zeros(len(rows), int), outputs=outputs,
                          calibrated=experiment.task.calibrate(outputs.mean(axis=0), trained[0].calibration),
                          thresholds=trained[0].calibration.rows(len(rows)), role="val")
