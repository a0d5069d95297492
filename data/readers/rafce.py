"""RAF-CE (http://www.whdeld.cn/RAF/model4.html): the folder that holds RAFCE_emolabel.txt and aligned/.

`RAFCE_emolabel.txt` has lines `0001.jpg 5` (from 0), `RAFCE_partition.txt` lines `0001.jpg 0` (0 train, 1 test,
2 validation), `RAFCE_AUlabel.txt` the action units of each picture; pictures are `aligned/0001_aligned.jpg`.
"""

import pandas as pd

from twofold.data.images.archives import Place
from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import Manifest, build_manifest
from twofold.data.readers.common import (
    Reader,
    compare_counts,
    missing_note,
    read_lines,
    read_numbered,
    reads_archives,
)
from twofold.data.utils.errors import InputError

LABELS, PARTITION, UNITS = "RAFCE_emolabel.txt", "RAFCE_partition.txt", "RAFCE_AUlabel.txt"
SPLITS = ("train", "test", "val")
PUBLISHED = {"RAF-CE": {"": 4_549}}


@reads_archives
def read_rafce(root: Place) -> Manifest:
    """The manifest of RAF-CE in the order of its label list; the column `au` carries the action units, if listed.

    Raises InputError naming the file that is not there or the line that is not as published.
    """
    for name in (LABELS, PARTITION):
        if not (root / name).is_file():
            raise InputError(f"{root}: no {name} in it: give the folder that holds it and aligned/")
    if not (root / "aligned").is_dir():
        raise InputError(f"{root / 'aligned'}: no such folder: unpack the aligned pictures there")
    classes = builtin_taxonomy("rafce14")
    labels = read_numbered(root / LABELS, like="0001.jpg 5")
    splits = read_numbered(root / PARTITION, like="0001.jpg 0")
    units = _units(root / UNITS)
    rows = []
    for name, (number, line) in labels.items():
        if number not in classes.numbers:
            raise InputError(f"{root / LABELS}: line {line}: {number} is not a class of RAF-CE (0 to 13)")
        split, where = splits.get(name, (None, 0))
        if split is None:
            raise InputError(f"{root / PARTITION}: no line for {name}, which {LABELS} has")
        if split >= len(SPLITS):
            raise InputError(f"{root / PARTITION}: line {where}: {split} is not 0 (train), 1 (test) or 2 (validation)")
        stem, dot, suffix = name.rpartition(".")
        rows.append({"key": f"aligned/{stem}_aligned{dot}{suffix}", "split": SPLITS[split],
                     "compound": classes.label(number), **({"au": units.get(name, "")} if units else {})})
    notes = missing_note(root, [row["key"] for row in rows], remedy="unpack the aligned pictures into aligned/")
    table = pd.DataFrame(rows)
    return build_manifest(table, source=str(root / LABELS),
                          notes=[*notes, *compare_counts("RAF-CE", PUBLISHED["RAF-CE"], table)])


def _units(path: Place) -> dict[str, str]:
    if not path.is_file():
        return {}
    return {name: units.strip() for name, _, units in (text.partition(" ") for _, text in read_lines(path))}


READER = Reader(read_rafce, published=PUBLISHED)
