"""AffectNet (http://mohammadmahoor.com/affectnet/): train_set/ and val_set/ of 2021, or the older training.csv and
validation.csv.

2021: `train_set/images/<id>.jpg` with `train_set/annotations/<id>_exp.npy` (and `_val`, `_aro`), `val_set/` alike.
Older: `training.csv` and `validation.csv` with pictures under `Manually_Annotated_Images/`, uncropped, the face's box
in the table. Valence and arousal lie from -1 to 1; -2 stands for none.
"""

import io
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Annotated

import numpy as np
import pandas as pd

from twofold.data.images.archives import Place
from twofold.data.images.decode import PHOTO_LIMITS, ImageError, decode
from twofold.data.images.sources import open_images
from twofold.data.labels import BASIC, builtin_taxonomy
from twofold.data.manifest import Manifest, build_manifest
from twofold.data.readers.common import (
    check_choice,
    compare_counts,
    missing_note,
    parse_int,
    reads_archives,
    write_images,
)
from twofold.data.targets import AFFECT
from twofold.data.utils.csv_files import check_cells, check_columns, read_table
from twofold.data.utils.errors import InputError
from twofold.data.utils.options import cli_option

SETS = {"train_set": "train", "val_set": "val"}
LISTS = {"training.csv": "train", "validation.csv": "val"}
PICTURES = "Manually_Annotated_Images"
BOX = ("face_x", "face_y", "face_width", "face_height")
COLUMNS = ("subDirectory_filePath", *BOX, "expression")
MAX_ANNOTATION_BYTES = 1 << 16  #: a number has a hundred
UNUSABLE = {8: "none", 9: "uncertain", 10: "no face"}
NO_TEST = ("AffectNet has no test split: `fuse` scores its official validation set if you say --val-as test here, or "
           "its folds with `fuse --folds 5`")
NOT_CROPPED = "the older release's pictures are not cropped to the face: --crop DIR writes the faces"
#: Mollahosseini et al. 2017; the 2021 release's val_set has 3,999 usable files
PUBLISHED = {"basic8": {"train": 287_651, "val": 3_999}, "basic7": {"train": 283_901, "val": 3_500}}


def read_affectnet(
    root: Path, *,
    classes: Annotated[str, cli_option(help="basic8, or basic7 without contempt.")] = "basic8",
    val_as: Annotated[str, cli_option(help="test makes its official validation set the test split.")] = "val",
    crop: Annotated[Path | None, cli_option(help="Older release: write the faces, cut out, to this folder.")] = None,
) -> Manifest:
    """The manifest of either release, whichever `root` holds. Samples labelled 8 to 10 are left out and counted.

    The official validation set has no test set beside it, and is what others report on. Raises InputError naming what
    is not there or not as published.
    """
    check_choice(classes, tuple(PUBLISHED), "classes of AffectNet")
    check_choice(val_as, ("val", "test"), "AffectNet's validation set as")
    samples = _read_release(root, classes=classes)
    table = samples.table.assign(split=samples.table["split"].replace("val", val_as))
    samples = Manifest(table, samples.notes if val_as == "test" else (*samples.notes, NO_TEST))
    return crop_faces(samples, root, crop) if crop is not None else samples


@reads_archives
def _read_release(root: Place, *, classes: str) -> Manifest:
    lists = [(folder / name, split) for folder in (root, root / "Manually_Annotated_file_lists")
             for name, split in LISTS.items() if (folder / name).is_file()]
    if any((root / name).is_dir() for name in SETS):
        table, notes = _read_sets(root)
    elif lists:
        table, notes = _read_lists(root, lists)
    else:
        raise InputError(f"{root}: neither train_set/ and val_set/ (the 2021 release) nor training.csv and "
                         f"validation.csv (the older one) in it")
    for name in (name for name in AFFECT if name in table):
        table[name] = table[name].where(~table[name].str.strip().str.fullmatch(r"-2(\.0*)?"), "")
    names, numbers = builtin_taxonomy(classes).classes, table.pop("expression")
    unknown = ~numbers.isin([*range(len(BASIC)), *UNUSABLE])
    if unknown.any():
        raise InputError(f"{root}: expression {numbers[unknown].iloc[0]} of {table['key'][unknown].iloc[0]} is not one "
                         f"of AffectNet's (0 to 7; 8 to 10 unusable)")
    notes += [f"{int((numbers == number).sum()):,} samples labelled {number} ({meaning}) are left out"
              for number, meaning in UNUSABLE.items() if (numbers == number).any()]
    table["basic"] = numbers.map(dict(enumerate(BASIC)))
    contempt = int((table["basic"] == "contempt").sum())
    notes += [f"{contempt:,} samples of contempt are left out ({classes})"] if contempt and classes == "basic7" else []
    table = table[table["basic"].isin(names)]
    notes += compare_counts(f"AffectNet, {len(names)} classes", PUBLISHED[classes], table)
    for name in (name for name in AFFECT if name in table):
        wrong = (table[name] != "") & ~pd.to_numeric(table[name], errors="coerce").between(-1, 1)
        if wrong.any():
            raise InputError(f"{root}: {name} {table[name][wrong].iloc[0]!r} of {table['key'][wrong].iloc[0]} is not a "
                             "number from -1 to 1, nor -2 for none")
    return build_manifest(table, source=str(root), notes=notes)


def _read_sets(root: Place) -> tuple[pd.DataFrame, list[str]]:
    rows, notes = [], []
    for name, split in SETS.items():
        images, annotations = root / name / "images", root / name / "annotations"
        if not (root / name).is_dir():
            notes.append(f"{root / name}: no such folder: its samples are left out")
            continue
        if lacking := [folder for folder in (images, annotations) if not folder.is_dir()]:
            raise InputError(f"{lacking[0]}: no such folder: unpack {name} whole, images and annotations")
        files = {path.name.rpartition(".")[0]: path.name for path in images.iterdir() if not path.name.startswith(".")}
        stems = {path.name.removesuffix("_exp.npy") for path in annotations.iterdir() if path.name.endswith("_exp.npy")}
        if not files or not stems:
            raise InputError(f"{images if stems else annotations}: no {'images' if stems else '<id>_exp.npy files'} "
                             f"in it: unpack {name} whole")
        order = sorted(stems & files.keys(), key=lambda stem: (int(stem) if stem.isdecimal() else -1, stem))
        rows += [(f"{name}/images/{files[stem]}", split, _number(annotations / f"{stem}_exp.npy"),
                  *(_scalar(annotations / f"{stem}_{kind}.npy", "") for kind in ("val", "aro"))) for stem in order]
        notes += [f"{name}: {len(alone):,} {what} are left out" for alone, what in (
            (stems - files.keys(), "annotations without an image"),
            (files.keys() - stems, "images without an annotation")) if alone]
    if not rows:
        raise InputError(f"{root}: no image has an annotation of its name: {'; '.join(notes)}")
    return pd.DataFrame(rows, columns=["key", "split", "expression", *AFFECT]), notes


def _number(path: Place) -> int:
    """The expression in a file. Raises InputError if it holds none."""
    number = parse_int(_scalar(path))
    if number is None:
        raise InputError(f"{path}: not one expression number")
    return number


def _scalar(path: Place, missing: str | None = None) -> str:
    """The release stores each number as text in an array without dimensions; `missing` where there is no such file.
    Raises InputError for what is no such array."""
    if missing is not None and not path.is_file():
        return missing
    try:
        value = np.load(io.BytesIO(path.read_bytes()[:MAX_ANNOTATION_BYTES]), allow_pickle=False).item()
        return (value.decode() if isinstance(value, bytes) else str(value)).strip()
    except Exception:  # an array's header may say anything, and numpy raises as much
        raise InputError(f"{path}: not one {'number' if missing is not None else 'expression number'}") from None


def _read_lists(root: Place, lists: list[tuple[Place, str]]) -> tuple[pd.DataFrame, list[str]]:
    tables = []
    for path, split in lists:
        table = read_table(path)
        check_columns(table, COLUMNS, path)
        numbers = table["expression"]
        whole = numbers.map(parse_int)
        check_cells(whole.notna(), numbers, path, "is no number of an expression")
        key = f"{PICTURES}/" + table.pop("subDirectory_filePath").str.strip().str.replace("\\", "/", regex=False)
        tables.append(table.assign(key=key, split=split, expression=whole.astype(int)))
    if not (root / PICTURES).is_dir():
        raise InputError(f"{root / PICTURES}: no such folder: unpack the pictures there")
    table = pd.concat(tables, ignore_index=True).drop(columns="facial_landmarks", errors="ignore")
    return table, [*missing_note(root, table["key"].tolist(), remedy=f"unpack the pictures into {PICTURES}/"),
                   NOT_CROPPED]


def crop_faces(samples: Manifest, root: Path, folder: Path) -> Manifest:
    """Write the box of each row, in pixels and cut off at the picture's edge, as a JPEG file below `folder`.

    Returns the manifest of these files; a picture that cannot be read is counted in its notes and stays in it, without
    a file. Raises InputError if the table has no boxes.
    """
    lacking = [name for name in BOX if name not in samples.table.columns]
    if lacking:
        raise InputError(f"{root}: nothing to crop: no column {', '.join(lacking)} (the 2021 release is cropped)")
    source, boxes = open_images(root), samples.table[list(BOX)].to_numpy(str)

    def crop(row: int) -> bytes:
        image = decode(source.read(samples.keys[row]), limits)
        try:
            x, y, width, height = (round(float(value)) for value in boxes[row])
        except (ValueError, OverflowError):
            raise ImageError("no box") from None
        box = (max(0, x), max(0, y), min(image.width, x + width), min(image.height, y + height))
        if box[2] <= box[0] or box[3] <= box[1]:
            raise ImageError("box outside the picture")
        file = io.BytesIO()
        image.crop(box).save(file, "JPEG", quality=95)
        return file.getvalue()

    limits = replace(PHOTO_LIMITS, shrink=False)  # boxes are in pixels of the whole picture
    names = [str(PurePosixPath(key).with_suffix(".jpg")) for key in samples.keys]
    written, reasons = write_images(samples, folder, names, crop)
    notes = [note for note in samples.notes if note != NOT_CROPPED]
    if reasons:
        row, reason = next(iter(reasons.items()))
        notes.append(f"{len(reasons):,} faces could not be cropped (the first is {names[row]}: {reason})")
    return Manifest(written.table, tuple(notes))


READER = read_affectnet
