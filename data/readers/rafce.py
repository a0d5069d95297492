"""RAF-CE (http://www.whdeld.cn/RAF/model4.html): the folder that holds RAFCE_emolabel.txt and aligned/.

`RAFCE_emolabel.txt` has lines `0001.jpg 5` (from 0), `RAFCE_partition.txt` lines `0001.jpg 0` (0 train, 1 test,
2 validation), `RAFCE_AUlabel.txt` the action units of each picture; pictures are `aligned/0001_aligned.jpg`.
"""

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
    labels = read_numbered(root / LABELS, builtin_taxonomy("rafce14").classes, "class of RAF-CE", like="0001.jpg 5")
    splits = read_numbered(root / PARTITION, SPLITS, f"split of RAF-CE: {', '.join(SPLITS)}", like="0001.jpg 0")
    table = pd.DataFrame(labels.items(), columns=["image", "compound"])
    table["split"] = table["image"].map(splits)
    if table["split"].isna().any():
        raise InputError(f"{root / PARTITION}: no line for {table['image'][table['split'].isna()].iloc[0]}, which "
                         f"{LABELS} has")
    if (root / UNITS).is_file():
        units = dict(line.split(maxsplit=1) for _, line in read_lines(root / UNITS) if " " in line)
        table["au"] = table["image"].map(units)
    table["key"] = [f"aligned/{path.stem}_aligned{path.suffix}" for path in map(PurePath, table.pop("image"))]
    notes = missing_note(root, table["key"].tolist(), remedy="unpack the aligned pictures into aligned/")
    return build_manifest(table, source=str(root / LABELS),
                          notes=[*notes, *compare_counts("RAF-CE", PUBLISHED, table)])


READER = read_rafce
