"""Any table of faces in CSV: which column is what is said by name."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from twofold.data.labels import Taxonomy, canonical_split, label_column, normalize_label, rename_label
from twofold.data.manifest import COLUMNS, Manifest, build_manifest
from twofold.data.utils.csv_files import check_cells, read_table
from twofold.data.utils.errors import InputError

NONE = "none"  #: instead of a column's name: leave it out


def read_csv(
    path: Path, *, key: str = "key", split: str = "", basic: str = "", compound: str = "", group: str = "",
    classes: Taxonomy | None = None, from_zero: bool = False, names: Mapping[str, str] | None = None,
) -> Manifest:
    """The manifest of a CSV file; key, split, basic, compound and group name its columns.

    An empty name takes the column that is called so already, if there is one; `none` leaves it out. Labels are
    emotions in any spelling that `aliases` has, what `names` (label to canonical label) says, or the official numbers
    of `classes`, which then says what the column of its target means; with `from_zero` they are places in its order
    instead, counted from 0, whatever its official numbers. A number below 0 is no label. All other columns are carried
    along; where the target of `classes` is one of them, it must hold these classes.
    Raises InputError naming file, row and column.
    """
    table = read_table(path)
    columns = {"key": key, "split": split, "basic": basic, "compound": compound, "group": group}
    columns = {ours: theirs or (ours if ours in table.columns else NONE) for ours, theirs in columns.items()}
    columns = {ours: theirs for ours, theirs in columns.items() if theirs != NONE}
    for ours, theirs in columns.items():
        if theirs not in table.columns:
            raise InputError(f"{path}: no column {theirs!r} (for {ours}); it has {', '.join(table.columns)}")
    others = [name for name in table.columns if name not in COLUMNS and name not in columns.values()]
    faces = pd.DataFrame({ours: table[theirs] for ours, theirs in columns.items()}).join(table[others])
    for name in ("basic", "compound"):
        if name in columns:
            faces[name] = _by_value(faces[name], lambda label: rename_label(label, names or {}))
    if "split" in columns:
        faces["split"] = _by_value(faces["split"], canonical_split)
    if classes is not None:
        own = classes.target not in COLUMNS
        if classes.target not in (others if own else columns):
            raise InputError(f"{path}: no column {classes.target!r}, the target of --classes {classes.name}; it has "
                             f"{', '.join(table.columns)}" if own else
                             f"--classes {classes.name} numbers {classes.target} labels: name their column with "
                             f"--{classes.target}")
        labels = faces[classes.target] = _named(faces[classes.target], classes, path, from_zero)
        if own:
            check_cells(labels.isin(["", *classes.classes]), labels, path,
                          f"is not one of the classes of {classes.name}: {', '.join(classes.classes)}")
    for name in ("basic", "compound"):
        if name in columns:
            _check_labels(faces[name], path)
    return build_manifest(faces, source=str(path))


def _by_value(column: pd.Series, name: Callable[[str], str]) -> pd.Series:
    """The column with each distinct value renamed."""
    return column.map({value: name(value) for value in column.unique()})


def _named(column: pd.Series, classes: Taxonomy, path: Path, from_zero: bool) -> pd.Series:
    """Official numbers as names, names in the spelling of `classes`; anything else stays as it is."""
    names = {}
    for value in column.unique():
        if normalize_label(value) in classes.classes:
            names[value] = normalize_label(value)
            continue
        try:
            number = int(value)
        except ValueError:
            continue
        try:
            names[value] = "" if number < 0 else classes.label(number + from_zero * classes.numbers[0])
        except InputError as error:
            row = int((column == value).to_numpy().argmax())
            hint = "; if labels count from 0, say --from-zero" if number == 0 else ""
            raise InputError(f"{path}: row {row + 2}, column {column.name!r}: {error}{hint}") from None
    return column.replace(names)


def _check_labels(column: pd.Series, path: Path) -> None:
    strange = [label for label in column.unique() if label and label_column(label) != column.name]
    if strange:
        check_cells(~column.isin(strange), column, path,
                      f"is not a {column.name} emotion; for another word: --map {strange[0]}=..., for numbers: "
                      f"--classes, for no labels: --{column.name} {NONE}")
