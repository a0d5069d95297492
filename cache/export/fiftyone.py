"""For FiftyOne: its CSVDataset (labels.csv beside pictures that stay where they are), and features as `.npy` files."""

import csv
from pathlib import Path

import numpy as np

from twofold.cache.export.faces import ExportedFaces
from twofold.cache.export.numpy_files import recipes_json, write_array

LABELS_CSV, RECIPES = "labels.csv", "recipes.json"
HEADER = ["filepath", "row"]


def folder_files(faces: ExportedFaces) -> list[str]:
    """The names of the files of such a folder; labels.csv last, so that a folder that has it is whole."""
    return [*(f"{name}.npy" for name in faces.streams), RECIPES, LABELS_CSV]


def write_folder_file(path: Path, name: str, faces: ExportedFaces) -> None:
    """Write the file of that name to `path`.

    labels.csv: `filepath` (the key: relative to the data set's root), `row` (of the face in each `.npy`) and the labels
    as they stand, since FiftyOne takes every cell literally.
    """
    if name == RECIPES:
        path.write_text(recipes_json(faces), encoding="utf-8")
    elif name == LABELS_CSV:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*HEADER, *faces.labels])
            writer.writerows(zip(faces.keys, range(len(faces.keys)), *faces.labels.values(), strict=True))
    else:
        stream = faces.files[faces.streams.index(name.removesuffix(".npy"))]
        with path.open("wb") as file:
            write_array(file, (len(faces.keys), stream.dim), np.dtype(stream.recipe.dtype),
                        faces.blocks(stream, stream.recipe.dtype))


def is_labels_of_ours(path: Path) -> bool:
    """True for a labels.csv that `write_folder_file` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        return next(csv.reader(file), [])[:2] == HEADER
