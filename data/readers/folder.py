"""Class folders: split/class/*.jpg or class/*.jpg, classes by name or by official number."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Annotated

import pandas as pd

from twofold.data.images.archives import Place
from twofold.data.labels import (
    SPLIT_OF,
    Taxonomy,
    canonical_label,
    label_column,
    load_taxonomy,
    normalize_label,
    parse_label_map,
)
from twofold.data.manifest import Manifest, build_manifest
from twofold.data.readers.common import Reader, find_images, reads_archives
from twofold.data.utils.csv_files import read_table
from twofold.data.utils.errors import InputError
from twofold.data.utils.options import cli_option

Classes = Annotated[str, cli_option(help="Taxonomy, or FILE.toml, whose names or numbers the labels are.")]
LabelMap = Annotated[list[str] | None, cli_option("--map", metavar="OLD=NEW", help="A label or folder by another "
                                                                                 "name (repeatable).")]


@reads_archives
def read_folder(
    root: Place, *, classes: Classes = "", label_map: LabelMap = None,
    follow_links: Annotated[bool, cli_option("--follow-links", help="Read folders that are links, too.")] = False,
) -> Manifest:
    """The manifest of a tree of class folders, keys sorted.

    A class folder is named as an emotion in any spelling that `labels.ALIASES` has (`happiness`, `Happily Surprised`),
    as one of `classes`, with an official number of theirs, or as `label_map` says (FOLDER=LABEL). Raises InputError for
    a folder that is none of these. Of a folder that `crop` wrote it is its faces.csv, which keeps the crop settings.
    """
    own = load_taxonomy(classes) if classes else None
    names = parse_label_map(label_map, own)
    if (root / "crop.json").is_file() and (root / "faces.csv").is_file():
        return _read_crops(root, folder_labels(classes=classes, label_map=label_map))
    keys, notes = find_images(root, follow_links=follow_links)
    rows = [{"key": key.as_posix(), **_labels(key.parts[:-1], own, names, root)} for key in keys]
    if not rows:
        raise InputError("; ".join([f"{root}: no images in split/class/*.jpg or class/*.jpg below it", *notes]))
    return build_manifest(pd.DataFrame(rows, dtype=object), source=str(root), notes=notes)


def folder_labels(*, classes: str = "", label_map: list[str] | None = None
                  ) -> Callable[[Sequence[str]], dict[str, str]]:
    """A function from the names of an image's folders to its label columns, {} for folders of another kind."""
    own = load_taxonomy(classes) if classes else None
    names = parse_label_map(label_map, own)

    def labels(folders: Sequence[str]) -> dict[str, str]:
        try:
            return {name: value for name, value in _labels(folders, own, names, PurePath()).items() if value}
        except InputError:
            return {}

    return labels


def _read_crops(root: Place, labels: Callable[[Sequence[str]], dict[str, str]]) -> Manifest:
    """The manifest that `crop` wrote; what has no label there has that of its source's folder."""
    table = build_manifest(read_table(root / "faces.csv"), source=str(root / "faces.csv")).table
    bare = (table[["basic", "compound"]] == "").all(axis=1)
    for row in table.index[bare]:
        for name, value in labels(PurePath(str(table.at[row, "source"])).parts[:-1]).items():
            if name not in table:
                table[name] = ""
            table.at[row, name] = value
    return build_manifest(table, source=str(root))


def _labels(folders: Sequence[str], classes: Taxonomy | None, names: Mapping[str, str], root: Place | PurePath
            ) -> dict[str, str]:
    split = SPLIT_OF.get(folders[0].lower(), "") if len(folders) == 2 else ""
    if len(folders) not in (1, 2) or (len(folders) == 2 and not split):
        raise InputError(f"{root}: {'/'.join(folders) or '.'} is not split/class or class (splits: train, val, test)")
    if names.get(folders[-1]) == "":
        return {"split": split}
    column, label = _class(names.get(folders[-1], folders[-1]), classes, root)
    return {"split": split, column: label}


def _class(name: str, classes: Taxonomy | None, root: Place | PurePath) -> tuple[str, str]:
    """The column and the label of a folder's name."""
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


READER = Reader(read_folder)
