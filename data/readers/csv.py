"""Any CSV table; say which column is what. Columns called split, basic, compound, group are taken as they are."""

from functools import cache
from pathlib import Path
from typing import Annotated

import pandas as pd

from twofold.data.labels import (
    SPLIT_OF,
    Taxonomy,
    canonical_label,
    label_column,
    load_taxonomy,
    normalize_label,
    parse_label_map,
)
from twofold.data.manifest import COLUMNS, NO_EMOTION, SOFT, Manifest, build_manifest
from twofold.data.readers.common import parse_int
from twofold.data.readers.folder import Classes, LabelMap
from twofold.data.utils.csv_files import MISSING, check_cells, check_columns, read_table
from twofold.data.utils.errors import InputError
from twofold.data.utils.keys import URL
from twofold.data.utils.options import cli_argument, cli_option

NONE = "none"  #: instead of a column's name: leave it out


def read_csv(
    root: Annotated[Path, cli_argument(metavar="ROOT", help="A CSV file: one row per sample, with a header line.")], *,
    key: Annotated[str, cli_option(help="Column of image paths.")] = "key",
    split: Annotated[str, cli_option(help="Column of train, val, test; here and below: none leaves it out.")] = "",
    basic: Annotated[str, cli_option(help="Column of basic emotions.")] = "",
    compound: Annotated[str, cli_option(help="Column of compound expressions.")] = "",
    group: Annotated[str, cli_option(help="Column of what must stay on one side: subject, duplicates.")] = "",
    classes: Classes = "",
    from_zero: Annotated[bool, cli_option("--from-zero", help="Numbers are positions in its order, from 0.")] = False,
    label_map: LabelMap = None,
    soft: Annotated[str | None, cli_option(metavar="PREFIX", help="Columns PREFIX<class> are soft labels, votes or "
                                           "shares; '' where they are called as the classes.")] = None,
) -> Manifest:
    """The manifest of a CSV file; key, split, basic, compound and group name its columns.

    An empty name takes the column that is called so already, if there is one; `none` leaves it out. Labels are
    emotions in any spelling of `labels.ALIASES`, what `label_map` (OLD=NEW) says, or, in the column of the target of
    `classes`, its names and numbers; a number below 0 is no label. Columns that begin with `soft` are soft labels, the
    rest of the name being a class in any spelling, or FER+'s unknown and NF. All other columns are carried along.
    Raises InputError naming file, row and column.
    """
    taxonomy = load_taxonomy(classes) if classes else None
    renamed = parse_label_map(label_map, taxonomy)
    table = read_table(root)
    if soft is not None:
        table = table.rename(columns=_soft_columns(table, soft, taxonomy, renamed, root))
    columns = {"key": key, "split": split, "basic": basic, "compound": compound, "group": group}
    columns = {ours: theirs or ours for ours, theirs in columns.items()
               if theirs != NONE and (theirs or ours in table.columns)}
    check_columns(table, columns.values(), root)
    others = [name for name in table.columns if name not in COLUMNS and name not in columns.values()]
    samples = pd.DataFrame({ours: table[theirs] for ours, theirs in columns.items()}).join(table[others])
    samples["key"] = [_posix_path(key) for key in samples["key"]]
    labels = [name for name in ("basic", "compound") if name in columns]
    for name in labels:
        samples[name] = samples[name].map(cache(lambda text: renamed.get(normalize_label(text), canonical_label(text))))
    if "split" in columns:
        samples["split"] = samples["split"].map(cache(lambda text: SPLIT_OF.get(text.strip().lower(), text)))
    notes = []
    if taxonomy is not None and (soft is None or taxonomy.target in samples.columns):
        notes = _apply_taxonomy(samples, taxonomy, root, from_zero)
    for name in labels:
        strange = [label for label in samples[name].unique()
                   if label.strip() not in ("", *MISSING) and label_column(label) != name]
        scheme = taxonomy if taxonomy is not None and taxonomy.target == name else None
        check_cells(~samples[name].isin(strange), samples[name], root,
                    f"is not a {name} emotion{f' nor a class number of {scheme.name}' if scheme else ''}; for another "
                    f"word: --map {next(iter(strange), '')}=..., {'' if scheme else 'for numbers: --classes NAME, '}"
                    f"for no labels: --{name} {NONE}")
    return build_manifest(samples, source=str(root), notes=notes)


def _soft_columns(
    table: pd.DataFrame, prefix: str, classes: Taxonomy | None, renamed: dict[str, str], path: Path,
) -> dict[str, str]:
    """Column of the table to `p_<class>`; without a prefix, columns of other names are no soft labels.

    Raises InputError for a name after the prefix that is no class, a class of two columns, and where there are none.
    """
    columns: dict[str, str] = {}
    for column in (name for name in table.columns if name.startswith(prefix)):
        word = normalize_label(column.removeprefix(prefix))
        label = renamed.get(word, canonical_label(word))
        own = classes.classes if classes else ()
        label = word if word in own else next((name for name in NO_EMOTION if name.lower() == word.lower()), label)
        if label in own or label in NO_EMOTION or label_column(label):
            if f"{SOFT}{label}" in columns.values() or (f"{SOFT}{label}" in table.columns and prefix != SOFT):
                raise InputError(f"{path}: column {column!r}: another column has the soft label of {label}, too")
            columns[column] = f"{SOFT}{label}"
        elif prefix and label:
            raise InputError(f"{path}: column {column!r}: {word!r} is no emotion; for another word: --map "
                             f"{word}=happiness (or nothing after the =), for classes of your own: --classes FILE.toml")
    if not columns:
        raise InputError(f"{path}: no column {prefix}<class> of soft labels; it has {', '.join(table.columns)[:200]}")
    return columns


def _posix_path(key: str) -> str:
    """A path as lists have it (`./a.jpg`, `a\\b.jpg`, `a//b.jpg`) as a key; a URL as it is, for which there is a
    sentence."""
    if URL.match(key.strip()):
        return key.strip()
    key = key.strip().replace("\\", "/")
    return ("/" if key.startswith("/") else "") + "/".join(part for part in key.split("/") if part not in ("", "."))


def _apply_taxonomy(samples: pd.DataFrame, classes: Taxonomy, path: Path, from_zero: bool) -> list[str]:
    """Name the labels in the column of the taxonomy's target: official numbers, and names in its spelling. Returns a
    note each on numbers below 0 and missing values, which are no labels."""
    target, own = classes.target, classes.target not in COLUMNS
    if target not in samples.columns:
        raise InputError(f"{path}: no column {target!r}, the target of --classes {classes.name}; it has "
                         f"{', '.join(samples.columns)}" if own else
                         f"--classes {classes.name} numbers {target} labels: name their column with --{target}")
    column, names, below, missing = samples[target], {}, [], []
    numbers = range(len(classes.classes)) if from_zero else classes.numbers
    for value in column.unique():
        number = parse_int(value)
        if value.strip() in MISSING:
            names[value] = ""
            missing.append(value)
        elif normalize_label(value) in classes.classes:
            names[value] = normalize_label(value)
        elif number is not None:
            hint = "; if labels count from 0, say --from-zero" if number == 0 else ""
            check_cells((column != value) | (number < 0 or number in numbers), column, path,
                        f"is not a class number of {classes.name} ({min(numbers)} to {max(numbers)}){hint}")
            names[value] = "" if number < 0 else classes.classes[numbers.index(number)]
            below += [value] if number < 0 else []
    samples[target] = column.replace(names)
    if own:
        check_cells(samples[target].isin(["", *classes.classes]), samples[target], path,
                    f"is not one of the classes of {classes.name}: {', '.join(classes.classes)}")
    return [f"column {target}: {int(column.isin(cells).sum()):,} cells such as {cells[0]!r}{what}" for cells, what in (
        (below, ", numbers below 0, are taken as no label"), (missing, " are taken as missing")) if cells]


READER = read_csv
