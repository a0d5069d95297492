"""The manifest, the index of a dataset with one row per sample: built, read, merged, written."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from twofold.data.labels import BASIC, basic_pair, label_column
from twofold.data.utils.atomic import atomic_write
from twofold.data.utils.csv_files import (
    MISSING,
    check_cells,
    check_columns,
    read_numbers,
    read_table,
    table_to_csv,
)
from twofold.data.utils.errors import InputError
from twofold.data.utils.keys import key_fault
from twofold.data.utils.outputs import Output, OutputKind, read_header

log = logging.getLogger(__name__)
COLUMNS = ("key", "split", "basic", "compound", "group")
SPLITS = ("train", "val", "test", "")
SOFT = "p_"  #: before a class: the column of its share in a soft label
NO_EMOTION = ("unknown", "NF")  #: what FER+'s annotators could vote for besides; NF is no face
BLANKS = ("none", "missing", ".", "?", "-")  #: in the columns split, group and fold, missing values too
MAX_VOTES = 1e9
PART = "\0part"  #: a column within `merge_by_key`: no table that a person has can have one of that name
VOTES = "a share or a number of votes,"


@dataclass(frozen=True)
class Manifest:
    """Samples in order. `table` has the text columns of `COLUMNS` (empty where unknown) and any others, as text."""

    table: pd.DataFrame
    notes: tuple[str, ...] = ()  #: what a reader left out or found different from the publication, a sentence each

    def __len__(self) -> int:
        return len(self.table)

    @property
    def keys(self) -> list[str]:
        """The keys in order: POSIX paths relative to the root, unique."""
        return self.table["key"].tolist()

    @property
    def soft_classes(self) -> tuple[str, ...]:
        """The emotions, and FER+'s `unknown` and `NF`, that have a column of soft labels."""
        names = [name.removeprefix(SOFT) for name in self.table.columns if name.startswith(SOFT)]
        return tuple(name for name in names if label_column(name) or name in NO_EMOTION)

    def soft_labels(self, classes: Sequence[str], *, source: str = "the manifest") -> np.ndarray | None:
        """(N, C) shares of these classes, from the columns `p_<class>`; None if there is no such column.

        Votes and shares of any sum are normalised to one. A row whose cells are all zero or empty has no soft label: it
        is all zero. So is one in which `unknown` or `NF` has more votes than each emotion, as FER+'s authors leave such
        a face out. Raises InputError for a class that lacks its column, and naming row and column of a wrong cell.
        """
        columns = [f"{SOFT}{name}" for name in classes]
        if not any(name in self.table.columns for name in columns):
            return None
        check_columns(self.table, columns, source)
        shares = self._votes(classes, source)
        none = [name for name in NO_EMOTION if f"{SOFT}{name}" in self.table.columns and name not in classes]
        if none:
            emotions = [name for name in self.soft_classes if name not in NO_EMOTION]
            most = np.column_stack([shares, self._votes(emotions, source)]).max(axis=1)
            shares[self._votes(none, source).max(axis=1) > most] = 0
        total = shares.sum(axis=1, keepdims=True)
        return np.divide(shares, total, out=np.zeros_like(shares), where=total > 0)

    def _votes(self, classes: Sequence[str], source: str) -> np.ndarray:
        """(N, C) the cells of `p_<class>`, 0 where they are empty."""
        return np.nan_to_num(np.column_stack([
            np.zeros((len(self), 0)), *(read_numbers(self.table[f"{SOFT}{name}"], source, 0, MAX_VOTES, VOTES)
                                        for name in classes)]))

    def select(self, mask: np.ndarray) -> "Manifest":
        """The rows where `mask` (N,) is true, in order."""
        return Manifest(self.table[np.asarray(mask, bool)].reset_index(drop=True))


def build_manifest(table: pd.DataFrame, *, source: str, notes: Sequence[str] = ()) -> Manifest:
    """A checked manifest of a table that has at least the column `key`.

    Raises InputError naming the first row (as counted in a file with a header line) and column at fault.
    """
    if "key" not in table.columns:
        raise InputError(f"{source}: no column 'key'; it has {', '.join(map(str, table.columns)) or 'none'}")
    table = table.fillna("")
    try:
        table = table.astype(str)
    except UnicodeEncodeError:  # by pyarrow, where it is installed: it holds no broken names
        _check(table["key"], key_fault, source)
        raise
    table = table.assign(**{name: "" for name in COLUMNS if name not in table.columns})
    notes = list(notes)
    for name in table.columns.intersection([*COLUMNS[1:], "fold"]):
        stripped = table[name].str.strip()
        blanks = (*MISSING, *BLANKS) if name in ("split", "group", "fold") else MISSING
        missing = stripped.isin(blanks) | ((stripped == "") & (table[name] != ""))
        if missing.any():
            notes.append(f"column {name}: {int(missing.sum()):,} cells such as {table[name][missing].iloc[0]!r} are "
                         "taken as missing")
            table[name] = table[name].mask(missing, "")
    table["group"] = table["group"].str.normalize("NFC").str.strip()  # one subject, whatever the form of the letters
    table = table[[*COLUMNS, *(name for name in table.columns if name not in COLUMNS)]].reset_index(drop=True)
    for name, fault in FAULTS.items():
        _check(table[name], fault, source)
    keys = table["key"]
    repeated = keys.duplicated()
    if repeated.any():
        first = keys.tolist().index(keys[repeated].iloc[0])
        check_cells(~repeated, keys, source, f"stands in row {first + 2} already")
    manifest = Manifest(table, tuple(notes))
    manifest.soft_labels(manifest.soft_classes, source=source)
    return manifest


def read_manifest(path: Path | pd.DataFrame) -> Manifest:
    """Read and check a manifest, a file or a table in memory. Raises InputError naming file, row and column."""
    source = "the table" if isinstance(path, pd.DataFrame) else str(path)
    manifest = build_manifest(read_table(path), source=source)
    for note in manifest.notes:
        log.warning("warning: %s: %s", source, note)
    return manifest


def merge(parts: Mapping[str, Manifest]) -> Manifest:
    """One manifest of several by name: `NAME/` is put before their keys and groups, the column `dataset` says which.

    Their roots stay apart: `extract --root NAME=DIR` for each. Raises InputError for a name that cannot stand in a key.
    """
    tables = []
    for name, samples in parts.items():
        if not name or name in (".", "..") or "/" in name or "=" in name or "\\" in name:
            raise InputError(f"{name!r} cannot name a dataset: give NAME=FACES.csv with a plain word")
        table = samples.table
        groups = table["group"].where(table["group"] == "", f"{name}/" + table["group"])
        tables.append(table.assign(key=f"{name}/" + table["key"], dataset=name, group=groups))
    return build_manifest(pd.concat(tables, ignore_index=True), source="merged manifest")


def merge_by_key(parts: Mapping[str, Manifest]) -> Manifest:
    """One manifest of several of the same root, by key: rows of the first, then what each later one adds.

    Where two have the same key, an empty cell takes the other's value; the shares of a soft label are taken together,
    so that none is made of two. Raises InputError naming the key and the column where they contradict each other.
    """
    table = pd.concat([samples.table.assign(**{PART: name}) for name, samples in parts.items()], ignore_index=True)
    table = table.fillna("")
    keys = table["key"].drop_duplicates()
    together: dict[str, list[str]] = {}
    for name in table.columns.drop(["key", PART]):
        kind = label_column(name.removeprefix(SOFT)) if name.startswith(SOFT) else ""
        together.setdefault(f"soft {kind} label" if kind else name, []).append(name)
    columns: dict[str, np.ndarray] = {}
    for what, names in together.items():
        values = table.loc[(table[names] != "").any(axis=1), ["key", *names, PART]].drop_duplicates(["key", *names])
        disputed = values[values["key"].duplicated(keep=False)]
        if len(disputed):
            (_, first), (_, second) = list(disputed[disputed["key"] == disputed["key"].iloc[0]].iterrows())[:2]
            more = disputed["key"].nunique() - 1
            one, other = (", ".join(row[names]) for row in (first, second))
            raise InputError(f"{first[PART]} and {second[PART]} contradict each other: {what!r} of "
                             f"{first['key']!r} is {one!r} in one and {other!r} in the other"
                             + (f" (and so of {more:,} more samples)" if more else ""))
        united = values.set_index("key")[names].reindex(keys).fillna("")
        columns |= {name: united[name].to_numpy(object) for name in names}
    return build_manifest(pd.DataFrame({"key": keys.to_numpy(object)} | columns), source="united manifest")


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write a manifest as UTF-8 CSV, whole or not at all; a file that says the same stays as it is.

    Raises InputError if it cannot be written there.
    """
    content = table_to_csv(manifest.table).encode()
    if path.is_file() and path.read_bytes() == content:  # a complete store may well be read-only
        return
    if not path.parent.is_dir() or path.is_dir():
        raise InputError(f"{path}: cannot be written: {'it is a folder' if path.is_dir() else 'its folder is missing'}")
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def manifest_output(path: Path, *, overwrite: bool = False, inputs: Sequence[Path] = ()) -> Output:
    """A manifest to be written, by the rule of data/utils/outputs.py."""
    kind = OutputKind("a manifest", lambda file: tuple(read_header(file)[:len(COLUMNS)]) == COLUMNS, repeatable=True)
    return Output(path, kind, overwrite, inputs)


def _check(column: pd.Series, fault: Callable[[str], str], source: str) -> None:
    """Check each distinct value once: a million rows have few labels."""
    faults = {value: reason for value in column.unique() if (reason := fault(value))}
    if faults:
        row = int(column.isin(list(faults)).to_numpy().argmax())
        raise InputError(f"{source}: row {row + 2}, column {column.name!r}: {faults[column[row]]}")


def _compound_fault(label: str) -> str:
    try:
        basic_pair(label)
    except InputError as error:
        return str(error)
    return ""


#: why a value cannot stand in a column
FAULTS: dict[str, Callable[[str], str]] = {
    "key": key_fault,
    "split": lambda split: "" if split in SPLITS else f"{split!r} is not train, val, test or empty",
    "basic": lambda label: "" if label in ("", *BASIC) else f"{label!r} is not a basic emotion: {', '.join(BASIC)}",
    "compound": lambda label: _compound_fault(label) if label else ""}
