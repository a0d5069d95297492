"""AffectNet (http://mohammadmahoor.com/affectnet/): the 2021 release of cropped faces, and the older lists in CSV.

2021: `train_set/images/<id>.jpg` with `train_set/annotations/<id>_exp.npy`, `val_set/` alike. Older: `training.csv` and
`validation.csv` with pictures under `Manually_Annotated_Images/`, uncropped, the face's box in the table.
"""

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from twofold.data.images.archives import Place
from twofold.data.images.decode import ImageError, decode
from twofold.data.images.sources import open_images
from twofold.data.labels import Taxonomy, builtin_taxonomy
from twofold.data.manifest import Manifest, build_manifest
from twofold.data.readers.common import differences, missing_note
from twofold.data.utils.csv_files import check_cells, check_columns, read_table
from twofold.data.utils.errors import InputError
from twofold.data.utils.outputs import write_image

SETS = {"train_set": "train", "val_set": "val"}
LISTS = {"training.csv": "train", "validation.csv": "val"}
PICTURES = "Manually_Annotated_Images"
COLUMNS = ("subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "expression")
NO_TEST = ("AffectNet has no test faces: `fuse` scores its official validation set if you say --val-as test here, or "
           "its folds with `fuse --folds 5`")
UNUSABLE = {8: "none", 9: "uncertain", 10: "no face"}


def read_affectnet(root: Place, *, classes: str = "basic8", val_as: str = "val") -> Manifest:
    """The manifest of either release, whichever `root` holds; `classes` is basic8, or basic7 without contempt.

    The official validation set has no test set beside it, and is what others report on; `val_as` test makes it the
    test split. Faces labelled 8 to 10 (none, uncertain, no face) are left out and counted.
    Raises InputError naming what is not there or not as published.
    """
    if classes not in ("basic7", "basic8"):
        raise InputError(f"AffectNet's classes are basic7 or basic8, not {classes!r}")
    if val_as not in ("val", "test"):
        raise InputError(f"AffectNet's validation set can be val or test, not {val_as!r}")
    lists = [(folder / name, split) for folder in (root, root / "Manually_Annotated_file_lists")
             for name, split in LISTS.items() if (folder / name).is_file()]
    if (root / "train_set").is_dir() or (root / "val_set").is_dir():
        table, notes = _read_sets(root)
    elif lists:
        table, notes = _read_lists(root, lists)
    else:
        raise InputError(f"{root}: neither train_set/ and val_set/ (the 2021 release) nor training.csv and "
                         f"validation.csv (the older one) in it")
    faces = _labelled(table, notes, root, wanted=8 if classes == "basic8" else 7)
    if val_as == "val":
        return Manifest(faces.table, (*faces.notes, NO_TEST))
    return Manifest(faces.table.assign(split=faces.table["split"].replace("val", val_as)), faces.notes)


def _read_sets(root: Place) -> tuple[pd.DataFrame, list[str]]:
    rows, notes = [], []
    for name, split in SETS.items():
        images, annotations = root / name / "images", root / name / "annotations"
        if not (root / name).is_dir():
            notes.append(f"{root / name}: no such folder: its faces are left out")
            continue
        for folder in (images, annotations):
            if not folder.is_dir():
                raise InputError(f"{folder}: no such folder: unpack {name} whole, images and annotations")
        files = {file.rpartition(".")[0]: file for file in _names_in(images) if not file.startswith(".")}
        labels = sorted(file for file in _names_in(annotations) if file.endswith("_exp.npy"))
        if not files or not labels:
            raise InputError(f"{images if labels else annotations}: no {'images' if labels else '<id>_exp.npy files'} "
                             f"in it: unpack {name} whole")
        stems = [file.removesuffix("_exp.npy") for file in labels]
        rows += [{"key": f"{name}/images/{files[stem]}", "split": split, "expression": _number(annotations / file)}
                 for stem, file in sorted(zip(stems, labels, strict=True), key=_in_order) if stem in files]
        for count, what in ((len(set(stems) - set(files)), "annotations without an image"),
                            (len(set(files) - set(stems)), "images without an annotation")):
            if count:
                notes.append(f"{name}: {count:,} {what} are left out")
    if not rows:
        raise InputError(f"{root}: no image has an annotation of its name: {'; '.join(notes)}")
    return pd.DataFrame(rows), notes


def _names_in(folder: Place) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _in_order(pair: tuple[str, str]) -> tuple[int, str]:
    return (int(pair[0]) if pair[0].isdecimal() else -1, pair[0])


def _number(path: Place) -> int:
    """The release stores each number as text in an array without dimensions."""
    try:
        return int(np.load(io.BytesIO(path.read_bytes()), allow_pickle=False).item())
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{path}: not one expression number ({error})") from None


def _read_lists(root: Place, lists: list[tuple[Place, str]]) -> tuple[pd.DataFrame, list[str]]:
    tables = []
    for path, split in lists:
        table = read_table(path)
        check_columns(table, COLUMNS, path)
        numbers = table["expression"]
        check_cells(numbers.str.strip().str.fullmatch(r"\d+"), numbers, path, "is no number")
        table = table.drop(columns=["facial_landmarks"], errors="ignore")
        tables.append(table.assign(key=f"{PICTURES}/" + table["subDirectory_filePath"].str.strip(), split=split,
                                   expression=numbers.astype(int)))
    if not (root / PICTURES).is_dir():
        raise InputError(f"{root / PICTURES}: no such folder: unpack the pictures there")
    table = pd.concat(tables, ignore_index=True).drop(columns="subDirectory_filePath")
    notes = missing_note(root, table["key"].tolist(), remedy=f"unpack the pictures into {PICTURES}/")
    return table, [*notes, "the older release's pictures are not cropped to the face: --crop DIR writes the faces"]


def _labelled(table: pd.DataFrame, notes: list[str], root: Place, *, wanted: int) -> Manifest:
    classes: Taxonomy = builtin_taxonomy("basic8")
    numbers = table["expression"]
    unknown = sorted(set(numbers) - set(classes.numbers) - set(UNUSABLE))
    if unknown:
        raise InputError(f"{root}: expression {unknown[0]} of {table['key'][int((numbers == unknown[0]).argmax())]} "
                         f"is not one of AffectNet's (0 to 7; 8 to 10 unusable)")
    for number, meaning in UNUSABLE.items():
        if (numbers == number).any():
            notes = [*notes, f"{int((numbers == number).sum()):,} faces labelled {number} ({meaning}) are left out"]
    if wanted == 7 and (numbers == 7).any():
        notes = [*notes, f"{int((numbers == 7).sum()):,} faces of contempt are left out (basic7)"]
    kept = table[numbers < wanted].reset_index(drop=True)
    kept["basic"] = kept.pop("expression").map(classes.label)
    return build_manifest(kept, source=str(root), notes=[*notes, *differences(f"AffectNet, {wanted} classes", kept)])


BOX = ("face_x", "face_y", "face_width", "face_height")


def crop_faces(faces: Manifest, root: Path, folder: Path, *, workers: int = 0) -> Manifest:
    """Write the box of each row as a JPEG file (quality 95) below `folder`; returns the manifest of those.

    Boxes are pixels from the upper left corner, cut off at the picture's edge. Files already there are kept. A
    picture that cannot be read is counted in the notes and stays in the manifest, without a file.
    Raises InputError if the table has no boxes.
    """
    lacking = [name for name in BOX if name not in faces.table.columns]
    if lacking:
        raise InputError(f"{root}: nothing to crop: no column {', '.join(lacking)} (the 2021 release is cropped)")
    source, folder = open_images(root), Path(folder)
    keys = [str(PurePosixPath(key).with_suffix(".jpg")) for key in faces.keys]
    for parent in {folder / os.path.dirname(key) for key in keys}:
        parent.mkdir(parents=True, exist_ok=True)
    boxes = faces.table[list(BOX)].to_numpy(str)

    def cut(row: int) -> str:
        try:
            return _cut(source.read(faces.keys[row]), boxes[row], folder / keys[row])
        except ImageError as error:
            return str(error)

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        failed = [(key, reason) for key, reason in zip(keys, pool.map(cut, range(len(keys))), strict=True) if reason]
    notes = [note for note in faces.notes if "--crop" not in note]
    if failed:
        notes.append(f"{len(failed):,} faces could not be cut out (the first is {failed[0][0]}: {failed[0][1]})")
    return build_manifest(faces.table.assign(key=keys), source=str(folder), notes=notes)


def _cut(content: bytes, box: list[str], path: Path) -> str:
    if path.exists():
        return ""
    image = decode(content)
    try:
        x, y, width, height = (round(float(value)) for value in box)
    except ValueError:
        raise ImageError("no box") from None
    left, top = max(0, x), max(0, y)
    right, bottom = min(image.width, x + width), min(image.height, y + height)
    if right <= left or bottom <= top:
        raise ImageError("box outside the picture")
    file = io.BytesIO()
    image.crop((left, top, right, bottom)).save(file, "JPEG", quality=95)
    write_image(path, file.getvalue())
    return ""
