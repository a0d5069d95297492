"""The samples of a fine-tuning: those that train, validate and test, with their labels and pixels."""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from twofold.data.images.decode import REMARKS, ImageError, decode, remark_lines
from twofold.data.images.sources import ImageRoots
from twofold.data.labels import load_taxonomy, normalize_label
from twofold.data.manifest import Manifest
from twofold.data.splits import assign_folds, parse_folds, stratified_group_split
from twofold.data.utils.errors import InputError
from twofold.data.utils.keys import NO_FACE_SUFFIX
from twofold.data.utils.machine import usable_cores
from twofold.extract.encoders.preprocessing import Preprocessing
from twofold.extract.engine.progress import progress_bar
from twofold.extract.finetune.settings import Settings
from twofold.extract.finetune.targets import Target, make_targets

log = logging.getLogger(__name__)


@dataclass
class Splits:
    """Row numbers of a manifest, and what each of its samples teaches about each target."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    targets: dict[str, Target]
    notes: list[str] = field(default_factory=list)

    def drop(self, rows: np.ndarray, why: str, *, validation: bool = True) -> None:
        """Leave rows out of train and, unless `validation` says otherwise, of val, with a note that says why."""
        before = len(self.train) + len(self.val)
        self.train = np.setdiff1d(self.train, rows)
        if validation:
            self.val = np.setdiff1d(self.val, rows)
        if lost := before - len(self.train) - len(self.val):
            self.notes.append(f"{lost} samples left out{'' if validation else ' of train'}: {why}")

    def digest(self, keys: Sequence[str], sha256: dict[int, str]) -> str:
        """SHA-256 of the training and validation samples and their labels. sha256: of the image files, by row."""
        total = hashlib.sha256()
        for row in (*self.train, *self.val):
            labels = [target.record(row) for target in self.targets.values()]
            total.update(f"{keys[row]}\0{sha256[row]}\0{labels}\n".encode())
        return total.hexdigest()


def make_splits(manifest: Manifest, settings: Settings, *, fold: int = -1) -> Splits:
    """Train, validation and test by the manifest's splits, or with `fold` as test where `settings.folds` says so.

    Groups of test leave train and validation; validation is carved from train by group where there is none, and its
    groups leave train. A sample without any label of the targets can only be in test. Raises InputError.
    """
    table, (targets, notes) = manifest.table, make_targets(manifest, settings)
    labelled = np.any([target.labelled for target in targets.values()], axis=0)
    if not labelled.any():
        names = [f"{names.label_words} of {names.name}" for names in settings.taxonomies.values()]
        names += [f"{task} label" for task in targets if task not in settings.taxonomies]
        raise InputError(f"no sample has a {' or '.join(names)}: choose other --target, --classes or --labels")
    split = table["split"].to_numpy(str)
    groups = np.array([group or f"\0{key}" for group, key in zip(table["group"], table["key"], strict=True)])
    if fold >= 0:
        classes = load_taxonomy(settings.fold_classes)
        folds = assign_folds(manifest, classes, folds=settings.folds, seed=settings.seed)
        named = parse_folds(table["fold"].to_numpy(object), folds=settings.folds) if "fold" in table else None
        if named is not None:  # then samples with other labels have a fold, too: the same encoders score these
            folds = np.where(folds >= 0, folds, named)
        split = np.where(folds == fold, "test", "train")
    elif (split == "").all():
        split = np.full(len(split), "train")
        notes.append("the manifest has no splits: every sample may train, none is kept for a test")
    elif unsplit := int((labelled & (split == "")).sum()):
        notes.append(f"{unsplit} labelled samples without a split: left out")
    split = np.where(table["key"].str.endswith(NO_FACE_SUFFIX), "", split)
    train, val = (np.flatnonzero(labelled & (split == name)) for name in ("train", "val"))
    splits = Splits(train, val, np.flatnonzero(split == "test"), targets, notes)
    with_test = np.isin(groups, groups[splits.test])
    splits.drop(np.flatnonzero(with_test), "they share a group with test")
    if not len(splits.train):
        raise InputError("the manifest has no labelled training samples: split it (`manifest split`)")
    if len(splits.val):
        with_val = np.flatnonzero(np.isin(groups, groups[splits.val]))
        splits.drop(with_val, "they share a group with validation", validation=False)
    else:
        usable = np.flatnonzero((split == "train") & ~with_test)
        splits.val = _carve_validation(manifest, settings, splits.train, usable, groups)
        splits.train = np.setdiff1d(splits.train, splits.val)
        notes.append(f"validation: {len(splits.val)} samples carved from train by group")
    return splits


def _carve_validation(manifest: Manifest, settings: Settings, train: np.ndarray, usable: np.ndarray,
                      groups: np.ndarray) -> np.ndarray:
    """Rows of train for validation, whole groups, in proportion. usable: all rows that share no group with test.

    Of the samples that `fuse` trains on they are those that it carves itself: it must not choose a head by samples
    whose features the encoder knows by heart. Raises InputError where the samples cannot be split.
    """
    split = partial(stratified_group_split, fraction=settings.val_fraction, seed=settings.seed)
    classes = load_taxonomy(settings.fold_classes)
    number = {name: str(place) for place, name in enumerate(classes.classes)}
    column = manifest.table[classes.target] if classes.target in manifest.table else [""] * len(manifest)
    label = np.array([number.get(normalize_label(name), "") for name in column])
    fused = usable[label[usable] != ""]
    if len(np.unique(groups[fused])) > 1:
        chosen = fused[split(label[fused].tolist(), groups[fused].tolist())]
    else:
        chosen = fused = fused[:0]
    follow, rest = train[np.isin(groups[train], groups[chosen])], train[~np.isin(groups[train], groups[fused])]
    if not len(rest):
        return follow
    # in proportion to the label of one's own, else the compound label, else the basic one
    columns = dict.fromkeys([*(target for target in settings.targets
                              if target != "basic" and target in manifest.table), "compound", "basic"])
    strata = np.array([next(filter(None, labels), "") for labels in
                       zip(*(manifest.table[name] for name in columns), strict=True)], object)
    return np.union1d(follow, rest[split(strata[rest], groups[rest])])


def check_targets(splits: Splits) -> list[str]:
    """Notes on what cannot be learned. Raises InputError where a target cannot be, or has no validation."""
    return [note for target in splits.targets.values() for note in target.check(splits.train, splits.val)]


class Images:
    """Prepared images of some rows of a manifest, decoded once: to cache them in at most `memory` bytes or, if they are
    more, to know which can be read.

    sha256: of the image files, by row; failures: rows that cannot be read, with the reason.
    """

    def __init__(self, keys: Sequence[str], rows: np.ndarray, roots: ImageRoots, preprocessing: Preprocessing, *,
                 memory: float, progress: bool = True) -> None:
        self.keys, self.roots, self.preprocessing, size = keys, roots, preprocessing, preprocessing.size
        self.sha256: dict[int, str] = {}
        self.failures: dict[int, str] = {}
        self.remarks: list[Counter[str]] = []
        self._fits = len(rows) * size**2 * 3 <= memory
        self._cached = torch.empty((len(rows) if self._fits else 0, size, size, 3), dtype=torch.uint8)
        self._place = np.full(len(keys), -1, np.int64)  #: of each row in the cache
        with ThreadPoolExecutor(usable_cores()) as pool, progress_bar(len(rows), shown=progress, doing="decode") as bar:
            for start in range(0, len(rows), 4096):  # a million waiting tasks would fill the memory
                for row, digest, image, failure in pool.map(self._try, rows[start:start + 4096].tolist()):
                    bar.update()
                    if failure:
                        self.failures[row] = failure
                        continue
                    self._place[row], self.sha256[row] = len(self.sha256), digest
                    if image is not None:
                        self._cached[self._place[row]] = torch.from_numpy(image)
        for line in remark_lines(sum(self.remarks, Counter())):
            log.warning("warning: %s", line)

    def _try(self, row: int) -> tuple[int, str, np.ndarray | None, str]:
        """A row with the SHA-256 of its file and, where the cache takes it, its image; or the reason for none."""
        try:
            content = self.roots.read(self.keys[row])
            decoded = decode(content)
            self.remarks.append(decoded.info[REMARKS])
            image = self.preprocessing.prepare(decoded)
            return row, hashlib.sha256(content).hexdigest(), image if self._fits else None, ""
        except ImageError as error:
            return row, "", None, str(error)

    def read(self, rows: np.ndarray) -> torch.Tensor:
        """(n, S, S, 3) uint8 of these rows."""
        if self._fits:
            return self._cached[torch.from_numpy(self._place[rows])]
        with ThreadPoolExecutor(usable_cores()) as pool:
            contents = pool.map(self.roots.read, [self.keys[row] for row in rows])
            images = pool.map(lambda content: self.preprocessing.prepare(decode(content)), contents)
            return torch.from_numpy(np.stack(list(images)))
