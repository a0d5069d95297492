"""RAF-DB (http://www.whdeng.cn/RAF/model1.html): the folder that holds basic/ and compound/, as published or
repackaged into class folders.

`basic/EmoLabel/list_patition_label.txt` (spelled so) has lines `train_00001.jpg 5`; the pictures are
`basic/Image/aligned/train_00001_aligned.jpg` or `basic/Image/original/train_00001.jpg`; `compound/` is alike.
Repackaged copies have `train/5/*.jpg` and `test/5/*.jpg` instead. `distribution_basic.txt`, in `basic/EmoLabel/`,
`basic/` or the root, has the shares of about 40 annotators: lines `train_00001.jpg` and seven numbers in the order of
the classes.
"""

from pathlib import PurePath
from typing import Annotated

import pandas as pd

from twofold.data.images.archives import Place, relative_path
from twofold.data.labels import Taxonomy, builtin_taxonomy
from twofold.data.manifest import Manifest, build_manifest
from twofold.data.readers.common import (
    check_choice,
    compare_counts,
    join_images,
    missing_note,
    read_numbered,
    read_shares,
    reads_archives,
)
from twofold.data.readers.folder import read_folder
from twofold.data.utils.errors import InputError
from twofold.data.utils.options import cli_option

LIST = "EmoLabel/list_patition_label.txt"
SHARES = "distribution_basic.txt"
PARTS = {"basic": "basic7", "compound": "rafdb11"}
PUBLISHED = {"basic": {"train": 12_271, "test": 3_068}, "compound": {"": 3_954}}


@reads_archives
def read_rafdb(
    root: Place, *,
    part: Annotated[str, cli_option(help="basic, compound or both.")] = "compound",
    images: Annotated[str, cli_option(help="aligned or original.")] = "aligned",
) -> Manifest:
    """The manifest of one part, `basic` or `compound`, or of `both`; `images` are `aligned` or `original`.

    Raises InputError naming the file that is not there or the line that is not as published.
    """
    check_choice(part, (*PARTS, "both"), "part of RAF-DB")
    check_choice(images, ("aligned", "original"), "images of RAF-DB")
    if part == "both" and not all((root / name).is_dir() for name in PARTS):
        raise InputError(f"{root}: not both parts, basic/ and compound/, are in it: say --part basic or compound")
    parts = [_read_part(root, name, images) for name in (PARTS if part == "both" else (part,))]
    table = pd.concat([samples.table for samples in parts], ignore_index=True)
    return build_manifest(table, source=str(root), notes=[note for samples in parts for note in samples.notes])


def _read_part(root: Place, part: str, images: str) -> Manifest:
    base = root / part if (root / part).is_dir() else root
    classes = builtin_taxonomy(PARTS[part])
    if base == root and root.resolve().name in set(PARTS) - {part}:
        raise InputError(f"{root} is the other part: say --part {root.resolve().name}")
    if (base / LIST).is_file():
        samples = _read_list(root, base, classes, images)
    elif (base / "train").is_dir() and any((base / name).is_dir() for name in ("test", "valid", "val", "validation")):
        samples = read_folder(base, classes=classes.name)
        folder = relative_path(base / "x", root).as_posix()[:-1]
        samples = Manifest(samples.table.assign(key=folder + samples.table["key"]))
    else:
        raise InputError(f"{root}: no {part}/{LIST} below it (spelled so), nor class folders {part}/train/1 and "
                         f"{part}/test/1: give the folder that holds {part}/, or that holds train/ and test/")
    if base == root and part == "compound" and set(samples.table["compound"]) == set(classes.classes[:7]):
        raise InputError(f"{root}: these are classes 1 to 7, as of RAF-DB basic: say --part basic, or put them into a "
                         f"folder named compound")
    table, notes = samples.table, [*samples.notes, *compare_counts(f"RAF-DB {part}", PUBLISHED[part], samples.table)]
    path = next((folder / SHARES for folder in (base / "EmoLabel", base, root) if (folder / SHARES).is_file()), None)
    if part == "basic" and path:
        shares = read_shares(path, classes.classes, like="train_00001.jpg 0.1 0 0 0.8 0 0 0.1")
        names = pd.Series([PurePath(key).name.replace("_aligned.", ".") for key in table["key"]], dtype=object)
        notes += join_images(table, names, shares, path)
    return build_manifest(table, source=str(root), notes=notes)


def _read_list(root: Place, base: Place, classes: Taxonomy, images: str) -> Manifest:
    path, folder = base / LIST, base / "Image" / images
    if not folder.is_dir():
        other = "original" if images == "aligned" else "aligned"
        hint = f", or say --images {other}" if (folder.parent / other).is_dir() else ""
        raise InputError(f"{folder}: no such folder: unpack {images}.zip there{hint}")
    labels = read_numbered(path, classes.classes, f"class of RAF-DB {classes.target}", first=1,
                           like="train_00001.jpg 5")
    start, rows = relative_path(folder, root).as_posix(), []
    for name, label in labels.items():
        split, stem = name.partition("_")[0], name.rpartition(".")[0]
        if split not in ("train", "test"):
            raise InputError(f"{path}: {name!r} does not start with train_ or test_")
        file = f"{stem}_aligned{name[len(stem):]}" if images == "aligned" else name
        rows.append({"key": f"{start}/{file}", "split": split, classes.target: label})
    remedy = f"unpack {images}.zip into it"
    if images == "aligned" and (folder / next(iter(labels))).exists():
        remedy = "it holds the original pictures, whose names lack _aligned; the aligned ones belong there"
    notes = missing_note(root, [row["key"] for row in rows], remedy=remedy)
    return build_manifest(pd.DataFrame(rows), source=str(path), notes=notes)


READER = read_rafdb
