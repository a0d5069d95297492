"""What is predicted: the classes, and how a prediction of them is validated, calibrated and scored."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from twofold.cache.store import Store
from twofold.data.labels import BASIC, FROM_DATA, Taxonomy, load_taxonomy, taxonomy_from_labels, taxonomy_from_record
from twofold.data.manifest import read_manifest
from twofold.data.utils.errors import InputError
from twofold.fuse.core.features import Features
from twofold.fuse.core.settings import HEAD_TYPES, Settings, run_file
from twofold.fuse.metrics import scores

DEFAULT_CLASSES = {"": "cexpr7", "compound": "cexpr7", "basic": "basic7"}  #: of a target, where none are asked for


@dataclass(frozen=True)
class Task:
    """Classification of samples into the classes of a taxonomy: a class number in, a softmax out.

    score: the metric that heads are chosen and compared by. learns_classes: False for zero-shot heads, which learn from
    basic labels and are only scored by the classes; trains: False where nothing is to be learned.
    """

    score: ClassVar[scores.SumMetric] = scores.SCORE
    taxonomy: Taxonomy
    learns_classes: bool = True
    trains: bool = True

    @classmethod
    def of(cls, settings: Settings, taxonomy: Taxonomy, *, trains: bool = True) -> "Task":
        """The task of a head on these classes."""
        return cls(taxonomy, HEAD_TYPES[settings.head].learns_classes, trains)

    @property
    def learned_classes(self) -> tuple[str, ...]:
        """Names of the classes that are learned."""
        return self.taxonomy.classes if self.learns_classes else BASIC

    @property
    def score_name(self) -> str:
        """What `validate` returns as a score, in words: only equal ones may be ranked."""
        return self.score.name if self.learns_classes else f"{self.score.name} of the basic emotions"

    def learned(self, features: Features) -> np.ndarray:
        """(N,) numbers of the learned classes, -1 for none."""
        return features.label if self.learns_classes else features.basic_label

    def scored(self, features: Features) -> np.ndarray:
        """(N,) numbers of the classes that a prediction is scored by, -1 for none."""
        return features.label

    def validate(self, features: Features, rows: np.ndarray, probabilities: np.ndarray, basic: np.ndarray | None
                 ) -> tuple[float, float]:
        """The temperature and the score of (n, C) probabilities, or of basic ones (n, 8), on validation samples.

        A zero-shot head may not look at classes: its temperature is 1, its score that of the basic emotions.
        """
        target = self.learned(features)[rows]
        if self.learns_classes:
            figures = scores.compute_scores(target, probabilities.argmax(axis=1), probabilities.shape[1])
            return scores.fit_temperature(probabilities, target), figures.score
        assert basic is not None
        return 1.0, scores.compute_scores(target, basic.argmax(axis=1), len(BASIC)).score_present


def chosen_classes(settings: Settings, stores: Sequence[Store]) -> Taxonomy:
    """The taxonomy that the settings ask for, `from-data` from the labels of these stores.

    Raises InputError for a target that is not that of the classes, or a column that no manifest has.
    """
    def labels(target: str) -> list[str]:
        tables = [read_manifest(store.manifest_path).table for store in stores]
        if not any(target in table.columns for table in tables):
            raise InputError(f"{stores[0].manifest_path}: no column {target!r} of labels; it has "
                             f"{', '.join(tables[0].columns)}")
        return [label for table in tables if target in table.columns for label in table[target].unique()]

    name = settings.classes or DEFAULT_CLASSES.get(settings.target, FROM_DATA)
    if name == FROM_DATA:
        target = settings.target or "compound"
        return taxonomy_from_labels(labels(target), target=target)
    if name.endswith(".json"):
        path = Path(name)
        try:
            classes = taxonomy_from_record(json.loads(run_file(path.parent, path.name).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: no record of a run's classes: {error}") from None
    else:
        classes = load_taxonomy(name, target=settings.target)
    if settings.target not in ("", classes.target):
        raise InputError(f"--classes {classes.name} are {classes.target} expressions: use --target {classes.target}"
                         if classes.target in DEFAULT_CLASSES else f"--classes {classes.name} stand in the column "
                         f"{classes.target!r}: leave out --target {settings.target}")
    if classes.target not in DEFAULT_CLASSES:
        labels(classes.target)
    return classes


def check_pairs(classes: Taxonomy) -> None:
    """Raise InputError unless each class is made of two basic emotions, as zero-shot needs it."""
    unpaired = [name for name, basics in zip(classes.classes, classes.basics, strict=True) if len(basics) != 2]
    if unpaired:
        raise InputError(f"zero-shot makes classes of two basic emotions, and nothing says which two make "
                         f"{', '.join(unpaired)}: choose compound --classes, or name them under [pairs] in a FILE.toml")
