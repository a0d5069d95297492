"""Faces cut out of larger pictures by the boxes that a dataset's table gives (AffectNet's older release)."""

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from twofold.data.errors import InputError
from twofold.data.images.csv_pixels import write_image
from twofold.data.images.decode import ImageError, decode
from twofold.data.images.sources import open_faces
from twofold.data.manifest import Manifest, manifest

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
    source, folder = open_faces(root), Path(folder)
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
    return manifest(faces.table.assign(key=keys), source=str(folder), notes=notes)


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
