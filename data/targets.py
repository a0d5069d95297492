"""Targets for training and scoring from a manifest's columns: distributions, several labels at once, numbers."""

from collections.abc import Sequence

import numpy as np

from twofold.data.labels import Taxonomy, normalize_label
from twofold.data.manifest import SOFT, Manifest
from twofold.data.utils.csv_files import check_columns, read_numbers
from twofold.data.utils.errors import InputError

TASKS = ("classification", "distribution", "multilabel", "regression")
UNIT = "au_"  #: before a number: the column of that action unit, 0 or 1, or its intensity from 0 to 5
MAX_INTENSITY = 5.0  #: of the Facial Action Coding System, A to E
AFFECT = ("valence", "arousal")  #: columns of numbers from -1 to 1
MAX_NUMBER = 1e30  #: what float32 holds, squared


def target_columns(manifest: Manifest, task: str) -> tuple[str, ...]:
    """The columns that hold a task's targets unless others are named: `au_*` of multilabel, `valence` and `arousal` of
    regression, `p_<class>` of distribution, none of classification.

    Raises InputError for an unknown task, and for multilabel or regression without such a column.
    """
    if task not in TASKS:
        raise InputError(f"unknown task {task!r}: choose from {', '.join(TASKS)}")
    columns = manifest.table.columns
    found = {"classification": (), "distribution": tuple(f"{SOFT}{name}" for name in manifest.soft_classes),
             "multilabel": tuple(name for name in columns if name.startswith(UNIT)),
             "regression": tuple(name for name in AFFECT if name in columns)}[task]
    if not found and task in ("multilabel", "regression"):
        usual = f"{UNIT}<number>" if task == "multilabel" else " or ".join(AFFECT)
        raise InputError(f"{task}: the manifest has no column {usual}: name columns of your own with --labels")
    return found


def default_task(manifest: Manifest, classes: Sequence[str]) -> str:
    """`distribution` where the manifest has soft labels of all the classes, else `classification`."""
    columns = {f"{SOFT}{name}" for name in classes}
    return "distribution" if columns and columns <= set(manifest.table.columns) else "classification"


def multilabel_targets(
    manifest: Manifest, columns: Sequence[str], *, present: float = 1.0, source: str = "the manifest",
) -> np.ndarray:
    """(N, L) float32 of 0 and 1, NaN for an empty cell. Cells are 0 or 1, or intensities from 0 to 5, present from
    `present` on. Raises InputError for a column that is not there, and naming row and column of a wrong cell."""
    values = _numbers(manifest, columns, source, dict.fromkeys(columns, (0.0, MAX_INTENSITY)))
    return np.where(np.isnan(values), np.nan, values >= present).astype(np.float32)


def numeric_targets(manifest: Manifest, columns: Sequence[str], *, source: str = "the manifest") -> np.ndarray:
    """(N, D) float32, NaN for an empty cell; valence and arousal lie from -1 to 1. Raises InputError for a column that
    is not there, and naming row and column of a wrong cell."""
    return _numbers(manifest, columns, source, dict.fromkeys(AFFECT, (-1.0, 1.0))).astype(np.float32)


def soft_targets(manifest: Manifest, classes: Sequence[str], *, source: str = "the manifest") -> np.ndarray:
    """(N, C) float32 shares of the classes, rows that sum to one, or of zeros where a sample has no soft label.

    Raises InputError where some of the classes have a column and others have none, and for a wrong cell.
    """
    shares = manifest.soft_labels(classes, source=source)
    return np.zeros((len(manifest), len(classes)), np.float32) if shares is None else shares.astype(np.float32)


def contradictions(manifest: Manifest, classes: Taxonomy) -> np.ndarray:
    """(N,) bool, true where a sample's hard label is not the class, or one of the classes, of its largest share."""
    shares = soft_targets(manifest, classes.classes)
    number = {name: place for place, name in enumerate(classes.classes)}
    hard = np.array([number.get(normalize_label(label), -1) for label in manifest.table[classes.target]], int)
    both = (hard >= 0) & shares.any(axis=1)
    return both & (shares[np.arange(len(hard)), hard] < shares.max(axis=1))


def _numbers(
    manifest: Manifest, columns: Sequence[str], source: str, bounds: dict[str, tuple[float, float]],
) -> np.ndarray:
    """(N, columns) float64, NaN for an empty cell."""
    if not columns:
        raise InputError(f"{source}: no columns of labels: name them with --labels")
    check_columns(manifest.table, columns, source)
    return np.column_stack([read_numbers(manifest.table[name], source, *bounds.get(name, (-MAX_NUMBER, MAX_NUMBER)))
                            for name in columns])
