"""The manifest: the table of faces, one row a face."""

import os
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from twofold.data.errors import InputError
from twofold.data.labels import BASIC, pair

COLUMNS = ("key", "split", "basic", "compound", "group")
PLAIN_KEY = re.compile(r"(?:[\w-][\w.,;=+ -]*/)*[\w-][\w.,;=+ -]*", re.ASCII)  #: what nearly every key looks like
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


def manifest(table: pd.DataFrame, *, source: str, notes: Sequence[str] = ()) -> Manifest:
    """A checked manifest from a table that has at least the column `key`.

    Raises InputError naming the first row (as counted in a file with a header line) and column at fault.
    """
    if "key" not in table.columns:
        raise InputError(f"{source}: no column 'key'; it has {', '.join(map(str, table.columns)) or 'none'}")
    table = table.fillna("").astype(str)
    for name in COLUMNS:
        if name not in table.columns:
            table[name] = ""
    table = table[[*COLUMNS, *(name for name in table.columns if name not in COLUMNS)]].reset_index(drop=True)
    for name, fault in (("key", _key_fault), ("split", _split_fault), ("basic", _basic_fault),
                        ("compound", _compound_fault)):
        _check(table[name], fault, source)
    _check_unique(table["key"], source)
    return Manifest(table, tuple(notes))


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest. Raises InputError naming file, row and column."""
    return manifest(read_table(path), source=str(path))


def read_table(path: Path) -> pd.DataFrame:
    """A CSV file in UTF-8, with or without a byte order mark, as text columns. Raises InputError."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file (make a manifest with `manifest READER ROOT -o FACES.csv`)") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, IsADirectoryError) as error:
        raise InputError(f"{path}: not a CSV table in UTF-8 ({str(error).strip().splitlines()[0]})") from None
    if not isinstance(table.index, pd.RangeIndex):  # pandas would take the first column for names of rows
        raise InputError(f"{path}: row 2 has more cells than the header line: name each column, or take out the comma "
                         f"at the end of the rows")
    return table


def write_manifest(faces: Manifest, path: Path) -> None:
    """Write a manifest as UTF-8 CSV, whole or not at all. Raises InputError if it cannot be written there."""
    if not path.parent.is_dir() or path.is_dir():
        raise InputError(f"{path}: cannot be written: {'it is a folder' if path.is_dir() else 'its folder is missing'}")
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex}")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            faces.table.to_csv(file, index=False, lineterminator="\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _check(column: pd.Series, fault: Callable[[str], str], source: str) -> None:
    """Judge each distinct value once: a million rows have few labels."""
    faults = {value: reason for value in column.unique() if (reason := fault(value))}
    if faults:
        row = int(np.flatnonzero(column.isin(list(faults)))[0])
        raise InputError(f"{source}: row {row + 2}, column {column.name!r}: {faults[column[row]]}")


def _check_unique(column: pd.Series, source: str) -> None:
    twice = column.duplicated().to_numpy()
    if twice.any():
        row = int(np.flatnonzero(twice)[0])
        first = int(np.flatnonzero((column == column[row]).to_numpy())[0])
        raise InputError(f"{source}: row {row + 2}, column 'key': {column[row]!r} stands in row {first + 2} already")


def _key_fault(key: str) -> str:
    if PLAIN_KEY.fullmatch(key):
        return ""
    if not key:
        return "the key is empty"
    if key.startswith("/") or "\\" in key or (len(key) > 1 and key[1] == ":"):
        return f"{key!r} is not a path relative to the root, with forward slashes"
    if ".." in key.split("/"):
        return f"{key!r} leaves the root"
    if not key.isascii() and any("\ud800" <= letter <= "\udfff" for letter in key):
        return f"{key!r} is not text in UTF-8: rename the file"
    if "\0" in key or str(PurePosixPath(key)) != key:
        return f"{key!r} is not a plain path (write it as {str(PurePosixPath(key))!r})"
    return ""


def _split_fault(split: str) -> str:
    return "" if split in SPLITS else f"{split!r} is not train, val, test or empty"


def _basic_fault(label: str) -> str:
    return "" if label in ("", *BASIC) else f"{label!r} is not a basic emotion: {', '.join(BASIC)}"


def _compound_fault(label: str) -> str:
    try:
        return "" if not label else pair(label) and ""
    except InputError as error:
        return str(error)
