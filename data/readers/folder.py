"""Class folders: split/class/*.jpg or class/*.jpg, classes by name or by official number; other files are counted."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePath
from typing import Annotated

import pandas as pd

from twofold.data.faces.video import is_animation
from twofold.data.images.archives import ArchivePath, Place
from twofold.data.images.formats import IMAGE_FORMATS
from twofold.data.labels import SPLIT_OF, canonical_label, label_column, load_taxonomy, normalize_label, parse_label_map
from twofold.data.manifest import Manifest, build_manifest
from twofold.data.readers.common import find_images, parse_int, reads_archives
from twofold.data.utils.csv_files import check_columns, read_table
from twofold.data.utils.errors import InputError
from twofold.data.utils.machine import usable_cores
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
    a folder that is none of these. Of a folder that `crop` wrote it is its faces.csv, which keeps the crop settings;
    what has no label there has that of its source's folder.
    """
    if (root / "crop.json").is_file() and (root / "faces.csv").is_file():
        labels = folder_labels(classes=classes, label_map=label_map)
        table = build_manifest(read_table(root / "faces.csv"), source=str(root / "faces.csv")).table
        check_columns(table, ("source",), f"{root / 'faces.csv'} (not as `crop` writes it)")
        bare = table.index[(table[["basic", "compound"]] == "").all(axis=1)]
        own = pd.DataFrame([labels(PurePath(name).parts[:-1]) for name in table.loc[bare, "source"]], index=bare)
        table = own.replace("", None).combine_first(table) if len(own.columns) else table
        return build_manifest(table, source=str(root))
    keys, notes = find_images(root, follow_links=follow_links)
    labels = folder_labels(classes=classes, label_map=label_map, strict=True)
    try:
        rows = [{"key": key.as_posix(), **labels(key.parts[:-1])} for key in keys]
    except InputError as error:
        raise InputError(f"{root}: {error}") from None
    if not rows:
        raise InputError("; ".join([f"{root}: no images in split/class/*.jpg or class/*.jpg below it", *notes]))
    notes += _animations_note(root, keys)
    return build_manifest(pd.DataFrame(rows, dtype=object), source=str(root), notes=notes)


def _animations_note(root: Place, keys: Sequence[PurePath]) -> list[str]:
    """A sentence on the images that are animations by their content. In archives, whose files are read whole for this,
    those named as JPEG are not looked at."""
    if isinstance(root, ArchivePath):
        keys = [key for key in keys if key.suffix.lower() not in IMAGE_FORMATS[0].suffixes]
    with ThreadPoolExecutor(usable_cores()) as pool:
        animated = pool.map(lambda key: is_animation(root / key.as_posix()), keys)
        animations = [key.as_posix() for key, moves in zip(keys, animated, strict=True) if moves]
    return [f"{root}: {len(animations):,} samples are animations (the first is {animations[0]}): their first frame is "
            "taken; `crop` reads all frames"] if animations else []


def folder_labels(
    *, classes: str = "", label_map: list[str] | None = None, strict: bool = False,
) -> Callable[[Sequence[str]], dict[str, str]]:
    """A function from the names of an image's folders to its split and its label.

    For folders of another kind it returns {}, or raises InputError if `strict`.
    """
    own = load_taxonomy(classes) if classes else None
    names = parse_label_map(label_map, own)

    def labels(folders: Sequence[str]) -> dict[str, str]:
        split = SPLIT_OF.get(folders[0].lower(), "") if len(folders) == 2 else ""
        if len(folders) != 1 and not split:
            raise InputError(f"{'/'.join(folders) or '.'} is not split/class or class (splits: train, val, test)")
        folder = names.get(normalize_label(folders[-1]), folders[-1])
        label = canonical_label(folder)
        if not folder:
            label, column = "", "basic"
        elif own is not None and normalize_label(folder) in own.classes:
            label, column = normalize_label(folder), own.target
        elif own is not None and (number := parse_int(folder)) is not None and number >= 0:
            label, column = own.label(number), own.target
        elif not (column := label_column(label)):
            hint = f" nor one of {', '.join(own.classes)}" if own else (
                "; for numbered folders say --classes NAME, for classes of your own --classes FILE.toml")
            raise InputError(f"the folder {folder!r} is neither a basic nor a compound expression{hint}; another word "
                             f"for one: --map {folder}=happiness")
        return {name: value for name, value in (("split", split), (column, label)) if value}

    def lenient(folders: Sequence[str]) -> dict[str, str]:
        try:
            return labels(folders)
        except InputError:
            return {}

    return labels if strict else lenient


READER = read_folder
