"""The classifier of basic emotions that a backbone brought along, from the logits stored beside its features.

The logits are an affine map of the features as they are stored, and a run must predict where only features are: so
the map is found again by least squares, and held against faces that it was not found from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twofold.cache.format.featurefile import FeatureFile
from twofold.data.errors import InputError
from twofold.data.labels import BASIC
from twofold.fuse.features import FusedFeatures, Stream

MOST = 4  #: times as many faces as features, at most, to find the map from
CHECKED = 1_000  #: faces to hold it against, at most
CLOSE = 1e-2  #: largest error in a logit, against the largest logit
NEVER = -1e4  #: the logit of a basic emotion that the backbone does not know


@dataclass(frozen=True)
class OwnClassifier:
    """Features (n, D) to logits of all basic emotions: features @ weight (D, 8) + bias (8,)."""

    weight: np.ndarray
    bias: np.ndarray


def own_classifiers(features: FusedFeatures) -> tuple[list[OwnClassifier], str]:
    """The classifier of each stream, or none at all where a stream has none; and what is to be said about it.

    Raises InputError for logits of classes that are no basic emotions.
    """
    found = [_of_stream(stream) for stream in features.streams]
    lacking = [f"{stream.name} {found_one}" for stream, found_one in zip(features.streams, found, strict=True)
               if isinstance(found_one, str)]
    if not lacking:
        return found, "zero-shot from the backbones' own logits: nothing is trained"
    if len(lacking) == len(found) and all(reason.endswith("has no logits") for reason in lacking):
        return [], "zero-shot from a basic classifier trained on basic labels: no stream has logits of its own"
    return [], ("zero-shot from a basic classifier trained on basic labels, not from the backbones' own logits: "
                + ", ".join(lacking))


def _of_stream(stream: Stream) -> OwnClassifier | str:
    """Of the first file that has logits, since all have one recipe; or why there is none."""
    for file in stream.files:
        logits = file.logits()
        if logits is not None:
            return _found(file, *logits)
    return "has no logits"


def _found(file: FeatureFile, classes: Sequence[str], logits: np.ndarray) -> OwnClassifier | str:
    strange = [name for name in classes if name not in BASIC]
    if strange:
        raise InputError(f"{file.path}: logits of {strange[0]!r}, which is no basic emotion ({', '.join(BASIC)}): "
                         "choose another backbone")
    order = np.random.default_rng(0).permutation(file.rows)
    count = min(MOST * file.dim, file.rows * 9 // 10)
    if count < file.dim + 1:
        return f"has logits of {file.rows} faces, too few for its {file.dim} features"
    learn, check = np.sort(order[:count]), np.sort(order[count:count + CHECKED])
    solution = np.linalg.lstsq(_with_one(file, learn), logits[learn].astype(np.float64), rcond=None)[0]
    error = np.abs(_with_one(file, check) @ solution - logits[check]).max()
    if error > CLOSE * np.abs(logits).max():
        return "has logits that are no affine map of its features"
    columns = [BASIC.index(name) for name in classes]
    weight, bias = np.zeros((file.dim, len(BASIC)), np.float32), np.full(len(BASIC), NEVER, np.float32)
    weight[:, columns], bias[columns] = solution[:-1], solution[-1]
    return OwnClassifier(weight, bias)


def _with_one(file: FeatureFile, rows: np.ndarray) -> np.ndarray:
    return np.column_stack([file.read_rows(rows, dtype=np.float64), np.ones(len(rows))])
