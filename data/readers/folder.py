"""Class folders: `split/class/*.jpg` or `class/*.jpg`, classes by name or by official number."""

from collections.abc import Mapping

import pandas as pd

from twofold.data.images.archives import Place, relative_path
from twofold.data.images.formats import is_image_name
from twofold.data.labels import SPLIT_OF, Taxonomy, canonical_label, label_column, normalize_label
from twofold.data.manifest import Manifest, build_manifest
from twofold.data.utils.errors import InputError


def read_folder(root: Place, *, classes: Taxonomy | None = None, names: Mapping[str, str] | None = None) -> Manifest:
    """The manifest of a tree of class folders, keys sorted.

    A class folder is named as an emotion in any spelling that `aliases` has (`happiness`, `Happily Surprised`), as one
    of `classes`, with an official number of theirs, or as `names` (folder to label) says. Raises InputError for a
    folder that is none of these.
    """
    rows = []
    for key in sorted(relative_path(path, root) for path in root.rglob("*")):
        if is_image_name(key):
            rows.append({"key": key.as_posix(), **_labels(key.parts[:-1], classes, names or {}, root)})
    if not rows:
        raise InputError(f"{root}: no images in split/class/*.jpg or class/*.jpg below it")
    return build_manifest(pd.DataFrame(rows, dtype=object), source=str(root))


def _labels(
    folders: tuple[str, ...], classes: Taxonomy | None, names: Mapping[str, str], root: Place,
) -> dict[str, str]:
    split = SPLIT_OF.get(folders[0].lower(), "") if len(folders) == 2 else ""
    if len(folders) not in (1, 2) or (len(folders) == 2 and not split):
        raise InputError(f"{root}: {'/'.join(folders) or '.'} is not split/class or class (splits: train, val, test)")
    if names.get(folders[-1]) == "":
        return {"split": split}
    target, label = _class(names.get(folders[-1], folders[-1]), classes, root)
    return {"split": split, target: label}


def _class(name: str, classes: Taxonomy | None, root: Place) -> tuple[str, str]:
    if classes is not None and normalize_label(name) in classes.classes:
        return classes.target, normalize_label(name)
    if classes is not None and name.isdecimal():
        return classes.target, classes.label(int(name))
    label = canonical_label(name)
    if not label_column(label):
        hint = f" nor one of {', '.join(classes.classes)}" if classes else (
            "; for numbered folders say --classes NAME, for classes of your own --classes FILE.toml")
        raise InputError(f"{root}: the folder {name!r} is neither a basic nor a compound expression{hint}; another "
                         f"word for one: --map {name}=happiness")
    return label_column(label), label
