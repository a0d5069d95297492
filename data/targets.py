"""The labels of a manifest as numbers: targets of each task, hard labels that follow from soft ones, counts."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from twofold.data.labels import TASKS, WORDS, basic_emotions, label_column, normalize_label
from twofold.data.manifest import SOFT, Manifest
from twofold.data.utils.csv_files import check_columns, read_numbers
from twofold.data.utils.errors import InputError

#: what a compound can be made of; as in every taxonomy of the field, the earlier one gives the adverb
PAIRED = ("happiness", "sadness", "fear", "anger", "disgust", "surprise")
UNIT = "au_"  #: before a number: the column of that action unit, 0 or 1, or its intensity from 0 to 5
MAX_INTENSITY = 5.0  #: of the Facial Action Coding System, A to E
AFFECT = ("valence", "arousal")  #: columns of numbers from -1 to 1
MAX_COUNTED = 50  #: different values that a summary names
MAX_NUMBER = 1e30  #: what float32 holds, squared


def target_columns(manifest: Manifest, task: str) -> tuple[str, ...]:
    """The columns that hold a task's targets unless others are named: `au_*` of multilabel, `valence` and `arousal` of
    regression, `p_<class>` of distribution, none of classification.

    Raises InputError for an unknown task, and for multilabel or regression without such a column.
    """
    if task not in TASKS:
        raise InputError(f"unknown task {task!r}: choose from {', '.join(TASKS)}")
    columns = manifest.table.columns
    chosen = {"classification": (), "distribution": tuple(f"{SOFT}{name}" for name in manifest.soft_classes),
             "multilabel": tuple(name for name in columns if name.startswith(UNIT)),
             "regression": tuple(name for name in AFFECT if name in columns)}[task]
    if not chosen and task in ("multilabel", "regression"):
        usual = f"{UNIT}<number>" if task == "multilabel" else " or ".join(AFFECT)
        raise InputError(f"{task}: the manifest has no column {usual}: name columns of your own with --labels")
    return chosen


def default_task(manifest: Manifest, classes: Sequence[str]) -> str:
    """`distribution` where the manifest has soft labels of all the classes, else `classification`."""
    columns = {f"{SOFT}{name}" for name in classes}
    return "distribution" if columns and columns <= set(manifest.table.columns) else "classification"


def multilabel_targets(manifest: Manifest, columns: Sequence[str]) -> np.ndarray:
    """(N, L) float32 of 0 and 1, NaN for an empty cell. Cells are 0 or 1, or intensities from 0 to 5, present from 1
    on. Raises InputError for a column that is not there, and naming row and column of a wrong cell."""
    values = _numbers(manifest, columns, dict.fromkeys(columns, (0.0, MAX_INTENSITY)))
    return np.where(np.isnan(values), np.nan, values >= 1).astype(np.float32)


def numeric_targets(manifest: Manifest, columns: Sequence[str]) -> np.ndarray:
    """(N, D) float32, NaN for an empty cell; valence and arousal lie from -1 to 1. Raises InputError for a column that
    is not there, and naming row and column of a wrong cell."""
    return _numbers(manifest, columns, dict.fromkeys(AFFECT, (-1.0, 1.0))).astype(np.float32)


def soft_targets(manifest: Manifest, classes: Sequence[str]) -> np.ndarray:
    """(N, C) float32 shares of the classes, rows that sum to one, or of zeros where a sample has no soft label: so has
    one with more than half of its shares in other basic (or other compound) expressions, such as a neutral face among
    six emotions, where its few votes for one of them would be the whole label.

    Raises InputError where some of the classes have a column and others have none, and for a wrong cell.
    """
    shares = manifest.soft_labels(classes)
    if shares is None:
        return np.zeros((len(manifest), len(classes)), np.float32)
    kinds = {label_column(name) for name in classes} - {""}
    others = [name for name in manifest.soft_classes if name not in classes and label_column(name) in kinds]
    every = manifest.soft_labels([*classes, *others])
    assert every is not None
    shares[every[:, :len(classes)].sum(axis=1) < 0.5 - NEAR] = 0
    return shares.astype(np.float32)


def largest_shares(manifest: Manifest, classes: Sequence[str]) -> np.ndarray:
    """(N,) the class with the largest share, the first of several; empty where a sample has no soft label."""
    shares = soft_targets(manifest, classes) if classes else np.zeros((len(manifest), 1))
    return np.where(shares.any(axis=1), np.array([*classes, ""], object)[shares.argmax(axis=1)], "")


def contradictions(manifest: Manifest, target: str, classes: Sequence[str]) -> np.ndarray:
    """(N,) bool, true where the hard label in column `target` is not the largest share, or one of the largest, of a
    soft label of these classes.

    A compound contradicts shares of basic emotions if its two are not the largest of those in `PAIRED`.
    """
    shares = soft_targets(manifest, classes)
    contradicting = np.zeros(len(manifest), bool)
    labels = manifest.table[target].map(normalize_label)
    for label in set(labels) - {""}:
        parts = [label] if label in classes else basic_emotions(label)
        rows = np.flatnonzero((labels == label) & shares.any(axis=1))
        if parts and set(parts) <= set(classes):
            inside = np.array([name in parts for name in classes])
            outside = np.array([name not in parts and (len(parts) < 2 or name in PAIRED) for name in classes])
            contradicting[rows] = shares[rows][:, inside].min(axis=1) < shares[rows][:, outside].max(axis=1, initial=0)
    return contradicting


NEAR = 1e-9  #: shares that differ by less are equal


def derive_compounds(
    shares: np.ndarray, classes: Sequence[str], *, second: float = 0.2, both: float = 0.5, over_neutral: float = 0.0,
) -> np.ndarray:
    """(N,) compound labels, empty where there is none, from shares (N, C) of basic emotions.

    The two emotions of `PAIRED` with the largest shares make the compound if the second has at least `second` and more
    than the third, both together have at least `both`, and the second has at least `over_neutral` more than neutral.
    The rule is this project's: the defaults are 2, 5 and 0 of FER+'s ten votes; 0.3, 0.6, 0.1 leave the clearer ones.
    """
    place = {name: number for number, name in enumerate(classes)}
    zeros = np.zeros(len(shares))
    paired = np.column_stack([shares[:, place[name]] if name in place else zeros for name in PAIRED])
    order = np.argsort(-paired, axis=1, kind="stable")
    first, runner_up, third = np.take_along_axis(paired, order[:, :3], axis=1).T
    neutral = shares[:, place["neutral"]] if "neutral" in place else zeros
    holds = ((runner_up > NEAR) & (runner_up >= second - NEAR) & (first + runner_up >= both - NEAR)
             & (runner_up > third + NEAR) & (runner_up - neutral >= over_neutral - NEAR))
    labels = [f"{WORDS[PAIRED[a]][0]}_{WORDS[PAIRED[b]][1]}" for a, b in np.sort(order[:, :2], axis=1)]
    return np.where(holds, np.array(labels, dtype=object), "")


def with_derived_compounds(manifest: Manifest, *, second: float, both: float, over_neutral: float) -> Manifest:
    """The manifest with compound labels by `derive_compounds`, where it has none, from its soft labels of basic
    emotions; the column `compound_rule` names the rule. Raises InputError without soft labels."""
    classes = [name for name in manifest.soft_classes if label_column(name) != "compound"]
    if not set(classes) & set(PAIRED):
        raise InputError(f"the manifest has no soft labels of basic emotions (columns {SOFT}happiness, ...)")
    shares = manifest.soft_labels(classes)
    assert shares is not None
    derived = derive_compounds(shares, classes, second=second, both=both, over_neutral=over_neutral)
    table = manifest.table.assign(compound_rule=manifest.table.get("compound_rule", ""))
    labelled, rule = table["compound"] != "", f"derived: {second:g}, {both:g}, {over_neutral:g}"
    differing = int((labelled & (derived != "") & (derived != table["compound"])).sum())
    new = ~labelled & (derived != "")
    table.loc[new, "compound"], table.loc[new, "compound_rule"] = derived[new], rule
    notes = [f"{differing:,} samples keep a compound label that differs from the derived one"] if differing else []
    return replace(manifest, table=table, notes=(*manifest.notes, *notes))


def summary_lines(manifest: Manifest, labels: Sequence[str] = ("basic", "compound")) -> list[str]:
    """Counts by split, class and group, of soft labels, action units and numbers, and of labels that contradict each
    other; a line each."""
    table = manifest.table

    def counted(column: pd.Series) -> str:
        counts = column.value_counts()
        more = [f"{len(counts) - MAX_COUNTED:,} more"] if len(counts) > MAX_COUNTED else []
        return ", ".join([f"{name or '(none)'} {count:,}" for name, count in counts[:MAX_COUNTED].items()] + more)

    rows = [f"split     {counted(table['split'])}"]
    for name in labels:
        labelled = table.loc[table[name] != "", name]
        if len(labelled):
            rows.append(f"{name:9} {len(labelled):,} labelled: {counted(labelled)}")
    for kind in ("basic", "compound"):
        classes = [name for name in manifest.soft_classes if label_column(name) == kind]
        largest = pd.Series(largest_shares(manifest, classes))
        rows += [f"soft      {(largest != '').sum():,} soft labels of {len(classes)} {kind} classes; largest share: "
                 f"{counted(largest[largest != ''])}"] if classes else []
        for target in ("basic", "compound") if classes else ():
            if count := int(contradictions(manifest, target, classes).sum()):
                rows.append(f"          {count:,} of them contradict the label in column {target}")
    for task, what in (("multilabel", "action units, share of samples that show each"), ("regression", "mean")):
        columns = [name for name in table.columns if name.startswith(UNIT) or name in AFFECT]
        columns = [name for name in columns if name.startswith(UNIT) == (task == "multilabel")]
        try:
            values = (multilabel_targets if task == "multilabel" else numeric_targets)(manifest, columns)
        except InputError as error:
            rows += [f"numbers   {error}"] if columns else []
            continue
        mask = ~np.isnan(values)
        means = np.nansum(values, axis=0) / np.maximum(mask.sum(axis=0), 1)
        rows.append(f"numbers   {int(mask.any(axis=1).sum()):,} samples have {what}: "
                    + ", ".join(f"{name} {mean:.2f}" for name, mean in zip(columns, means, strict=True)))
    if "fold" in table.columns:
        rows.append(f"fold      {counted(table['fold'].sort_values())}")
    grouped = table.loc[table["group"] != "", "group"]
    if len(grouped):
        rows.append(f"group     {grouped.nunique():,} groups of {len(grouped):,} samples")
    return rows


def _numbers(manifest: Manifest, columns: Sequence[str], bounds: dict[str, tuple[float, float]]) -> np.ndarray:
    """(N, columns) float64, NaN for an empty cell."""
    source = "the manifest"
    if not columns:
        raise InputError(f"{source}: no columns of labels: name them with --labels")
    check_columns(manifest.table, columns, source)
    return np.column_stack([read_numbers(manifest.table[name], source, *bounds.get(name, (-MAX_NUMBER, MAX_NUMBER)))
                            for name in columns])
