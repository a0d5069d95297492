"""The classifier of basic emotions that a backbone brought along, as its feature files carry it."""

import numpy as np

from twofold.cache.format.classifier import OwnClassifier
from twofold.cache.format.featurefile import FeatureFile
from twofold.data.labels import BASIC
from twofold.fuse.features.features import FusedFeatures, Stream

NONE = "has no classifier"
NEVER = -1e4  #: the logit of a basic emotion that the backbone does not know
CLOSE = 1e-2  #: largest error in a logit of an older file, against the largest logit
ROWS = 8  #: times as many faces as features, at most, to find the classifier of an older file from


def own_classifiers(features: FusedFeatures) -> tuple[list[OwnClassifier], str]:
    """The classifier of each stream, weight (D, 8) and bias (8,) in the order of BASIC, or none at all where a stream
    has none; and what is to be said about it."""
    of_streams = [_of_stream(stream) for stream in features.streams]
    reasons = {stream.name: reason for stream, reason in zip(features.streams, of_streams, strict=True)
               if isinstance(reason, str)}
    if not reasons:
        return ([classifier for classifier in of_streams if not isinstance(classifier, str)],
                "zero-shot from the backbones' own classifiers: nothing is trained")
    if set(reasons.values()) == {NONE} and len(reasons) == len(of_streams):
        return [], "zero-shot from a basic classifier trained on basic labels: no stream has a classifier of its own"
    return [], ("zero-shot from a basic classifier trained on basic labels, not from the backbones' own: "
                + ", ".join(f"{name} {reason}" for name, reason in reasons.items()))


def _of_stream(stream: Stream) -> OwnClassifier | str:
    """Of the first file that has one, since all have one recipe; or why there is none."""
    for file in stream.files:
        classifier = file.classifier or _from_logits(file)
        if classifier is not None:
            return _of_basics(classifier)
    return NONE


def _of_basics(classifier: OwnClassifier) -> OwnClassifier | str:
    """The same classifier with all basic emotions, in the order of BASIC."""
    strange = [name for name in classifier.classes if name not in BASIC]
    if strange:
        return f"has a classifier of {strange[0]!r}, which is no basic emotion"
    columns = [BASIC.index(name) for name in classifier.classes]
    weight = np.zeros((len(classifier.weight), len(BASIC)), np.float32)
    bias = np.full(len(BASIC), NEVER, np.float32)
    weight[:, columns], bias[columns] = classifier.weight, classifier.bias
    return OwnClassifier(BASIC, weight, bias)


def _from_logits(file: FeatureFile) -> OwnClassifier | None:
    """Of a file written when logits were stored beside the features: the affine map between them, by least squares.

    None if there are no logits, or too few faces to tell that they are such a map.
    """
    stored = file.logits()
    if stored is None or file.rows < 2 * file.dim:
        return None
    rows = np.sort(np.random.default_rng(0).permutation(file.rows)[:ROWS * file.dim])
    inputs, logits = np.insert(file.read_rows(rows, dtype=np.float64), 0, 1, axis=1), stored[1][rows]
    solution = np.linalg.lstsq(inputs, logits, rcond=None)[0]
    if np.abs(inputs @ solution - logits).max() > CLOSE * np.abs(logits).max():
        return None
    return OwnClassifier(stored[0], solution[1:].astype(np.float32), solution[0].astype(np.float32))
