"""scikit-learn's classifiers: logistic regression, the baseline everyone trusts, and any other in a head's place."""

import logging
import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from twofold.data.utils.errors import InputError
from twofold.fuse.core.features import Features
from twofold.fuse.core.kinds import Classification, positive_weight
from twofold.fuse.core.settings import Settings
from twofold.fuse.core.split import Split
from twofold.fuse.core.task import Task
from twofold.fuse.heads.fusion import Linear
from twofold.fuse.heads.head import HeadOutput
from twofold.fuse.training.data import Samples
from twofold.fuse.training.ensemble import Spec
from twofold.fuse.training.loop import Epoch

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

MAX_ITERATIONS = 1000
C_VALUES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1)  #: inverse penalties; the best on validation is kept
TOLERANCE = 1e-3  #: of an estimator's probabilities, some of which compute in float16
NEVER = -1e4  #: the logit of a class without training samples

log = logging.getLogger(__name__)


class LogisticRegression(Linear):
    """One affine map of all streams, fitted by scikit-learn instead of the training loop: multinomial logistic
    regression of classes (each sample weighted by its share of each), one-vs-rest of labels, ridge regression of
    numbers."""

    def fit(self, data: Samples, val: Samples, *, spec: Spec, settings: Settings) -> list[Epoch]:
        """Fit with each penalty to its minimum, and keep the best by its score on validation.

        In float64: in float32 the rounding of another number of threads moved the iterations and with them the
        figures. Returns no history: a path of penalties is no learning curve. Raises InputError if the features are
        not in memory.
        """
        if data.x is None or val.x is None:
            raise InputError("logreg needs the features in memory: raise --memory-gb, or use --head linear")
        x, x_val = (values.cpu().numpy().astype(np.float64) for values in (data.x, val.x))
        models, fits = _models(data, settings), []
        for c in C_VALUES:
            weight, bias = np.zeros((x.shape[1], len(spec.classes))), np.full(len(spec.classes), NEVER)
            for columns, rows, y, sample_weight, model in models:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # said below, in our words
                    model.set_params(**({"C": c} if hasattr(model, "C") else {"alpha": 1 / c}))
                    model.fit(x[rows], y, sample_weight)
                if np.max(0 if model.n_iter_ is None else model.n_iter_) >= MAX_ITERATIONS:
                    log.warning("logreg with C = %g has not converged after %d iterations: its figures are not those "
                                "of the minimum", c, MAX_ITERATIONS)
                coefficients, intercept = np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)
                if len(columns) == 1:
                    weight[:, columns], bias[columns] = coefficients.T, intercept
                    continue
                if len(model.classes_) == 2:  # scikit-learn keeps one row, the other is its negative
                    coefficients, intercept = (np.concatenate([-each, each]) / 2 for each in (coefficients, intercept))
                weight[:, model.classes_], bias[model.classes_] = coefficients.T, intercept
            figures = data.task.epoch_figures(torch.from_numpy(x_val @ weight + bias), val.target, val.label)
            fits.append((data.task.score.rank(next(iter(figures.values()))), c, weight, bias))
        _, kept, weight, bias = max(fits, key=lambda fit: fit[0])  # of equal ones the first
        log.info("logreg: C = %g has the best score on validation of %s", kept, C_VALUES)
        with torch.no_grad():
            self.only.weight[0].copy_(torch.from_numpy(weight))
            self.only.bias[0].copy_(torch.from_numpy(bias))
        return []


def _models(data: Samples, settings: Settings) -> list[tuple[list[int], np.ndarray, np.ndarray, np.ndarray, Any]]:
    """What is fitted by itself: its columns, the rows of x, their targets and weights, and the model. Classes are one,
    each label or number is one."""
    from sklearn.linear_model import LogisticRegression as Model
    from sklearn.linear_model import Ridge

    def logistic() -> Any:
        return Model(max_iter=MAX_ITERATIONS, tol=1e-4, warm_start=True, random_state=settings.seed)

    task, classes, models = data.task, data.task.classes, []
    if classes:
        rows, label = np.nonzero(data.target[:, :classes])
        models.append((list(range(classes)), rows, label, data.target[rows, label].astype(float), logistic()))
    rates = np.nanmean(data.target[:, classes:], axis=0, dtype=float)
    weight = positive_weight(torch.from_numpy(rates), settings).numpy()
    for column in range(classes, data.target.shape[1]):
        rows = np.flatnonzero(~np.isnan(data.target[:, column]))
        y = data.target[rows, column].astype(float)
        if task.numbers[column]:
            models.append(([column], rows, y, np.ones(len(y)), Ridge()))
        else:
            models.append(([column], rows, y, np.where(y > 0, weight[column - classes], 1.0), logistic()))
    return models


class FittedEstimator:
    """A fresh copy of a scikit-learn classifier, fitted on the standardised training features; in the place of a
    `TrainedHead`. Validation samples only calibrate.

    Raises InputError for what is no classifier, or one that gives no score for each class.
    """

    def __init__(self, estimator: "BaseEstimator", task: Task, features: Features, split: Split):
        from sklearn.base import clone, is_classifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        started, self.name = time.perf_counter(), type(estimator).__name__
        if isinstance(estimator, type):
            raise InputError(f"{estimator.__name__} is a class: give an estimator made of it, {estimator.__name__}()")
        if not is_classifier(estimator) or task.kind != Classification.kind:
            raise InputError(f"{self.name} is no scikit-learn classifier" if task.kind == Classification.kind else
                             f"scikit-learn estimators do classification only, not {task.kind}: take a head of ours")
        self.streams = tuple(range(len(features.streams)))
        self.pipeline = make_pipeline(StandardScaler(), clone(estimator))
        self.pipeline.fit(features.read(split.train), features.label[split.train])
        self.calibration, self.val_score = task.validate(
            features, split.val, self.predict(features, split.val).probabilities[0], None)
        self.seconds = time.perf_counter() - started

    def predict(self, features: Features, rows: np.ndarray) -> HeadOutput:
        """Probabilities by `predict_proba`, else the softmax of `decision_function`; 0 for a class that it was not
        trained on."""
        x, classes = features.read(rows), self.pipeline.classes_
        if hasattr(self.pipeline, "predict_proba"):
            shares = self.pipeline.predict_proba(x)
        elif hasattr(self.pipeline, "decision_function"):
            margins = self.pipeline.decision_function(x)
            margins = np.column_stack([-margins, margins]) if margins.ndim == 1 else margins
            shares = np.exp(margins - margins.max(axis=1, keepdims=True))
            shares /= shares.sum(axis=1, keepdims=True)
        else:
            raise InputError(f"{self.name} has neither predict_proba nor decision_function: take a classifier with "
                             "one, or wrap it in CalibratedClassifierCV")
        try:
            shares = np.asarray(shares, np.float64)
        except (TypeError, ValueError):
            raise InputError(f"{self.name} gives scores that are no table of numbers") from None
        if shares.shape != (len(x), len(classes)):
            raise InputError(f"{self.name} gives scores of shape {shares.shape} for {len(x)} samples and "
                             f"{len(classes)} classes: let it give one each (decision_function_shape='ovr', or "
                             "probability=True)")
        if not np.isfinite(shares).all():
            raise InputError(f"{self.name} gives scores that are not finite numbers")
        if (shares < -TOLERANCE).any() or (abs(shares.sum(axis=1) - 1) > TOLERANCE).any():
            raise InputError(f"{self.name}: its predict_proba gives no probabilities (each from 0, a sample's classes "
                             "together 1): normalise them there, or wrap it in CalibratedClassifierCV")
        probabilities = np.zeros((1, len(x), len(features.taxonomy.classes)), np.float32)
        probabilities[0][:, classes] = shares
        return HeadOutput(probabilities, None, None)
