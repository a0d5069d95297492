"""Any scikit-learn classifier in the place of a head: the same faces, the same partition, the same figures."""

import time
from collections.abc import Sequence

import numpy as np
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from twofold.data.errors import InputError
from twofold.fuse.experiment import Experiment
from twofold.fuse.features.features import FusedFeatures
from twofold.fuse.features.partition import Partition
from twofold.fuse.scores import metrics
from twofold.fuse.scores.scored_head import ScoredHead


def score_estimator(experiment: Experiment, estimator: BaseEstimator, *, name: str = "") -> ScoredHead:
    """Fit a fresh copy on each partition's standardised training features; score it on that partition's test faces.

    Validation faces only calibrate. Probabilities are those of `predict_proba`, else the softmax of
    `decision_function`. Raises InputError for what is no classifier, or one that has neither.
    """
    if not is_classifier(estimator):
        raise InputError(f"{type(estimator).__name__} is no scikit-learn classifier")
    started = time.perf_counter()
    features = experiment.features
    rows = np.concatenate([part.test for part in experiment.partitions])
    fitted = [_fit(estimator, features, part) for part in experiment.partitions]
    validation = [_probabilities(pipeline, features, part.val)
                  for pipeline, part in zip(fitted, experiment.partitions, strict=True)]
    test = [_probabilities(pipeline, features, part.test)
            for pipeline, part in zip(fitted, experiment.partitions, strict=True)]
    truths = [features.label[part.val] for part in experiment.partitions]
    temperatures = [metrics.fit_temperature(probabilities, truth)
                    for probabilities, truth in zip(validation, truths, strict=True)]
    classes = len(features.taxonomy.classes)
    return ScoredHead(
        name=name or type(estimator).__name__, backbones=tuple(stream.name for stream in features.streams),
        head=type(estimator).__name__, dim=features.dim,
        untrained=any(stream.recipe.untrained for stream in features.streams), rows=rows, truth=features.label[rows],
        groups=features.group[rows], members=np.concatenate(test)[None],
        calibrated=np.concatenate([metrics.tempered(probabilities, temperature)
                                   for probabilities, temperature in zip(test, temperatures, strict=True)]),
        temperature=float(np.mean(temperatures)),
        val_macro_f1=float(np.mean([metrics.scores(truth, probabilities.argmax(axis=1), classes).macro_f1
                                    for truth, probabilities in zip(truths, validation, strict=True)])),
        shares=None, seconds=time.perf_counter() - started)


def _fit(estimator: BaseEstimator, features: FusedFeatures, part: Partition) -> Pipeline:
    pipeline = make_pipeline(StandardScaler(), clone(estimator))
    return pipeline.fit(features.read(part.train, _every(features)), features.label[part.train])


def _probabilities(pipeline: Pipeline, features: FusedFeatures, rows: np.ndarray) -> np.ndarray:
    """(n, C) float32; a class that the estimator has not met has none."""
    values = features.read(rows, _every(features))
    if hasattr(pipeline, "predict_proba"):
        scores = pipeline.predict_proba(values)
    elif hasattr(pipeline, "decision_function"):
        margins = pipeline.decision_function(values)
        margins = np.column_stack([-margins, margins]) if margins.ndim == 1 else margins
        scores = np.exp(margins - margins.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    else:
        raise InputError(f"{type(pipeline[-1]).__name__} has neither predict_proba nor decision_function")
    probabilities = np.zeros((len(rows), len(features.taxonomy.classes)), np.float32)
    probabilities[:, pipeline.classes_] = scores
    return probabilities


def _every(features: FusedFeatures) -> Sequence[int]:
    return range(len(features.streams))
