"""scikit-learn's classifiers: logistic regression, the baseline everyone trusts, and any other in a head's place."""

import logging
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from twofold.data.utils.errors import InputError
from twofold.fuse.core.features import Features
from twofold.fuse.core.settings import Settings
from twofold.fuse.core.split import Split
from twofold.fuse.core.task import Task
from twofold.fuse.heads.fusion import Linear
from twofold.fuse.heads.head import HeadOutput
from twofold.fuse.metrics import scores
from twofold.fuse.training.data import Samples
from twofold.fuse.training.ensemble import Spec
from twofold.fuse.training.loop import Epoch

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator
    from sklearn.linear_model import LogisticRegression as Model
    from sklearn.pipeline import Pipeline

MAX_ITERATIONS = 1000
C_VALUES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1)  #: inverse penalties; the best on validation is kept
NEVER = -1e4  #: the logit of a class without training samples

log = logging.getLogger(__name__)


class LogisticRegression(Linear):
    """One affine map of all streams, fitted by scikit-learn instead of the training loop."""

    def fit(self, data: Samples, val: Samples, *, spec: Spec, settings: Settings) -> list[Epoch]:
        """Fit with each penalty to its minimum, and keep the best by its score on validation.

        In float64: in float32 the rounding of another number of threads moved the iterations and with them the
        figures. Returns no history: a path of penalties is no learning curve. Raises InputError if the features are
        not in memory.
        """
        from sklearn.linear_model import LogisticRegression as Model

        if data.x is None or val.x is None:
            raise InputError("logreg needs the features in memory: raise --memory-gb, or use --head linear")
        labelled = data.label >= 0
        x, y = data.x.cpu().numpy()[labelled].astype(np.float64), data.label[labelled]
        x_val = val.x.cpu().numpy().astype(np.float64)
        best, kept = -1.0, C_VALUES[0]
        model = Model(max_iter=MAX_ITERATIONS, tol=1e-4, warm_start=True, random_state=settings.seed)
        for c in C_VALUES:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # said below, in our words
                model.set_params(C=c).fit(x, y)
            if np.max(model.n_iter_) >= MAX_ITERATIONS:
                log.warning("logreg with C = %g has not converged after %d iterations: its figures are not those of "
                            "the minimum", c, MAX_ITERATIONS)
            result = scores.compute_scores(val.label, np.asarray(model.predict(x_val)), len(spec.classes))
            if result.score > best:
                best, kept = result.score, c
                self._copy(model)
        log.info("logreg: C = %g has the best score on validation of %s", kept, C_VALUES)
        return []

    def _copy(self, model: "Model") -> None:
        """scikit-learn's (C, D) into ours (1, D, C); of two classes it keeps one row, the other is its negative."""
        weight, bias = model.coef_, model.intercept_
        if len(model.classes_) == 2:
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        with torch.no_grad():
            self.only.weight.zero_()
            self.only.bias.fill_(NEVER)
            self.only.weight[0][:, model.classes_] = torch.from_numpy(weight.T).float()
            self.only.bias[0][:, model.classes_] = torch.from_numpy(bias).float()


@dataclass(frozen=True)
class FittedEstimator:
    """A scikit-learn classifier on standardised features, calibrated on validation; as `TrainedHead` where it is used.
    """

    pipeline: "Pipeline"
    classes: int
    streams: tuple[int, ...]
    name: str
    temperature: float
    val_score: float
    seconds: float

    def predict(self, features: Features, rows: np.ndarray) -> HeadOutput:
        return HeadOutput(_probabilities(self.pipeline, features.read(rows), self.classes)[None], None, None)


def fit_estimator(estimator: "BaseEstimator", task: Task, features: Features, split: Split) -> FittedEstimator:
    """Fit a fresh copy on the standardised training features; validation samples only calibrate.

    Probabilities are those of `predict_proba`, else the softmax of `decision_function`. Raises InputError for what is
    no classifier, or one that has neither.
    """
    from sklearn.base import clone, is_classifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    started, name, classes = time.perf_counter(), type(estimator).__name__, len(features.taxonomy.classes)
    if not is_classifier(estimator):
        raise InputError(f"{name} is no scikit-learn classifier")
    pipeline = make_pipeline(StandardScaler(), clone(estimator))
    pipeline.fit(features.read(split.train), features.label[split.train])
    temperature, score = task.validate(features, split.val, _probabilities(pipeline, features.read(split.val), classes),
                                       None)
    return FittedEstimator(pipeline, classes, tuple(range(len(features.streams))), name, temperature, score,
                           time.perf_counter() - started)


def _probabilities(pipeline: "Pipeline", x: np.ndarray, classes: int) -> np.ndarray:
    """(n, C) float32; 0 for a class that the estimator was not trained on."""
    name = type(pipeline[-1]).__name__
    if hasattr(pipeline, "predict_proba"):
        shares = pipeline.predict_proba(x)
    elif hasattr(pipeline, "decision_function"):
        margins = pipeline.decision_function(x)
        margins = np.column_stack([-margins, margins]) if margins.ndim == 1 else margins
        shares = np.exp(margins - margins.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
    else:
        raise InputError(f"{name} has neither predict_proba nor decision_function: take a classifier with one, or wrap "
                         "it in CalibratedClassifierCV")
    if np.shape(shares) != (len(x), len(pipeline.classes_)):
        raise InputError(f"{name} gives {np.shape(shares)[-1]} scores per sample for {len(pipeline.classes_)} classes: "
                         "let it give one each (decision_function_shape='ovr', or probability=True)")
    if not np.isfinite(shares).all():
        raise InputError(f"{name} gives scores that are not finite numbers")
    probabilities = np.zeros((len(x), classes), np.float32)
    probabilities[:, pipeline.classes_] = shares
    return probabilities
