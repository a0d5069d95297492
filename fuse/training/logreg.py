"""Logistic regression by scikit-learn: the baseline everyone trusts."""

import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch

from twofold.data.errors import InputError
from twofold.fuse.heads.concat import Linear
from twofold.fuse.scores import metrics
from twofold.fuse.training.loop import Epoch
from twofold.fuse.training.standardised import Examples

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1)  #: of C, the inverse of the penalty; chosen by validation macro-F1


def fill_logreg(body: Linear, data: Examples, val: Examples, *, seed: int) -> list[Epoch]:
    """Fit on standardised features with each strength and keep the best on validation. Deterministic.

    Returns one line of history a strength, as `epoch`. Raises InputError if the features are not in memory.
    """
    from sklearn.linear_model import LogisticRegression

    if data.x is None or val.x is None:
        raise InputError("logreg needs the features in memory: raise --memory-gb, or use --head linear")
    labelled = data.label >= 0
    x, y, x_val = data.x.cpu().numpy()[labelled], data.label[labelled], val.x.cpu().numpy()
    classes, best, history = body.only.weight.shape[-1], -1.0, []
    model = LogisticRegression(max_iter=300, tol=1e-3, warm_start=True, random_state=seed)
    for number, strength in enumerate(STRENGTHS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an unfinished fit is a candidate like any other: validation decides
            model.set_params(C=strength).fit(x, y)
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
