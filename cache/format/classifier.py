"""The classifier that a backbone brought along, as a feature file carries it: logits are computed, never stored."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from twofold.cache.errors import CacheError, DamagedFile
from twofold.cache.format.index import brief
from twofold.cache.format.layout import CHUNK_ROWS, FILL, MAX_ATTRIBUTE_BYTES
from twofold.cache.format.taught import TaughtFaces, read_taught, write_taught

GROUP = "classifier"
FLOAT = np.dtype("<f4")


@dataclass(frozen=True, eq=False)
class OwnClassifier:
    """A backbone's own last layer: features (B, D) @ weight (D, C) + bias (C,) are its logits, float32.

    classes: C canonical names, in the order of the columns; taught: with which faces it and the backbone were taught,
    where the weights say so.
    """

    classes: tuple[str, ...]
    weight: np.ndarray
    bias: np.ndarray
    taught: TaughtFaces | None = None

    def equals(self, other: "OwnClassifier | None") -> bool:
        """True if the other has the same classes in the same order, the same numbers, and was taught alike."""
        if other is None or self.classes != other.classes:
            return False
        taught = self.taught.equals(other.taught) if self.taught else other.taught is None
        return taught and bool(np.array_equal(self.weight, other.weight) and np.array_equal(self.bias, other.bias))

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(B, D) features to (B, C) float32 logits."""
        return np.asarray(features, np.float32) @ self.weight + self.bias


def write_classifier(file: h5py.File, classifier: OwnClassifier) -> None:
    """Add `/classifier/weight`, `/classifier/bias`, the attribute `classes` and the hash of all three.

    Raises CacheError if their shapes do not agree with each other and with the features.
    """
    features: Any = file["features"]
    dim, count = features.shape[1], len(classifier.classes)
    if classifier.weight.shape != (dim, count) or classifier.bias.shape != (count,):
        raise CacheError(f"{file.filename}: a classifier of {classifier.weight.shape} and {classifier.bias.shape} for "
                         f"{count} classes of {dim} features")
    group = file.create_group(GROUP)
    for name, values in (("weight", classifier.weight), ("bias", classifier.bias)):
        group.create_dataset(name, data=values.astype(FLOAT), chunks=(CHUNK_ROWS, *values.shape[1:]),
                             maxshape=(None, *values.shape[1:]), fletcher32=True, fillvalue=FILL)
    if classifier.taught is not None:
        write_taught(group, classifier.taught)
    group.attrs["classes"] = np.bytes_(json.dumps(classifier.classes).encode("ascii"))
    group.attrs["sha256"] = np.bytes_(_digest(file, classifier).encode("ascii"))


def read_classifier(file: h5py.File) -> OwnClassifier | None:
    """The classifier of a file whose layout was checked; None if it has none. Raises DamagedFile if it was altered."""
    if GROUP not in file:
        return None
    group: Any = file[GROUP]
    try:
        classes = tuple(json.loads(_text(group, "classes")))
        training = _text(group, "training") if "training" in group.attrs else ""
        classifier = OwnClassifier(classes, group["weight"][...], group["bias"][...], read_taught(group, training))
        whole = _text(group, "sha256") == _digest(file, classifier)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise DamagedFile(f"{file.filename}: the classifier does not read back ({brief(error)})") from None
    if not whole or not all(isinstance(name, str) and name for name in classes) or len(set(classes)) != len(classes):
        raise DamagedFile(f"{file.filename}: the classifier was altered, or belongs to another file: delete the file "
                          "and extract again")
    if not (np.isfinite(classifier.weight).all() and np.isfinite(classifier.bias).all()):
        raise DamagedFile(f"{file.filename}: the classifier is not made of finite numbers")
    if len(classes) != len(classifier.bias):
        raise DamagedFile(f"{file.filename}: the classifier names {len(classes)} of its {len(classifier.bias)} classes")
    return classifier


def _text(group: h5py.Group, name: str) -> str:
    attribute = h5py.h5a.open(group.id, name.encode())
    kind = attribute.get_type()
    fixed = kind.get_class() == h5py.h5t.STRING and not kind.is_variable_str() and attribute.shape == ()
    if not fixed or attribute.get_storage_size() > MAX_ATTRIBUTE_BYTES:
        raise ValueError(f"its attribute {name!r} is not one short text")
    value: Any = group.attrs[name]
    return value.decode("ascii")


def _digest(file: h5py.File, classifier: OwnClassifier) -> str:
    """SHA-256 over the file's fingerprint, the classes and the numbers: of this file and no other."""
    digest = hashlib.sha256(json.dumps([str(file.attrs["fingerprint"]), *classifier.classes]).encode("ascii"))
    for values in (classifier.weight, classifier.bias):
        digest.update(np.ascontiguousarray(values, FLOAT).data.cast("B"))
    if taught := classifier.taught:
        digest.update(json.dumps([taught.fold, taught.folds, taught.training]).encode("ascii"))
        digest.update(taught.sha256.tobytes() + b"\0" + taught.groups.tobytes())
    return digest.hexdigest()
