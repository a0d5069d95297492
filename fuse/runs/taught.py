"""Faces that an encoder itself has learned from: the leak that nobody sees, unless the encoder says whom it was taught
with; and encoders that were fine-tuned one a fold, so that none was taught with the faces it is scored by."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from twofold.cache.format.featurefile import FeatureFile
from twofold.cache.format.taught import TaughtFaces
from twofold.cache.store import Store
from twofold.data.utils.errors import InputError
from twofold.fuse.features.features import FusedFeatures
from twofold.fuse.features.partition import Partition
from twofold.fuse.runs.seen import group_digests


def taught_rows(features: FusedFeatures, streams: Sequence[int] | None = None) -> np.ndarray:
    """(N,) bool: the faces whose bytes or group an encoder of these streams (default: all) was taught with."""
    names = features.sha256.astype("S64")
    groups = group_digests(features, np.arange(len(features)))
    taught = np.zeros(len(features), bool)
    for k in range(len(features.streams)) if streams is None else streams:
        for faces in _taught(features.streams[k].files):
            taught |= np.isin(names, _hex(faces.sha256, "S64"))
            taught |= (groups != b"") & np.isin(groups, _hex(faces.groups, "S32"))
    return taught


def teachers(features: FusedFeatures, rows: np.ndarray) -> str:
    """Names of the streams whose encoders were taught with some of these rows."""
    names = [stream.name for k, stream in enumerate(features.streams) if taught_rows(features, [k])[rows].any()]
    return " and ".join(names)


def without_taught(features: FusedFeatures, part: Partition) -> Partition:
    """The partition without test faces that an encoder was taught with, and what is to be said about them.

    Raises InputError if no test face is left.
    """
    taught = taught_rows(features)
    leaked = part.test[taught[part.test]]
    if not len(leaked):
        return part
    names = teachers(features, leaked)
    if len(leaked) == len(part.test):
        raise InputError(f"nothing is left to score: the encoder of {names} was fine-tuned with all {len(leaked)} test "
                         "faces (the same bytes or group): fine-tune on other faces, or cross-validate with one "
                         "encoder a fold (`finetune --folds K`, then `fuse --folds K`)")
    note = (f"{len(leaked)} of {len(part.test)} test faces left out: the encoder of {names} was fine-tuned with them "
            "(the same bytes or group)")
    return replace(part, test=part.test[~taught[part.test]], notes=(*part.notes, note))


def fold_files(store: Store, backbone: str, view: str, *, folds: int) -> tuple[FeatureFile, ...]:
    """The feature files of the encoders that `backbone` (`NAME`, or the `NAME@FINGERPRINT` of any of them) means, which
    were fine-tuned one a fold, in the order of the folds; none where it means another file.

    Raises InputError if there are not as many as `folds`, or some of them have no features here.
    """
    name, _, digits = backbone.partition("@")
    files = [(file, taught[0] if (taught := _taught([file])) else None) for file in store.readable()[0]
             if (file.backbone, file.view) == (name, view)]
    trainings = {taught.training if taught else "" for file, taught in files if file.fingerprint.startswith(digits)}
    if len(trainings) != 1 or "" in trainings:
        return ()
    members = sorted(((taught.fold, file.path, file, taught) for file, taught in files
                      if taught and taught.training in trainings), key=lambda each: each[:2])
    count = members[0][3].folds
    if count != folds:
        raise InputError(f"the encoders of {name} were fine-tuned for {count} folds: use --folds {count}"
                         + (f", not {folds}" if folds else ""))
    missing = sorted(set(range(count)) - {fold for fold, *_ in members})
    if missing or len(members) != count:
        what = f"fold {missing[0] + 1} of {count} has no features" if missing else "a fold has several files"
        raise InputError(f"{store.path}: {name} is fine-tuned one encoder a fold, and {what} here: extract with the "
                         "weights of each fold, in the same precision")
    return tuple(file for _, _, file, _ in members)


def _taught(files: Sequence[FeatureFile]) -> list[TaughtFaces]:
    classifiers = [file.classifier for file in files]
    return [classifier.taught for classifier in classifiers if classifier is not None and classifier.taught is not None]


def _hex(rows: np.ndarray, kind: str) -> np.ndarray:
    """(n, B) uint8 as (n,) texts of 2 B hex digits."""
    return np.array([row.tobytes().hex().encode() for row in rows], kind)
