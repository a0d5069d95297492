"""An experiment: joined features, who trains, chooses and scores, and the heads that are trained and scored on them."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from twofold.cache.classifier import BackboneClassifier
from twofold.cache.store import Store
from twofold.fuse.features import FusedFeatures, fits, join, join_folds
from twofold.fuse.heads.head import TrainedHead, fit, fit_single, learning_rows, member_scores
from twofold.fuse.heads.zeroshot import own_classifiers
from twofold.fuse.metrics import scores as metrics
from twofold.fuse.predictions import ScoredHead
from twofold.fuse.settings import Settings
from twofold.fuse.split import Partition, SeenSamples, Task, drop_encoder_training_samples, partitions, seen_samples
from twofold.fuse.task import check_pairs, chosen_classes
from twofold.fuse.training.augment import membership

Singles = Mapping[int, Sequence[TrainedHead]]  #: stream to what `late` averages of it, a head a partition


@dataclass(frozen=True)
class Fold:
    """One partition of the faces, and what its heads see: the features as its own encoders give them, if it has such.

    own: for zero-shot, the classifier that each stream brought along; none: one is trained.
    """

    features: FusedFeatures
    partition: Partition
    own: list[BackboneClassifier]


@dataclass(frozen=True)
class Experiment:
    """Joined features and who trains, chooses and scores; the same for every head that is tried on them."""

    features: FusedFeatures
    folds: list[Fold]
    notes: list[str]
    settings: Settings  #: as asked for, less what these faces do not allow (said in `notes`)

    @property
    def partitions(self) -> list[Partition]:
        return [fold.partition for fold in self.folds]


def prepare(stores: Sequence[Path], settings: Settings) -> Experiment:
    """Join the stores' features, in memory if they fit, and part the faces. Raises InputError, CacheError."""
    places = [Store(path) for path in stores]
    classes = chosen_classes(settings, places)
    settings, lacking = with_extra_views(places, settings)
    features = join(places, backbones=settings.backbones, views=settings.views, taxonomy=classes, folds=settings.folds)
    features = replace(features, notes=(*features.notes, *lacking))
    return experiment_on(features, settings, by_fold=join_folds(places, features, folds=settings.folds))


def experiment_on(features: FusedFeatures, settings: Settings, *, by_fold: tuple[FusedFeatures, ...] = ()
                  ) -> Experiment:
    """The features, in memory if they fit, their faces parted; test faces that an encoder was taught with leave test.

    by_fold: the same faces as the encoders of each fold give them. Raises InputError.
    """
    zero_shot = settings.head == "zeroshot"
    if zero_shot:
        check_pairs(features.taxonomy)
    own, origin = own_classifiers(features) if zero_shot else ([], "")
    task = Task.of(features, zero_shot=zero_shot, learns=not own)
    parts = partitions(features, task, folds=settings.folds, val_fraction=settings.val_fraction, seed=settings.seed)
    parts = [drop_encoder_training_samples(each, part)
             for each, part in zip(by_fold or [features] * len(parts), parts, strict=True)]
    notes = [*features.notes, *dict.fromkeys(parts[0].notes), *([origin] if origin else [])]
    if by_fold:
        notes.append(f"each of the {len(by_fold)} folds has its own fine-tuned encoder, taught without its test faces")
    mixes = settings.compound_mixup and features.taxonomy.has_pairs and not zero_shot
    if mixes and not can_make_compounds(features, parts):
        notes.append("compound-mixup left out: no training faces with basic labels of both emotions of a class")
        settings = replace(settings, compound_mixup=0.0)
    owns = [own_classifiers(each)[0] for each in by_fold] if own and by_fold else [own] * len(parts)
    if fits(features, settings.memory_gb / max(len(by_fold), 1)):
        features, by_fold = features.loaded(), tuple(each.loaded() for each in by_fold)
    else:
        notes.append("features streamed from disk: they exceed the memory allowed")
    folds = list(map(Fold, by_fold or [features] * len(parts), parts, owns))
    return Experiment(features, folds, notes, settings)


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


def can_make_compounds(features: FusedFeatures, parts: Sequence[Partition]) -> bool:
    """True if in every partition the training faces have basic labels for both emotions of some class."""
    pairs = membership(features.taxonomy.basics).astype(bool)
    present = [np.isin(np.arange(len(pairs)), features.basic_label[np.union1d(part.train, part.extra)])
               for part in parts]
    return all(((pairs <= basics[:, None]).all(axis=0) & (pairs.sum(axis=0) == 2)).any() for basics in present)


def subsets(features: FusedFeatures, settings: Settings) -> list[tuple[int, ...]]:
    """The subsets of streams in the table, small ones first, all streams last.

    With the paper's head the views of a backbone stay together: they are versions of one stream.
    """
    count = len(features.streams)
    units = [(k,) for k in range(count)]
    if settings.head == "paper":
        backbones = count // len(settings.views)
        units = [tuple(range(k, count, backbones)) for k in range(backbones)]
    sizes = range(1, len(units)) if settings.subsets == "all" else [1] if len(units) > 1 else []
    smaller = [combination for size in sizes for combination in itertools.combinations(units, size)]
    return [tuple(sorted(itertools.chain(*combination))) for combination in [*smaller, tuple(units)]]


def subset_name(features: FusedFeatures, streams: Sequence[int], settings: Settings) -> str:
    """What the table calls a subset."""
    view = features.streams[0].view
    first = [k for k in streams if settings.head != "paper" or features.streams[k].view == view]
    if len(first) == 1:
        return features.streams[first[0]].name
    if len(streams) == len(features.streams):
        return f"fusion of all {len(first)}"
    return " + ".join(features.streams[k].name for k in first)


def seen_by(experiment: Experiment) -> SeenSamples:
    """The training, validation and test samples of each fold."""
    return seen_samples(experiment.features, [
        (*learning_rows(experiment.settings, experiment.features, part), part.test)
        for part in experiment.partitions])


def train_singles(experiment: Experiment) -> Singles:
    """For the head `late`, each stream's head, trained once for all subsets; for others none."""
    if experiment.settings.head != "late":
        return {}
    return {k: [fit_single(experiment.settings, fold.features, fold.partition, k) for fold in experiment.folds]
            for k in range(len(experiment.features.streams))}


def train_subset(experiment: Experiment, streams: Sequence[int], singles: Singles) -> list[TrainedHead]:
    """The heads of one subset of the streams, one a partition. singles: as `train_singles` gives them."""
    return [fit(experiment.settings, fold.features, fold.partition, streams,
                singles=[singles[k][number] for k in streams] if singles else (),
                own=[fold.own[k] for k in streams] if fold.own else ())
            for number, fold in enumerate(experiment.folds)]


def score(experiment: Experiment, trained: Sequence[TrainedHead], *, name: str) -> ScoredHead:
    """The trained heads of one subset, one a partition, each scored on its own test faces."""
    features, first = experiment.features, trained[0]
    rows = np.concatenate([part.test for part in experiment.partitions])
    streams = [features.streams[k] for k in first.streams]
    scores = [member_scores(each.head, fold.features, fold.partition.test, each.streams)
              for fold, each in zip(experiment.folds, trained, strict=True)]
    shares = [each.shares.mean(axis=(0, 1)).tolist() for each in scores if each.shares is not None]
    return ScoredHead(
        name=name, backbones=tuple(stream.name for stream in streams), head=first.head.spec.kind,
        dim=sum(stream.dim for stream in streams), untrained=any(stream.recipe.untrained for stream in streams),
        rows=rows, truth=features.label[rows], groups=features.group[rows],
        members=np.concatenate([each.probabilities for each in scores], axis=1),
        calibrated=np.concatenate([metrics.tempered(each.probabilities.mean(axis=0), head.temperature)
                                   for each, head in zip(scores, trained, strict=True)]),
        temperature=float(np.mean([each.temperature for each in trained])),
        val_macro_f1=float(np.mean([each.val_macro_f1 for each in trained])),
        shares=dict(zip((stream.name for stream in streams), np.mean(shares, axis=0).tolist(), strict=True))
        if shares else None,
        seconds=sum(each.seconds for each in trained))
