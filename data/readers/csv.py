"""Any table of faces in CSV: which column is what is said by name."""

from pathlib import Path

import pandas as pd

from twofold.data.csv_files import read_table
from twofold.data.errors import InputError
from twofold.data.labels import Taxonomy
from twofold.data.manifest import Manifest, manifest
from twofold.data.taxonomies import plain


def read_csv(
    path: Path, *, key: str = "key", split: str = "", basic: str = "", compound: str = "", group: str = "",
    classes: Taxonomy | None = None, from_zero: bool = False,
) -> Manifest:
    """The manifest of a CSV file; key, split, basic, compound and group name its columns, empty for none.

    Labels are canonical names, or the official numbers of `classes`, which then says what the column of its target
    means; with `from_zero` they are places in its order instead, counted from 0, whatever its official numbers. A
    number below 0 is no label. All other columns are carried along; where the target of `classes` is one of them, it
    must hold these classes.
    Raises InputError naming file, row and column.
    """
    table = read_table(path)
    names = {"key": key, "split": split, "basic": basic, "compound": compound, "group": group}
    for ours, theirs in names.items():
        if theirs and theirs not in table.columns:
            raise InputError(f"{path}: no column {theirs!r} (for {ours}); it has {', '.join(table.columns)}")
    columns = {ours: table[theirs] for ours, theirs in names.items() if theirs}
    others = [name for name in table.columns if name not in names and name not in names.values()]
    faces = pd.DataFrame(columns).join(table[others])
    if classes is not None:
        own = classes.target not in names
        if classes.target not in (others if own else columns):
            raise InputError(f"{path}: no column {classes.target!r}, the target of --classes {classes.name}; it has "
                             f"{', '.join(table.columns)}" if own else
                             f"--classes {classes.name} numbers {classes.target} labels: name their column with "
                             f"--{classes.target}")
        faces[classes.target] = _named(faces[classes.target], classes, f"{path}", from_zero)
        if own:
            _check_own(faces[classes.target], classes, f"{path}")
    return manifest(faces, source=str(path))


def _named(column: pd.Series, classes: Taxonomy, source: str, from_zero: bool) -> pd.Series:
    """Official numbers as names, names in the spelling of `classes`; anything else stays as it is."""
    names = {}
    for value in column.unique():
        if plain(value) in classes.classes:
            names[value] = plain(value)
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
            raise InputError(f"{source}: row {row + 2}, column {column.name!r}: {error}{hint}") from None
    return column.replace(names)


def _check_own(column: pd.Series, classes: Taxonomy, source: str) -> None:
    strange = ~column.isin(["", *classes.classes]).to_numpy()
    if strange.any():
        row = int(strange.argmax())
        raise InputError(f"{source}: row {row + 2}, column {column.name!r}: {column[row]!r} is not one of the classes "
                         f"of {classes.name}: {', '.join(classes.classes)}")
