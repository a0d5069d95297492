"""What several readers share: published counts, lists of file names, missing files."""

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from twofold.data.images.archives import Archive, ArchivePath, Place, is_archive
from twofold.data.manifest import Manifest, build_manifest
from twofold.data.utils.errors import InputError

LITTER = "__MACOSX"  #: what macOS adds to archives
#: dataset to faces by split; the empty split stands for all of them together
PUBLISHED: dict[str, dict[str, int]] = {
    "RAF-DB basic": {"train": 12_271, "test": 3_068},
    "RAF-DB compound": {"": 3_954},
    "RAF-CE": {"": 4_549},
    "AffectNet, 8 classes": {"train": 287_651, "val": 3_999},
    "AffectNet, 7 classes": {"train": 283_901, "val": 3_500},
    "FER2013": {"train": 28_709, "val": 3_589, "test": 3_589},
    "C-EXPR-DB submission template": {"": 26_145},
}


def differences(dataset: str, table: pd.DataFrame) -> list[str]:
    """A sentence with both numbers for each split that has not as many faces as published."""
    counts = {split: int((table["split"] == split).sum()) if split else len(table) for split in PUBLISHED[dataset]}
    return [f"{dataset}{f' {split}' if split else ''}: {counts[split]:,} faces here, {count:,} as published"
            for split, count in PUBLISHED[dataset].items() if counts[split] != count]


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


def read_dataset(root: Path, read: Callable[[Place], Manifest]) -> Manifest:
    """What a reader makes of a folder or an archive; an archive of one folder is read from there.

    The keys are those of the archive's own members, as `extract --root ARCHIVE` wants them. Raises InputError for a
    root that is neither.
    """
    if not is_archive(root):
        if not root.is_dir():
            raise InputError(f"{root}: no such folder")
        return read(root)
    top = ArchivePath(PurePosixPath("."), Archive(root.resolve()))
    inside = [path for path in top.iterdir() if path.name != LITTER]
    if len(inside) != 1 or not inside[0].is_dir():
        return read(top)
    faces = read(inside[0])
    return build_manifest(faces.table.assign(key=f"{inside[0].key}/" + faces.table["key"]), source=str(root),
                    notes=faces.notes)
