"""Values of a record that a stranger may have written, each refused with its place where it is not what it must be."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twofold.data.errors import InputError

MOST_LETTERS = 1_000


def counter(path: Path) -> Callable[[object, str, int], int]:
    """A check for whole numbers from 1 to a bound, of the record at `path`."""
    def count(value: object, where: str, most: int) -> int:
        if type(value) is not int or not 1 <= value <= most:
            raise refused(path, where, f"{short(value)} is no number from 1 to {most}")
        return value

    return count


def number(value: object, path: Path, where: str, holds: Callable[[float], bool]) -> float:
    """A number for which something holds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300 or not holds(float(value)):
        raise refused(path, where, f"{short(value)} makes no sense")
    return float(value)


def text(value: object, path: Path, where: str) -> str:
    """A text of some letters."""
    if not isinstance(value, str) or not 1 <= len(value) <= MOST_LETTERS:
        raise refused(path, where, f"{short(value)} is no name")
    return value


def choice(value: Any, choices: Sequence[Any], path: Path, where: str) -> Any:
    """One of several values, and of its type."""
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise refused(path, where, f"{short(value)} is none of {', '.join(map(str, choices))}")
    return value


def items(value: object, path: Path, where: str, most: int) -> list[Any]:
    """A list that is not empty."""
    if not isinstance(value, list) or not 1 <= len(value) <= most:
        raise refused(path, where, f"a list of 1 to {most} is needed")
    return value


def table(value: object, path: Path, where: str) -> dict[str, Any]:
    """Names and values."""
    if not isinstance(value, dict):
        raise refused(path, where, "a table of names and values is needed")
    return value


def refused(path: Path, where: str, why: str) -> InputError:
    """The sentence for a value that is not what it must be."""
    return InputError(f"{path}: {where}: {why}; the run does not read back, train it again")


def short(value: object) -> str:
    """A value as it can stand in a sentence."""
    text = str(value) if isinstance(value, Exception) else repr(value)
    line = text.splitlines()[0] if text else type(value).__name__
    return line if len(line) <= 80 else f"{line[:77]}..."
