"""The manifest: the index of a dataset, one row per sample."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from twofold.data.labels import BASIC, basic_pair
from twofold.data.utils.csv_files import check_cells, read_table, save_table
from twofold.data.utils.errors import InputError
from twofold.data.utils.keys import key_fault
from twofold.data.utils.outputs import Output, OutputKind, read_header, replace_file

COLUMNS = ("key", "split", "basic", "compound", "group")
SPLITS = ("train", "val", "test", "")


@dataclass(frozen=True)
class Manifest:
    """Faces in order. `table` has the text columns of `COLUMNS` (empty where unknown) and any others, as text."""

    table: pd.DataFrame
    notes: tuple[str, ...] = ()  #: what a reader left out or found otherwise than published, a sentence each

    def __len__(self) -> int:
        return len(self.table)

    @property
    def keys(self) -> list[str]:
        """The keys in order: POSIX paths relative to the root, unique."""
        return self.table["key"].tolist()

    def select(self, mask: np.ndarray) -> "Manifest":
        """The rows where `mask` (N,) is true, in order."""
        return Manifest(self.table[np.asarray(mask, bool)].reset_index(drop=True))


def build_manifest(table: pd.DataFrame, *, source: str, notes: Sequence[str] = ()) -> Manifest:
    """A checked manifest from a table that has at least the column `key`.

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
    for name in COLUMNS:
        if name not in table.columns:
            table[name] = ""
    table = table[[*COLUMNS, *(name for name in table.columns if name not in COLUMNS)]].reset_index(drop=True)
    for name, fault in (("key", key_fault), ("split", _split_fault), ("basic", _basic_fault),
                        ("compound", _compound_fault)):
        _check(table[name], fault, source)
    _check_unique(table["key"], source)
    return Manifest(table, tuple(notes))


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest. Raises InputError naming file, row and column."""
    return build_manifest(read_table(path), source=str(path))


def write_manifest(faces: Manifest, path: Path) -> None:
    """Write a manifest as UTF-8 CSV, whole or not at all. Raises InputError if it cannot be written there."""
    if not path.parent.is_dir() or path.is_dir():
        raise InputError(f"{path}: cannot be written: {'it is a folder' if path.is_dir() else 'its folder is missing'}")
    with replace_file(path) as temporary:
        save_table(faces.table, temporary)


def manifest_output(path: Path, *, overwrite: bool = False, inputs: Sequence[Path] = ()) -> Output:
    """A manifest to be written, by the rule of data/utils/outputs.py."""
    return Output(path, OutputKind("a manifest", _is_manifest, repeatable=True), overwrite, inputs)


def save_manifest(faces: Manifest, output: Output) -> None:
    """Write a manifest as UTF-8 CSV, whole or not at all. Raises InputError if it cannot be written there."""
    with output.writing() as temporary:
        save_table(faces.table, temporary)


def _is_manifest(path: Path) -> bool:
    return tuple(read_header(path)[:len(COLUMNS)]) == COLUMNS


def _check(column: pd.Series, fault: Callable[[str], str], source: str) -> None:
    """Judge each distinct value once: a million rows have few labels."""
    faults = {value: reason for value in column.unique() if (reason := fault(value))}
    if faults:
        row = int(column.isin(list(faults)).to_numpy().argmax())
        raise InputError(f"{source}: row {row + 2}, column {column.name!r}: {faults[column[row]]}")


def _check_unique(column: pd.Series, source: str) -> None:
    twice = column[column.duplicated()]
    if len(twice):
        first = int((column == twice.iloc[0]).to_numpy().argmax())
        check_cells(~column.duplicated(), column, source, f"stands in row {first + 2} already")


def _split_fault(split: str) -> str:
    return "" if split in SPLITS else f"{split!r} is not train, val, test or empty"


def _basic_fault(label: str) -> str:
    return "" if label in ("", *BASIC) else f"{label!r} is not a basic emotion: {', '.join(BASIC)}"


def _compound_fault(label: str) -> str:
    try:
        if label:
            basic_pair(label)
    except InputError as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class ManifestReport:
    """A manifest as written to `path`. labels: the columns of labels that are counted."""

    faces: Manifest
    path: Path
    labels: tuple[str, ...] = ("basic", "compound")

    def text(self) -> str:
        """Faces by split and by class, a few lines."""
        return "\n".join([f"{len(self.faces):,} faces -> {self.path}", *summary_lines(self.faces, self.labels)])

    def record(self) -> dict:
        """The same numbers by name."""
        table = self.faces.table
        return {"manifest": str(self.path), "faces": len(table), "notes": list(self.faces.notes),
                **{name: _counts(table[name]) for name in ("split", *self.labels)},
                "groups": int(table.loc[table["group"] != "", "group"].nunique())}


def summary_lines(faces: Manifest, labels: tuple[str, ...] = ("basic", "compound")) -> list[str]:
    """Counts by split, class and group; a line each."""
    table = faces.table
    rows = ["split     " + _tally(table["split"])]
    for name in labels:
        labelled = table.loc[table[name] != "", name]
        if len(labelled):
            rows.append(f"{name:9} {len(labelled):,} labelled: {_tally(labelled)}")
    if "fold" in table.columns:
        rows.append("fold      " + _tally(table["fold"].sort_values()))
    grouped = table.loc[table["group"] != "", "group"]
    if len(grouped):
        rows.append(f"group     {grouped.nunique():,} groups of {len(grouped):,} faces")
    return rows


def _counts(column: pd.Series) -> dict[str, int]:
    return {str(name): int(count) for name, count in column.value_counts().items()}


def _tally(column: pd.Series) -> str:
    return ", ".join(f"{name or '(none)'} {count:,}" for name, count in _counts(column).items())
