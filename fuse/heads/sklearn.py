"""Logistic regression by scikit-learn: the baseline everyone trusts."""

import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch

from twofold.data.utils.errors import InputError
from twofold.fuse.core.settings import Settings
from twofold.fuse.heads.fusion import Linear
from twofold.fuse.metrics import scores
from twofold.fuse.training.data import Samples
from twofold.fuse.training.ensemble import Spec
from twofold.fuse.training.loop import Epoch

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression as Model

MAX_ITERATIONS = 1000
C_VALUES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1)  #: inverse penalties; the best on validation is kept
NEVER = -1e4  #: the logit of a class without training samples

log = logging.getLogger(__name__)


class LogisticRegression(Linear):
    """One affine map of all streams, fitted by scikit-learn instead of the training loop."""

    def fit(self, data: Samples, val: Samples, *, spec: Spec, settings: Settings) -> list[Epoch]:
        """Fit with each penalty to its minimum, and keep the best by validation macro-F1.

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
            if result.macro_f1 > best:
                best, kept = result.macro_f1, c
                self._copy(model)
        log.info("logreg: C = %g has the best validation macro-F1 of %s", kept, C_VALUES)
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
