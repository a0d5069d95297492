"""Class folders: `split/class/*.jpg` or `class/*.jpg`, classes by name or by official number."""

from pathlib import Path, PurePath

import pandas as pd

from twofold.data.errors import InputError
from twofold.data.labels import BASIC, Taxonomy, pair
from twofold.data.manifest import Manifest, manifest
from twofold.data.taxonomies import plain

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def read_folder(root: Path, *, classes: Taxonomy | None = None) -> Manifest:
    """The manifest of a tree of class folders, keys sorted.

    A class folder is named as an emotion (`happiness`, `happily_surprised`; case, blanks and dashes do not matter),
    or as one of `classes`, or with an official number of theirs. Raises InputError for a folder that is neither.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    rows = []
    for key in sorted(path.relative_to(root) for path in root.rglob("*")):
        if is_image(key):
            rows.append({"key": key.as_posix(), **_labels(key.parts[:-1], classes, root)})
    if not rows:
        raise InputError(f"{root}: no images in split/class/*.jpg or class/*.jpg below it")
    return manifest(pd.DataFrame(rows), source=str(root))


def is_image(key: PurePath) -> bool:
    """An image file by its name, and not one that macOS left beside it (`._1.jpg`, `__MACOSX/`)."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in key.parts)
    return key.suffix.lower() in IMAGE_SUFFIXES and not hidden


def _labels(folders: tuple[str, ...], classes: Taxonomy | None, root: Path) -> dict[str, str]:
    split = SPLIT_NAMES.get(folders[0].lower(), "") if len(folders) == 2 else ""
    if len(folders) not in (1, 2) or (len(folders) == 2 and not split):
        raise InputError(f"{root}: {'/'.join(folders) or '.'} is not split/class or class (splits: train, val, test)")
    target, label = _class(folders[-1], classes, root)
    return {"split": split, target: label}


def _class(name: str, classes: Taxonomy | None, root: Path) -> tuple[str, str]:
    if classes is not None and plain(name) in classes.classes:
        return classes.target, plain(name)
    if classes is not None and name.isdecimal():
        return classes.target, classes.label(int(name))
    label = name.strip().lower().replace(" ", "_").replace("-", "_")
    if label in BASIC:
        return "basic", label
    try:
        pair(label)
    except InputError:
        hint = f" nor one of {', '.join(classes.classes)}" if classes else (
            "; for numbered folders say --classes NAME, for classes of your own --classes FILE.toml")
        raise InputError(f"{root}: the folder {name!r} is neither a basic nor a compound expression{hint}") from None
    return "compound", label
