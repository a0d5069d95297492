"""Any CSV table; say which column is what. Columns called split, basic, compound, group are taken as they are."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pandas as pd

from twofold.data.labels import (
    Taxonomy,
    canonical_split,
    label_column,
    load_taxonomy,
    normalize_label,
    parse_label_map,
    rename_label,
)
from twofold.data.manifest import COLUMNS, Manifest, build_manifest
from twofold.data.readers.common import Reader, parse_int
from twofold.data.readers.folder import Classes, LabelMap
from twofold.data.utils.csv_files import check_cells, read_table
from twofold.data.utils.errors import InputError
from twofold.data.utils.options import cli_option

NONE = "none"  #: instead of a column's name: leave it out


def read_csv(
    root: Path, *,
    key: Annotated[str, cli_option(help="Column of image paths.")] = "key",
    split: Annotated[str, cli_option(help="Column of train, val, test; here and below: none leaves it out.")] = "",
    basic: Annotated[str, cli_option(help="Column of basic emotions.")] = "",
    compound: Annotated[str, cli_option(help="Column of compound expressions.")] = "",
    group: Annotated[str, cli_option(help="Column of what must stay on one side: subject, duplicates.")] = "",
    classes: Classes = "",
    from_zero: Annotated[bool, cli_option("--from-zero", help="Numbers are positions in its order, from 0.")] = False,
    label_map: LabelMap = None,
) -> Manifest:
    """The manifest of a CSV file; key, split, basic, compound and group name its columns.

    An empty name takes the column that is called so already, if there is one; `none` leaves it out. Labels are
    emotions in any spelling that `labels.ALIASES` has, what `label_map` (OLD=NEW) says, or the official numbers of
    `classes`, which then says what the column of its target means; with `from_zero` they are positions in its order
    instead, counted from 0, whatever its official numbers. A number below 0 is no label. All other columns are carried
    along; where the target of `classes` is one of them, it must hold these classes.
    Raises InputError naming file, row and column.
    """
    taxonomy = load_taxonomy(classes) if classes else None
    names = parse_label_map(label_map, taxonomy)
    table = read_table(root)
    columns = {"key": key, "split": split, "basic": basic, "compound": compound, "group": group}
    columns = {ours: theirs or (ours if ours in table.columns else NONE) for ours, theirs in columns.items()}
    columns = {ours: theirs for ours, theirs in columns.items() if theirs != NONE}
    for ours, theirs in columns.items():
        if theirs not in table.columns:
            raise InputError(f"{root}: no column {theirs!r} (for {ours}); it has {', '.join(table.columns)}")
    others = [name for name in table.columns if name not in COLUMNS and name not in columns.values()]
    samples = pd.DataFrame({ours: table[theirs] for ours, theirs in columns.items()}).join(table[others])
    samples["key"] = [_posix_path(key) for key in samples["key"]]
    for name in ("basic", "compound"):
        if name in columns:
            samples[name] = _map_values(samples[name], lambda label: rename_label(label, names))
    if "split" in columns:
        samples["split"] = _map_values(samples["split"], canonical_split)
    if taxonomy is not None:
        _apply_taxonomy(samples, taxonomy, root, from_zero)
    for name in ("basic", "compound"):
        if name in columns:
            _check_labels(samples[name], root)
    return build_manifest(samples, source=str(root))


def _posix_path(key: str) -> str:
    """A path as lists have it (`./a.jpg`, `a\\b.jpg`, `a//b.jpg`) as a key."""
    key = key.strip().replace("\\", "/")
    return key if not key else ("/" if key.startswith("/") else "") + "/".join(
        part for part in key.split("/") if part not in ("", "."))


def _map_values(column: pd.Series, rename: Callable[[str], str]) -> pd.Series:
    """The column with each distinct value renamed."""
    return column.map({value: rename(value) for value in column.unique()})


def _apply_taxonomy(samples: pd.DataFrame, classes: Taxonomy, path: Path, from_zero: bool) -> None:
    """Name the labels in the column of the taxonomy's target."""
    own = classes.target not in COLUMNS
    if classes.target not in samples.columns:
        raise InputError(f"{path}: no column {classes.target!r}, the target of --classes {classes.name}; it has "
                         f"{', '.join(samples.columns)}" if own else
                         f"--classes {classes.name} numbers {classes.target} labels: name their column with "
                         f"--{classes.target}")
    labels = samples[classes.target] = _named(samples[classes.target], classes, path, from_zero)
    if own:
        check_cells(labels.isin(["", *classes.classes]), labels, path,
                    f"is not one of the classes of {classes.name}: {', '.join(classes.classes)}")


def _named(column: pd.Series, classes: Taxonomy, path: Path, from_zero: bool) -> pd.Series:
    """Official numbers as names, names in the spelling of `classes`; anything else stays as it is."""
    names = {}
    for value in column.unique():
        if normalize_label(value) in classes.classes:
            names[value] = normalize_label(value)
            continue
        number = parse_int(re.sub(r"\.0*$", "", value.strip()))  # pandas writes 1.0 where a column has empty cells
        if number is None:
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
                    f"--classes NAME, for no labels: --{column.name} {NONE}")


READER = Reader(read_csv, root="A CSV file: one row per sample, with a header line.")
