"""Values of a record that a stranger may have written, each refused with its place where it is not what it must be."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twofold.data.utils.errors import InputError

MOST_LETTERS = 1_000
MOST_JSON = 32 << 20  #: bytes of run.json, and of metrics.json


@dataclass(frozen=True)
class Value:
    """A value of the record at `path`, and where it stands there, as `head.dims[0]`: empty for the record itself.

    What is asked of it raises InputError where it is something else.
    """

    path: Path
    value: Any
    where: str = ""

    def __getitem__(self, name: str) -> "Value":
        return self.get(name)

    def get(self, name: str, usual: Any = None) -> "Value":
        """What a table has under a name, or `usual` where it has nothing."""
        return Value(self.path, self.table().get(name, usual), f"{self.where}.{name}".lstrip("."))

    def table(self) -> dict[str, Any]:
        """Names and values."""
        if not isinstance(self.value, dict):
            raise self.refused("a table of names and values is needed")
        return self.value

    def items(self, most: int, *, least: int = 1) -> Iterator["Value"]:
        """Those of a list, which has so many."""
        if not isinstance(self.value, list) or not least <= len(self.value) <= most:
            raise self.refused(f"a list of {least} to {most} is needed")
        return (Value(self.path, item, f"{self.where}[{number}]") for number, item in enumerate(self.value))

    def text(self) -> str:
        """A text of some letters."""
        if not isinstance(self.value, str) or not 1 <= len(self.value) <= MOST_LETTERS:
            raise self.refused(f"{self} is no name")
        return self.value

    def count(self, most: int, *, least: int = 1) -> int:
        """A whole number."""
        if type(self.value) is not int or not least <= self.value <= most:
            raise self.refused(f"{self} is no number from {least} to {most}")
        return self.value

    def number(self, holds: Callable[[float], bool]) -> float:
        """A number for which something holds."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300 or not holds(value):
            raise self.refused(f"{self} makes no sense")
        return float(value)

    def choice(self, choices: Sequence[Any]) -> Any:
        """One of several values, and of its type."""
        if not any(type(self.value) is type(choice) and self.value == choice for choice in choices):
            raise self.refused(f"{self} is none of {', '.join(map(str, choices))}")
        return self.value

    def refused(self, why: str) -> InputError:
        """The sentence for a value that is not what it must be."""
        return InputError(f"{self.path}: {self.where or 'the record'}: {why}; the run does not read back, train it "
                          "again")

    def __str__(self) -> str:
        return short(self.value)


def read_json(path: Path) -> Value:
    """A record that a run keeps as JSON. Raises InputError for what is none, or too large; FileNotFoundError."""
    if path.stat().st_size > MOST_JSON:
        raise InputError(f"{path}: {path.stat().st_size:,} bytes are too many for the record of a run")
    try:
        record = Value(path, json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({short(error)}): the run does not read back, train it again") from None
    record.table()
    return record


def short(value: object) -> str:
    """A value as it can stand in a sentence."""
    text = str(value) if isinstance(value, Exception) else repr(value)
    line = text.splitlines()[0] if text else type(value).__name__
    return line if len(line) <= 80 else f"{line[:77]}..."
