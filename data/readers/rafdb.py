"""RAF-DB as its authors publish it (http://www.whdeld.cn/RAF/model1.html): basic and compound parts.

`basic/EmoLabel/list_patition_label.txt` (spelled so) has lines `train_00001.jpg 5`; the pictures stand in
`basic/Image/aligned/train_00001_aligned.jpg` or `basic/Image/original/train_00001.jpg`; `compound/` is alike.
"""

from pathlib import Path

import pandas as pd

from data.errors import InputError
from data.labels import taxonomy
from data.manifest import Manifest, manifest

LIST = "EmoLabel/list_patition_label.txt"
PARTS = {"basic": "basic7", "compound": "rafdb11"}


def read_rafdb(root: Path, *, part: str, images: str = "aligned") -> Manifest:
    """The manifest of one part, `basic` or `compound`, in the order of its list; `images` are `aligned` or `original`.

    Raises InputError naming the file that is not there or the line that is not as published.
    """
    if part not in PARTS or images not in ("aligned", "original"):
        raise InputError(f"RAF-DB has {', '.join(PARTS)} (aligned or original), not {part}, {images}")
    base = root / part if (root / part).is_dir() else root
    labels = base / LIST
    if not labels.is_file():
        raise InputError(f"{root}: no {part}/{LIST} below it (spelled so): give the folder that holds {part}/")
    folder = (base / "Image" / images).relative_to(root).as_posix()
    if not (root / folder).is_dir():
        raise InputError(f"{root / folder}: no such folder: unpack {images}.zip there")
    classes = taxonomy(PARTS[part])
    rows = [_row(line, number, labels, folder, images, part, classes)
            for number, line in enumerate(labels.read_text(encoding="utf-8-sig").splitlines(), 1) if line.strip()]
    return manifest(pd.DataFrame(rows, columns=["key", "split", part]), source=str(labels))


def _row(line, number, labels, folder, images, part, classes) -> dict[str, str]:
    name, _, label = line.strip().partition(" ")
    split = name.partition("_")[0]
    if split not in ("train", "test") or not label.strip().isdecimal():
        raise InputError(f"{labels}: line {number}: {line.strip()!r} is not like 'train_00001.jpg 5'")
    stem, dot, suffix = name.rpartition(".")
    file = f"{stem}_aligned{dot}{suffix}" if images == "aligned" else name
    try:
        return {"key": f"{folder}/{file}", "split": split, part: classes.label(int(label))}
    except InputError as error:
        raise InputError(f"{labels}: line {number}: {error}") from None
