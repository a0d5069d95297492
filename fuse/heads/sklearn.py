"""Logistic regression by scikit-learn, and any other classifier of it in the place of a head."""

import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch

from twofold.data.utils.errors import InputError
from twofold.fuse.heads.fusion import Linear
from twofold.fuse.metrics import scores as metrics
from twofold.fuse.training.data import Examples
from twofold.fuse.training.loop import Epoch

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

MOST_ITERATIONS = 1000
STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1)  #: of C, the inverse of the penalty; chosen by validation macro-F1


log = logging.getLogger(__name__)


def fill_logreg(body: Linear, data: Examples, val: Examples, *, seed: int) -> list[Epoch]:
    """Fit on standardised features with each strength, each to its minimum, and keep the best on validation.

    In float64: in float32 the rounding of another number of threads moved the iterations and with them the figures.
    Returns one line of history a strength, as `epoch`. Raises InputError if the features are not in memory.
    """
    from sklearn.linear_model import LogisticRegression

    if data.x is None or val.x is None:
        raise InputError("logreg needs the features in memory: raise --memory-gb, or use --head linear")
    labelled = data.label >= 0
    x, y = data.x.cpu().numpy()[labelled].astype(np.float64), data.label[labelled]
    x_val = val.x.cpu().numpy().astype(np.float64)
    classes, best, history = body.only.weight.shape[-1], -1.0, []
    model = LogisticRegression(max_iter=MOST_ITERATIONS, tol=1e-4, warm_start=True, random_state=seed)
    for number, strength in enumerate(STRENGTHS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said below, in our words
            model.set_params(C=strength).fit(x, y)
        if np.max(model.n_iter_) >= MOST_ITERATIONS:
            log.warning("logreg with C = %g has not converged after %d iterations: its figures are not those of the "
                        "minimum", strength, MOST_ITERATIONS)
        scores = metrics.scores(val.label, np.asarray(model.predict(x_val)), classes)
        history.append(Epoch(0, number, _loss(model, x, y), scores.macro_f1, scores.accuracy, strength))
        if scores.macro_f1 > best:
            best = scores.macro_f1
            _copy(body, model)
    return history


def _loss(model: "LogisticRegression", x: np.ndarray, y: np.ndarray) -> float:
    place = np.searchsorted(model.classes_, y)
    return float(-model.predict_log_proba(x)[np.arange(len(y)), place].mean())


def _copy(body: Linear, model: "LogisticRegression") -> None:
    """scikit-learn's (C, D) into ours (1, D, C); of two classes it keeps one row, the other being its negative."""
    weight, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    with torch.no_grad():
        body.only.weight.zero_()
        body.only.bias.fill_(-1e4)  # classes that no face teaches are never called
        body.only.weight[0][:, model.classes_] = torch.from_numpy(weight.T).float()
        body.only.bias[0][:, model.classes_] = torch.from_numpy(bias).float()
