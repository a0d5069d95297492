"""FER2013 (Goodfellow et al. 2013), with the votes of FER+: samples are read from inside fer2013.csv.

`fer2013.csv` has `emotion,pixels,Usage`, 48 x 48 values a row; FER+ (https://github.com/microsoft/FERPlus) has
`fer2013new.csv` with ten votes for each row in the same order, and no image name where the row shows no face.
Barsoum et al. 2016 (arXiv 1608.01041): the basic label is the authors' majority rule, single votes dropped first.
FER+ has no compound labels; the compound rule is this project's.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd

from twofold.data.faces.settings import UNDETECTED, CropSettings
from twofold.data.images.csv_pixels import row_key
from twofold.data.images.sources import open_images
from twofold.data.labels import SPLIT_OF, canonical_label
from twofold.data.manifest import NO_EMOTION, SOFT, Manifest, build_manifest
from twofold.data.readers.common import compare_counts, parse_int, write_images
from twofold.data.targets import derive_compounds
from twofold.data.utils.csv_files import (
    check_cells,
    check_columns,
    detect_separator,
    read_table,
    require_distinct,
    text_encoding,
)
from twofold.data.utils.errors import InputError, first_line
from twofold.data.utils.options import cli_argument, cli_option

EMOTIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
FILES = ("fer2013.csv", "icml_face_data.csv", "train.csv")  #: the challenge's name, and those of Kaggle's page
MAX_HEADER_LETTERS = 10_000
PUBLISHED = {"train": 28_709, "val": 3_589, "test": 3_589}
VOTED = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", *NO_EMOTION)
#: how `crop` would frame a face as these are: by the landmarks of 576 of them, median. `predict` crops photographs so
FRAMING = CropSettings(size=48, margin=0.08).to_line(UNDETECTED)
#: the rules' names, as the manifest's columns `basic_rule` and `compound_rule` give them
MAJORITY, LOOSE, STRICT = "ferplus majority without single votes", "derived from ferplus votes", "derived, strict"


def read_fer2013(
    root: Annotated[Path, cli_argument(metavar="ROOT", help="fer2013.csv (or icml_face_data.csv), or its folder.")], *,
    ferplus: Annotated[Path | None, cli_option(help="fer2013new.csv: votes for basic and compound labels.")] = None,
    strict: Annotated[bool, cli_option("--strict", help="Only the clearer compound labels.")] = False,
    unpack: Annotated[Path | None, cli_option(help="Write the faces as PNG files to this folder.")] = None,
) -> Manifest:
    """The manifest of `fer2013.csv` (or of the folder that holds it); faces stay inside the file, keyed by row.

    Without FER+ the basic labels are FER2013's own. With it they follow from its votes, as do the compound labels
    (`basic_rule` and `compound_rule` say how), rows without a face are left out, and the columns `image`,
    `compound_strict` and `fer2013` are carried along; the ten votes are the soft label. Raises InputError naming file,
    row and column.
    """
    path = next((root / name for name in FILES if (root / name).is_file()), root / FILES[0]) if root.is_dir() else root
    table = _columns(path)
    samples = pd.DataFrame({
        "key": [row_key(path.name, row) for row in table["row"]], "crop": FRAMING,
        "split": _mapped(table["Usage"], _split, path, "Training, PublicTest, PrivateTest"),
        "basic": _mapped(table["emotion"], _emotion, path, f"0 to {len(EMOTIONS) - 1}, nor {', '.join(EMOTIONS)}")})
    notes = compare_counts("FER2013", PUBLISHED, samples)
    if ferplus is None and strict:
        raise InputError("strict compound labels come from the votes of FER+: give its file with --ferplus")
    if ferplus is not None:
        samples = _voted(samples, table["Usage"], path, ferplus, strict)
        left_out = int((samples["image"] == "").sum())
        samples = samples[samples["image"] != ""]
        notes += [f"{left_out:,} rows without a face (no image name in FER+) are left out"] if left_out else []
    manifest = build_manifest(samples, source=str(path), notes=notes)
    return unpack_faces(manifest, path, unpack) if unpack is not None else manifest


def unpack_faces(samples: Manifest, source: Path, folder: Path) -> Manifest:
    """Write each face as a PNG file named as in FER+ (`fer0000006.png`); returns the manifest of those.

    Raises InputError for a row whose pixels are not as published.
    """
    images, keys = open_images(source), samples.keys
    names = samples.table["image"].tolist() if "image" in samples.table else [f"fer{key[-11:]}" for key in keys]
    if len(set(names)) < len(names) or any("/" in name or name.startswith(".") for name in names):
        raise InputError(f"{source}: the image names of FER+ are not as published (fer0000006.png, each once)")
    written, reasons = write_images(samples, folder, names, lambda row: images.read(keys[row]))
    for row, reason in reasons.items():
        raise InputError(f"{source}: row {int(keys[row][-11:-4]) + 2}, column 'pixels': {reason}")
    return written


def _columns(path: Path) -> pd.DataFrame:
    """Row in the file, emotion and Usage, whatever the order of the columns; pixels are left where they are."""
    try:
        with path.open("rb") as file:
            head = file.read(MAX_HEADER_LETTERS)
        if text_encoding(head) == "utf-16":
            raise InputError(f"{path}: in UTF-16, of which no single row can be read: save it as UTF-8")
        header = head.decode("utf-8-sig", "replace").partition("\n")[0]
        separator = detect_separator(header)
        require_distinct(header.rstrip("\r").split(separator), path)
        table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig",
                            usecols=lambda name: str(name).strip() in ("emotion", "Usage"), skip_blank_lines=False)
        columns = pd.read_csv(path, sep=separator, nrows=0, encoding="utf-8-sig").rename(columns=str.strip)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file: give fer2013.csv or the folder that holds it") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a CSV table in UTF-8 ({first_line(error)})") from None
    table = table[(table != "").any(axis=1)].reset_index(names="row").rename(columns=str.strip)  # not its blank lines
    if path.name == "train.csv" and "Usage" not in table:  # Kaggle's training part
        table, columns = table.assign(Usage="Training"), columns.assign(Usage="")
    check_columns(columns, ("emotion", "pixels", "Usage"), path)
    return table


def _mapped(column: pd.Series, name_of: Callable[[str], str], path: Path, choices: str) -> pd.Series:
    labels = column.map({text: name_of(text) for text in column.unique()})
    check_cells(labels != "", column, path, f"is not one of {choices}")
    return labels


def _split(usage: str) -> str:
    return SPLIT_OF.get(usage.strip().lower(), "")


def _emotion(text: str) -> str:
    """The emotion of a number or a name; empty for any other text."""
    number, name = parse_int(text), canonical_label(text.strip())
    if number is None:
        return name if name in EMOTIONS else ""
    return EMOTIONS[number] if 0 <= number < len(EMOTIONS) else ""


def _voted(samples: pd.DataFrame, usage: pd.Series, path: Path, ferplus: Path, strict: bool) -> pd.DataFrame:
    """The samples with the labels that follow from the votes; those without a face have no `image`."""
    table = read_table(ferplus)
    check_columns(table, ("Usage", "Image name", *VOTED), ferplus)
    if len(table) != len(samples):
        raise InputError(f"{ferplus}: {len(table):,} rows, but {path} has {len(samples):,}: they must be of the "
                         "same samples")
    check_cells(table["Usage"].str.strip() == usage.str.strip(), table["Usage"], ferplus,
                f"is not that of the row in {path}: the rows are not in the same order")
    for name in VOTED:
        check_cells(table[name].str.strip().str.fullmatch(r"\d+"), table[name], ferplus, "is not a number of votes")
    votes = table[list(VOTED)].astype(int).to_numpy()
    basic, shares = majority(votes), votes / np.maximum(votes.sum(axis=1, keepdims=True), 1)
    clear = derive_compounds(shares, VOTED, second=0.3, both=0.6, over_neutral=0.1)
    compound = clear if strict else derive_compounds(shares, VOTED)
    return samples.assign(
        basic=basic, compound=compound, basic_rule=np.where(basic != "", MAJORITY, ""),
        compound_rule=np.where(compound != "", np.where(clear != "", STRICT, LOOSE), ""),
        image=table["Image name"].str.strip(), compound_strict=np.where(clear != "", "1", "0"),
        fer2013=samples["basic"], **{f"{SOFT}{name}": votes[:, place] for place, name in enumerate(VOTED)})


def majority(votes: np.ndarray) -> np.ndarray:
    """(N,) the emotion with more than half of the votes (N, 10) that count, else empty; `unknown` and `NF` are none.

    As the authors' `ferplus.py` has it, a single vote for an emotion counts for nothing.
    """
    counted = np.where(votes > 1, votes, 0)
    best = counted.argmax(axis=1)
    clear = (counted.max(axis=1) * 2 > counted.sum(axis=1)) & (best < VOTED.index("unknown"))
    return np.where(clear, np.array(VOTED, dtype=object)[best], "")


READER = read_fer2013
