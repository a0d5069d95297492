"""Lists of file names with a number, and whether the files they name are there."""

from collections.abc import Sequence

from twofold.data.errors import InputError
from twofold.data.images.archive_paths import Place


def read_lines(path: Place) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1; any line ends, with or without a byte order mark."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file in UTF-8") from None
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def read_numbered(path: Place, *, like: str) -> dict[str, tuple[int, int]]:
    """Lines such as `0001.jpg 5` as name to (number, line number), in order.

    Raises InputError naming the line that is otherwise, or that names a file again.
    """
    rows: dict[str, tuple[int, int]] = {}
    for line, text in read_lines(path):
        name, *numbers = text.split()
        if len(numbers) != 1 or not numbers[0].isdecimal():
            raise InputError(f"{path}: line {line}: {text!r} is not like {like!r}")
        if name in rows:
            raise InputError(f"{path}: line {line}: {name} stands in line {rows[name][1]} already")
        rows[name] = (int(numbers[0]), line)
    if not rows:
        raise InputError(f"{path}: no lines like {like!r}")
    return rows


def absent(root: Place, keys: Sequence[str]) -> list[str]:
    """The keys that are no files below root; folders are listed once, so that this is quick for a million."""
    names: dict[str, set[str]] = {}
    for folder in {key.rpartition("/")[0] for key in keys}:
        try:
            names[folder] = {path.name for path in (root / folder).iterdir()}
        except OSError:
            names[folder] = set()
    return [key for key in keys if key.rpartition("/")[2] not in names[key.rpartition("/")[0]]]


def missing_note(root: Place, keys: Sequence[str], *, remedy: str) -> list[str]:
    """A sentence on the listed images that are not there. Raises InputError with `remedy` if none of them is."""
    gone = absent(root, keys)
    if keys and len(gone) == len(keys):
        raise InputError(f"{root}: none of the {len(keys):,} listed images is there (the first is {keys[0]}): {remedy}")
    return [f"{len(gone):,} of {len(keys):,} listed images are not there (the first is {gone[0]})"] if gone else []
