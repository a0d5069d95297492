"""RAF-CE (http://www.whdeng.cn/RAF/model4.html): the folder that holds RAFCE_emolabel.txt and aligned/.

`RAFCE_emolabel.txt` has lines `0001.jpg 5` (from 0), `RAFCE_partition.txt` lines `0001.jpg 0` (0 train, 1 test,
2 validation), `RAFCE_AUlabel.txt` lines `0001.jpg 1+4+L12` (`null`: none; L, R, T, B before a number: only left,
right, top, bottom); pictures are `aligned/0001_aligned.jpg`.
"""

import re
from pathlib import PurePath

import pandas as pd

from twofold.data.images.archives import Place
from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import Manifest, build_manifest
from twofold.data.readers.common import (
    compare_counts,
    missing_note,
    read_by_image,
    read_numbered,
    read_partition,
    reads_archives,
)
from twofold.data.utils.errors import InputError

LABELS, PARTITION, UNITS = "RAFCE_emolabel.txt", "RAFCE_partition.txt", "RAFCE_AUlabel.txt"
SPLITS = ("train", "test", "val")
PUBLISHED = {"": 4_549}
UNIT_CODES = re.compile(r"null|[LRTB]*[0-9]{1,2}(\+[LRTB]*[0-9]{1,2})*")


@reads_archives
def read_rafce(root: Place) -> Manifest:
    """The manifest of RAF-CE in the order of its label list. If action units are listed, `au` has them as published and
    each that occurs has a column `au_<number>` of 1 and 0, on whatever side of the face.

    Raises InputError naming the file that is not there or the line that is not as published.
    """
    for name in (LABELS, PARTITION):
        if not (root / name).is_file():
            raise InputError(f"{root}: no {name} in it: give the folder that holds it and aligned/")
    if not (root / "aligned").is_dir():
        raise InputError(f"{root / 'aligned'}: no such folder: unpack the aligned pictures there")
    labels = read_numbered(root / LABELS, builtin_taxonomy("rafce14").classes, "class of RAF-CE", like="0001.jpg 5")
    table = pd.DataFrame(labels.items(), columns=["image", "compound"])
    table["split"] = read_partition(root / PARTITION, table["image"], SPLITS, "RAF-CE")
    if (root / UNITS).is_file():
        units = read_by_image(root / UNITS, _units, like="0001.jpg 1+4+L12")
        table["au"] = table["image"].map(units)
        shown = {image: set(map(int, re.findall("[0-9]+", text))) - {0} for image, text in units.items()}
        for unit in sorted(set().union(*shown.values())):
            table[f"au_{unit}"] = [str(int(unit in shown[image])) if image in shown else "" for image in table["image"]]
    table["key"] = [f"aligned/{path.stem}_aligned{path.suffix}" for path in map(PurePath, table.pop("image"))]
    notes = missing_note(root, table["key"].tolist(), remedy="unpack the aligned pictures into aligned/")
    return build_manifest(table, source=str(root / LABELS),
                          notes=[*notes, *compare_counts("RAF-CE", PUBLISHED, table)])


def _units(words: list[str]) -> str | None:
    """The action units of an image as they are written; none at all is `null`."""
    text = words[0] if words else "null"
    return text if len(words) < 2 and UNIT_CODES.fullmatch(text) else None


READER = read_rafce
