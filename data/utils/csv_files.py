"""CSV files: read as people write them, written so that they read back unchanged and no spreadsheet runs them.

A cell that a spreadsheet would take for a formula (it begins with `=`, `+`, `-`, `@`, a tab or a carriage return and
is no plain number) is written with an apostrophe before it, the spreadsheets' own sign for text, and read without it.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

from twofold.data.utils.errors import InputError, first_line, plain_number

FORMULA = re.compile(r"'*[=+\-@\t\r]")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
SEPARATORS = ",;\t"
#: a missing value as programs write it; as text it would be one group of thousands, a class or a fold
MISSING = ("nan", "NaN", "NAN", "NA", "N/A", "n/a", "<NA>", "#N/A", "None", "null", "NULL", "NaT",
           "Null", "Nan", "-nan", "-NaN", "#NA", "#N/A N/A", "#NULL!", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN",
           r"\N")
UTF16 = (b"\xff\xfe", b"\xfe\xff")  #: byte order marks of what spreadsheets call "Unicode text"


class Readable(Protocol):
    """A file, wherever it lies."""

    def read_bytes(self) -> bytes: ...


def read_table(path: Readable | pd.DataFrame) -> pd.DataFrame:
    """A CSV file in UTF-8 (or UTF-16 with a byte order mark), or a table in memory, as text columns.

    Cells may be separated by commas, semicolons or tabs, whichever the header line has most of. Raises InputError, for
    a column that stands twice as well.
    """
    import pandas as pd  # late: the command line's help needs none of it

    if isinstance(path, pd.DataFrame):
        require_distinct(map(str, path.columns), "the table")
        table = path.reset_index(drop=True).rename(columns=_composed).astype(object)
        return table.where(table.notna(), "").astype(str)
    try:
        if isinstance(path, Path) and path.exists() and not path.is_file():  # opening a named pipe would wait for ever
            raise InputError(f"{path}: no regular file")
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file (make a manifest with `manifest READER ROOT -o FACES.csv`)") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    encoding = text_encoding(content)
    try:
        text = content[:1 << 16].decode(encoding, "replace")
        if text[:4].lower() == "sep=":  # Excel's own line, before the header line
            raise InputError(f"{path}: its first line is {text.splitlines()[0]!r}, for Excel: take that line out")
        separator = detect_separator(text.partition("\n")[0])
        lines = io.TextIOWrapper(io.BytesIO(content), encoding, errors="replace", newline="")
        require_distinct(next(csv.reader(lines, delimiter=separator), []), path)
        table = pd.read_csv(io.BytesIO(content), sep=separator, dtype=str, keep_default_na=False, encoding=encoding)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV table in UTF-8 ({first_line(error)}): save it as UTF-8, with as many "
                         "cells in each row as in the header line") from None
    if not isinstance(table.index, pd.RangeIndex):  # pandas would take the first column for names of rows
        raise InputError(f"{path}: row 2 has more cells than the header line: name each column, or take out the "
                         f"{'comma' if separator == ',' else 'separator'} at the end of the rows")
    table = table.rename(columns=_composed)
    if b"'" in content:
        for name in table.columns:
            table[name] = unescape_cells(table[name].tolist())
    return table


def text_encoding(content: bytes) -> str:
    """UTF-16 where a byte order mark says so, else UTF-8, whose mark is left out."""
    return "utf-16" if content.startswith(UTF16) else "utf-8-sig"


def require_distinct(header: Iterable[str], source: object) -> None:
    """Raises InputError, naming the source, for a name that stands twice in a header line: which one is meant?"""
    seen: set[str] = set()
    for name in map(_composed, header):
        if name in seen:
            raise InputError(f"{source}: the column {name[:80]!r} stands twice in its header line: rename one of them")
        seen.update([name] if name else [])


def _composed(name: object) -> str:
    """A column's name without blanks around it (`key, group`), in Unicode's composed form, in which people type it;
    macOS may have written it in the other."""
    return unicodedata.normalize("NFC", str(name)).strip()


def check_columns(table: pd.DataFrame, names: Iterable[str], source: object) -> None:
    """Raises InputError, naming the source, for columns that a table lacks."""
    lacking = [name for name in names if name not in table.columns]
    if lacking:
        raise InputError(f"{source}: no column {', '.join(lacking)}; it has "
                         f"{shorten(', '.join(table.columns), 200, placeholder=' ...')}")


def check_cells(sound: np.ndarray | pd.Series, column: pd.Series, source: object, fault: str) -> None:
    """Raises InputError naming source, row (as counted in a file with a header line), column and cell of the first
    that is not `sound` (N,), and its fault."""
    wrong = ~np.asarray(sound, bool)
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(f"{source}: row {row + 2}, column {column.name!r}: {column.iloc[row]!r} {fault}")


def read_numbers(column: pd.Series, source: object, least: float, most: float, what: str = "a number") -> np.ndarray:
    """(N,) float64 of a column of text, NaN for an empty or missing cell.

    Raises InputError naming source, row, column and cell of the first that is not a number from `least` to `most`.
    """
    import pandas as pd

    empty = column.str.strip().isin(["", *MISSING])
    values = pd.to_numeric(column.mask(empty, "nan"), errors="coerce").to_numpy(float, na_value=np.nan)
    check_cells(empty | ((values >= least) & (values <= most)), column, source,
                f"is not {what} from {plain_number(least)} to {plain_number(most)}")
    return values


def table_to_csv(table: pd.DataFrame) -> str:
    """Text columns as CSV."""
    cells = table.apply(lambda column: escape_cells(column.tolist()))
    returns = any("\r" in cell for name in cells.columns for cell in cells[name])  # pandas leaves those unquoted
    return cells.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL)


def escape_cells(texts: Sequence[str]) -> list[str]:
    """Texts as they are written into cells."""
    return [f"'{text}" if text[:1] in "=+-@\t\r'" and FORMULA.match(text) and not NUMBER.fullmatch(text) else text
            for text in texts]


def unescape_cells(cells: Sequence[str]) -> list[str]:
    """The texts that `escape_cells` was given."""
    return [cell[1:] if cell[:1] == "'" and FORMULA.match(cell) else cell for cell in cells]


def detect_separator(header: str) -> str:
    """The separator that a header line has most of, outside quotes; a comma where it has none."""
    bare = re.sub(r'"[^"]*"', "", header)
    return max(SEPARATORS, key=bare.count)
