"""MAFW (https://mafw-database.github.io/MAFW): videos of 11 single or 32 compound emotions; or `crop`'s folder of them.

Below the folder of lists: `single_label.txt` and `multi_label.txt` have lines `03747.mp4 anger ...` and
`20045.mp4 anger_disgust_anxiety ...`; `single/no_caption/set_1/train.txt` and `test.txt` to `set_5` have lines
`03747.mp4 anger`, the published folds. The file of the 11-dimensional distributions of the annotators is described
nowhere in public: of several emotions each has an equal share here. `manifest csv --soft` reads the shares of a table;
take the columns `p_...` out of this manifest before `manifest merge --by-key` unites the two, for they contradict them.
"""

from pathlib import Path, PurePath
from typing import Annotated

import pandas as pd

from twofold.data.images.archives import Place
from twofold.data.labels import builtin_taxonomy, label_column
from twofold.data.manifest import SOFT, Manifest, build_manifest
from twofold.data.readers.common import check_choice, compare_counts, find_clips, read_lines, reads_archives
from twofold.data.utils.errors import InputError
from twofold.data.utils.options import cli_option

CLASSES = builtin_taxonomy("mafw11").classes
PUBLISHED = {"single": {"": 9_172}, "multi": {}}
FOLDS = 5


@reads_archives
def read_mafw(
    root: Place, *,
    part: Annotated[str, cli_option(help="single or multi: one emotion a video, or several.")] = "single",
    lists: Annotated[Path | None, cli_option(help="Folder of the lists, where not below ROOT.")] = None,
) -> Manifest:
    """The manifest of the videos, or of the faces that `crop` cut out of them: the emotions of a video as its soft
    label, a single one as `label` (and `basic`, if it is a basic emotion) too, the published folds as `fold`.

    Raises InputError naming the list that is not there or the line that is not as published.
    """
    check_choice(part, tuple(PUBLISHED), "part of MAFW")
    table, notes = find_clips(root)
    emotions, folds = _read_lists(lists or root, part)
    names = pd.Series([path.name if path.name in emotions else f"{path.stem}.mp4"
                       for path in map(PurePath, table["source"])], dtype=object)
    listed = names.isin(emotions)
    if not listed.any():
        raise InputError(f"{root}: none of the videos is in the {part} lists (the first is {table['source'].iloc[0]})")
    table, names = table[listed].reset_index(drop=True), names[listed].reset_index(drop=True)
    notes += [f"{int((~listed).sum()):,} samples whose video is not in the {part} lists are left out"
              ] if not listed.all() else []
    for name in CLASSES:
        table[f"{SOFT}{name}"] = [str(int(name in emotions[video])) for video in names]
    table["label"] = [emotions[video][0] if len(emotions[video]) == 1 else "" for video in names]
    table["basic"] = table["label"].where(table["label"].map(label_column) == "basic", "")
    table["fold"] = [folds.get(video, "") for video in names]
    table["group"] = table["source"]
    notes += compare_counts(f"MAFW {part}", PUBLISHED[part], table.drop_duplicates("source"))
    return build_manifest(table, source=str(root), notes=notes)


def _read_lists(root: Place, part: str) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Video to its emotions, and to the fold that tests it, from 0. Raises InputError."""
    emotions: dict[str, tuple[str, ...]] = {}
    folds: dict[str, str] = {}
    files = sorted((path for path in root.rglob("*") if path.name.endswith(".txt")), key=str)
    paths = [path for path in files if path.name == f"{part}_label.txt"]
    sets = {fold: [path for path in files if path.name in ("train.txt", "test.txt")
                   and path.parent.name == f"set_{fold + 1}" and _part_of(path) == part] for fold in range(FOLDS)}
    for path in paths + [path for fold in sets.values() for path in fold]:
        for line, text in read_lines(path):
            video, *words = text.split(maxsplit=2)
            names = tuple(words[0].lower().split("_")) if words else ()
            if not names or not set(names) <= set(CLASSES) or len(set(names)) < len(names):
                raise InputError(f"{path}: line {line}: {text[:80]!r} is not like '03747.mp4 anger' (of several: "
                                 f"anger_disgust): {', '.join(CLASSES)}")
            if set(emotions.setdefault(video, names)) != set(names):
                raise InputError(f"{path}: line {line}: {video} is {'_'.join(names)} here, but "
                                 f"{'_'.join(emotions[video])} in another list")
    for fold, listed in sets.items():
        for video in (text.split()[0] for path in listed if path.name == "test.txt" for _, text in read_lines(path)):
            if folds.setdefault(video, str(fold)) != str(fold):
                raise InputError(f"{root}: {video} is a test video of two sets, set_{int(folds[video]) + 1} and "
                                 f"set_{fold + 1}")
    if not emotions:
        raise InputError(f"{root}: neither {part}_label.txt nor {part}/no_caption/set_1/train.txt below it: name their "
                         "folder with --lists")
    return emotions, folds


def _part_of(path: Place) -> str:
    """The part that a list of a fold belongs to, by the folders it lies in."""
    return next((name for name in reversed(PurePath(str(path)).parts) if name in PUBLISHED), "")


READER = read_mafw
