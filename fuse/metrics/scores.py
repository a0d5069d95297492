"""How good predictions are: accuracy, macro-F1, recalls, calibration. Plain numpy, checked against scikit-learn."""

from dataclasses import dataclass

import numpy as np

from twofold.fuse.metrics.metric import SumMetric

BINS = 15  #: of the expected calibration error, as Guo et al., arXiv 1706.04599


@dataclass(frozen=True)
class Scores:
    """Figures of one set of predictions. Per-class arrays are (C,) in class order."""

    confusion: np.ndarray  #: (C, C) counts, rows = target
    accuracy: float
    score: float  #: macro-F1, the mean over all classes; one that has no samples counts 0
    score_present: float  #: the other convention: mean over the classes that have samples
    uar: float  #: unweighted average recall of the classes that have samples
    precision: np.ndarray
    recall: np.ndarray  #: nan for a class without samples
    f1: np.ndarray
    n: np.ndarray


def confusion_matrix(target: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """(C, C) counts, rows = target, columns = prediction; both (N,) of 0 to C - 1."""
    return np.bincount(target * classes + prediction, minlength=classes * classes).reshape(classes, classes)


def compute_scores(target: np.ndarray, prediction: np.ndarray, classes: int) -> Scores:
    """All figures of (N,) predictions."""
    matrix = confusion_matrix(target, prediction, classes)
    return Scores(matrix, float(accuracy(matrix)), float(macro_f1(matrix)), float(macro_f1_present(matrix)),
                  float(uar(matrix)), *per_class(matrix), matrix.sum(axis=1))


def per_class(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 (..., C) of confusions (..., C, C).

    0/0 is 0, scikit-learn's default, but for the recall of a class without samples, which is nan: there is nothing to
    find. Its F1 is 0 all the same: it is called where it is not, or it is never seen to work.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(float)
    samples, calls = confusion.sum(axis=-1), confusion.sum(axis=-2)
    recall = np.where(samples > 0, hits / np.maximum(samples, 1), np.nan)
    return hits / np.maximum(calls, 1), recall, 2 * hits / np.maximum(samples + calls, 1)


def accuracy(confusion: np.ndarray) -> np.ndarray:
    """Share of samples called right, of confusions (..., C, C)."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).sum(axis=-1)
    return hits / np.maximum(confusion.sum(axis=(-2, -1)), 1)


def accuracy_gradient(confusion: np.ndarray) -> np.ndarray:
    """(..., C, C) derivative of accuracy by each count of confusions (..., C, C)."""
    samples = np.maximum(confusion.sum(axis=(-2, -1)), 1)[..., None, None]
    return (np.eye(confusion.shape[-1]) - accuracy(confusion)[..., None, None]) / samples


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Unweighted mean F1 over all classes, of confusions (..., C, C): the paper's metric (arXiv 2407.12257, Eq. 5).

    A class without samples counts 0, as scikit-learn's `f1_score(labels=all classes, average="macro")` has it.
    """
    return per_class(confusion)[2].mean(axis=-1)


def macro_f1_present(confusion: np.ndarray) -> np.ndarray:
    """Unweighted mean F1 over the classes that have samples, of confusions (..., C, C): not what others publish."""
    return per_class(confusion)[2].sum(axis=-1) / np.maximum((confusion.sum(axis=-1) > 0).sum(axis=-1), 1)


def macro_f1_gradient(confusion: np.ndarray) -> np.ndarray:
    """(..., C, C) derivative of macro-F1 by each count of confusions (..., C, C).

    With F1 of a class = 2 hits / (samples + calls), a count off the diagonal lowers that of its row and of its column.
    """
    classes = confusion.shape[-1]
    total = np.maximum(confusion.sum(axis=-1) + confusion.sum(axis=-2), 1)
    slope = per_class(confusion)[2] / total / classes
    return 2 / classes * np.eye(classes) / total[..., None] - slope[..., :, None] - slope[..., None, :]


def uar(confusion: np.ndarray) -> np.ndarray:
    """Unweighted average recall over the classes that have samples, of confusions (..., C, C).

    A recall needs samples, so classes without any are left out, as in scikit-learn's `balanced_accuracy_score`.
    """
    recall = per_class(confusion)[1]
    present = ~np.isnan(recall)
    return np.where(present, recall, 0).sum(axis=-1) / np.maximum(present.sum(axis=-1), 1)


def group_confusions(target: np.ndarray, output: np.ndarray, number: np.ndarray, groups: int) -> np.ndarray:
    """(G, C, C) confusion counts of each group. target: (N,) class numbers; output: (N, C), the largest is called."""
    classes = output.shape[1]
    cells = classes * classes
    flat = np.bincount(number * cells + target * classes + output.argmax(axis=1), minlength=groups * cells)
    return flat.reshape(groups, classes, classes)


def wrong(target: np.ndarray, output: np.ndarray) -> np.ndarray:
    """(N,) 1 for a sample that is called wrong, else 0."""
    return (output.argmax(axis=1) != target).astype(float)


ACCURACY = SumMetric(key="accuracy", name="accuracy", loss=wrong, sums=group_confusions, value=accuracy,
                     gradient=accuracy_gradient)
#: what heads are chosen and compared by
SCORE = SumMetric(key="macro_f1", name="macro-F1", loss=wrong, sums=group_confusions, value=macro_f1,
                  gradient=macro_f1_gradient)


@dataclass(frozen=True, eq=False)
class Reliability:
    """For each of `BINS` equal bins of confidence (15,): the samples called with so much, how many of these are right,
    and the sum of their confidences."""

    samples: np.ndarray
    right: np.ndarray
    confidence: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: mean |accuracy - confidence| of the bins, weighted by their samples."""
        return float(np.abs(self.right - self.confidence).sum() / max(self.samples.sum(), 1))

    def record(self) -> dict[str, list]:
        return {"faces": self.samples.tolist(), "right": self.right.tolist(), "confidence": self.confidence.tolist()}


def reliability(probabilities: np.ndarray, target: np.ndarray) -> Reliability:
    """The bins of (N, C) probabilities of samples of these (N,) classes."""
    confidence = probabilities.max(axis=1, initial=0)
    right = probabilities.argmax(axis=1) == target
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    return Reliability(np.bincount(place, minlength=BINS), np.bincount(place[right], minlength=BINS),
                       np.bincount(place, confidence, BINS))


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (..., C) with their logarithms divided by a temperature."""
    logits = np.log(np.maximum(probabilities, 1e-12)) / temperature
    logits -= logits.max(axis=-1, keepdims=True)
    powers = np.exp(logits)
    return powers / powers.sum(axis=-1, keepdims=True)


def fit_temperature(probabilities: np.ndarray, target: np.ndarray) -> float:
    """The temperature in [0.05, 20] under which (N, C) give the targets the greatest likelihood (Guo et al., 2017).

    target: (N,) class numbers, or (N, C) shares of the classes.

    One sample in N + 1 is taken to be of any class alike (Laplace's rule of succession): else a head that calls all N
    right would be given the least temperature there is, and certainty.
    The likelihood is concave in 1 / temperature, so a golden-section search reaches it.
    """
    logits = np.log(np.maximum(probabilities, 1e-12))
    doubt = 1 / (len(target) + 1)
    shares = (np.eye(probabilities.shape[1])[target] if target.ndim == 1 else target).astype(probabilities.dtype)

    def loss(inverse: float) -> float:
        scaled = logits * inverse
        scaled -= scaled.max(axis=1, keepdims=True)
        likelihood = (1 - doubt) * (shares * scaled).sum(axis=1) + doubt * scaled.mean(axis=1)
        return float((np.log(np.exp(scaled).sum(axis=1)) - likelihood).mean())

    low, high, ratio = 0.05, 20.0, (np.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return float(2 / (low + high))
