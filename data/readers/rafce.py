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
from twofold.data.readers.common import compare_counts, missing_note, read_lines, read_numbered, reads_archives
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
    splits = read_numbered(root / PARTITION, SPLITS, f"split of RAF-CE: {', '.join(SPLITS)}", like="0001.jpg 0")
    table = pd.DataFrame(labels.items(), columns=["image", "compound"])
    table["split"] = table["image"].map(splits)
    if table["split"].isna().any():
        raise InputError(f"{root / PARTITION}: no line for {table['image'][table['split'].isna()].iloc[0]}, which "
                         f"{LABELS} has")
    if (root / UNITS).is_file():
        units = _read_units(root / UNITS)
        table["au"] = table["image"].map(units)
        shown = {image: set(map(int, re.findall("[0-9]+", text))) - {0} for image, text in units.items()}
        for unit in sorted(set().union(*shown.values())):
            table[f"au_{unit}"] = [str(int(unit in shown[image])) if image in shown else "" for image in table["image"]]
    table["key"] = [f"aligned/{path.stem}_aligned{path.suffix}" for path in map(PurePath, table.pop("image"))]
    notes = missing_note(root, table["key"].tolist(), remedy="unpack the aligned pictures into aligned/")
    return build_manifest(table, source=str(root / LABELS),
                          notes=[*notes, *compare_counts("RAF-CE", PUBLISHED, table)])


def _read_units(path: Place) -> dict[str, str]:
    """Image to its action units as they are written there. Raises InputError naming the line that is otherwise."""
    units = {}
    for line, text in read_lines(path):
        image, *codes = text.split()
        if len(codes) > 1 or not UNIT_CODES.fullmatch("".join(codes) or "null"):
            raise InputError(f"{path}: line {line}: {text[:200]!r} is not like '0001.jpg 1+4+L12' or '0001.jpg null'")
        units[image] = "".join(codes) or "null"
    return units


READER = read_rafce
