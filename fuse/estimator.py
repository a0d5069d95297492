"""Any scikit-learn classifier in the place of a head: the same faces, the same partition, the same figures."""

import time

import numpy as np
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from twofold.data.utils.errors import InputError
from twofold.fuse.experiment import Experiment
from twofold.fuse.features import FusedFeatures
from twofold.fuse.metrics import scores as metrics
from twofold.fuse.predictions import ScoredHead


def score_estimator(experiment: Experiment, estimator: BaseEstimator, *, name: str = "") -> ScoredHead:
    """Fit a fresh copy on each partition's standardised training features; score it on that partition's test faces.

    Validation faces only calibrate. Probabilities are those of `predict_proba`, else the softmax of
    `decision_function`. Raises InputError for what is no classifier, or one that has neither.
    """
    if not is_classifier(estimator):
        raise InputError(f"{type(estimator).__name__} is no scikit-learn classifier")
    started, features, classes = time.perf_counter(), experiment.features, len(experiment.features.taxonomy.classes)
    rows = np.concatenate([part.test for part in experiment.partitions])
    members, calibrated, temperatures, val_macro_f1 = [], [], [], []
    for part in experiment.partitions:
        pipeline = make_pipeline(StandardScaler(), clone(estimator))
        pipeline.fit(features.read(part.train), features.label[part.train])
        validation, truth = _probabilities(pipeline, features, part.val), features.label[part.val]
        members.append(_probabilities(pipeline, features, part.test))
        temperatures.append(metrics.fit_temperature(validation, truth))
        calibrated.append(metrics.tempered(members[-1], temperatures[-1]))
        val_macro_f1.append(metrics.scores(truth, validation.argmax(axis=1), classes).macro_f1)
    return ScoredHead(
        name=name or type(estimator).__name__, backbones=tuple(stream.name for stream in features.streams),
        head=type(estimator).__name__, dim=features.dim,
        untrained=any(stream.recipe.untrained for stream in features.streams), rows=rows, truth=features.label[rows],
        groups=features.group[rows], members=np.concatenate(members)[None], calibrated=np.concatenate(calibrated),
        temperature=float(np.mean(temperatures)), val_macro_f1=float(np.mean(val_macro_f1)), shares=None,
        seconds=time.perf_counter() - started)


def _probabilities(pipeline: Pipeline, features: FusedFeatures, rows: np.ndarray) -> np.ndarray:
    """(n, C) float32; a class that the estimator has not met has none."""
    values = features.read(rows)
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
