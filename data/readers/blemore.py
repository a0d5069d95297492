"""BLEMORE (arXiv 2601.13225): acted videos of single and blended emotions; give the videos' folder, or `crop`'s of it.

The names of training videos say everything: `A102_ang_int1_ver1` (actor, emotion, intensity 1 to 4; `sit1` to `sit4`
for the situations of neutral), `A411_mix_ang_hap_30_70_ver1` (two emotions and their shares in percent); test videos
are `test_0001`. `train_metadata.csv` has the published fold, 0 to 4, of each in its columns `filename` and `fold`.
"""

import re
from pathlib import Path, PurePath
from typing import Annotated

import numpy as np
import pandas as pd

from twofold.data.images.archives import Place
from twofold.data.manifest import SOFT, Manifest, build_manifest
from twofold.data.readers.common import compare_counts, find_clips, reads_archives
from twofold.data.utils.csv_files import check_cells, check_columns, read_table
from twofold.data.utils.errors import InputError
from twofold.data.utils.options import cli_option

EMOTIONS = {"ang": "anger", "disg": "disgust", "fea": "fear", "hap": "happiness", "neu": "neutral", "sad": "sadness"}
CODE = "|".join(EMOTIONS)
NAME = re.compile(rf"(?P<actor>A\d+)_(?:(?P<only>{CODE})_(?:int(?P<intensity>[1-4])|sit[1-4])|mix_(?P<first>{CODE})_"
                  rf"(?P<second>{CODE})_(?P<shares>50_50|70_30|30_70))_ver\d+")
TEST = re.compile(r"test_\d+")
TABLE = "train_metadata.csv"
PUBLISHED = {"train": 2_456, "test": 594}
LIKE = "A102_ang_int1_ver1, A411_mix_ang_hap_30_70_ver1 or test_0001"


@reads_archives
def read_blemore(
    root: Place, *,
    table: Annotated[Path | None, cli_option(help=f"{TABLE}, with the published folds; default: in ROOT.")] = None,
) -> Manifest:
    """The manifest of the videos, or of the faces that `crop` cut out of them: shares as soft labels, single emotions
    as basic labels too, actors as groups, the published folds as `fold`; `source` is the video.

    Raises InputError naming the video or the row of the table whose name is not as published.
    """
    clips, notes = find_clips(root)
    stems = [PurePath(source).stem for source in clips["source"]]
    labels = pd.DataFrame([_parse(stem, f"{root}: the video {source!r}") for stem, source in zip(
        stems, clips["source"], strict=True)]).fillna("")
    samples = clips.drop(columns="group", errors="ignore").join(labels)
    place = table or root / TABLE
    if table or place.is_file():
        folds, source = read_table(place), str(place)
        check_columns(folds, ("filename", "fold"), source)
        names = [PurePath(name).stem for name in folds["filename"]]
        named = np.array([NAME.fullmatch(name) is not None for name in names], bool)
        check_cells(named, folds["filename"], source, f"is not like {LIKE.partition(' or ')[0]}")
        check_cells(folds["fold"].str.strip().str.fullmatch(r"[0-4](\.0)?"), folds["fold"], source, "is no fold 0 to 4")
        repeated = pd.Series(names, dtype=object).duplicated()
        check_cells(~repeated, folds["filename"], source, "stands in another row already: take one of them out")
        of_name = dict(zip(names, folds["fold"].str.strip().str[0], strict=True))
        samples["fold"] = [of_name.get(stem, "") for stem in stems]
        lacking = (samples["split"] == "train") & (samples["fold"] == "")
        notes += [f"{source}: no fold of {int(lacking.sum()):,} samples (the first is of "
                  f"{samples['source'][lacking].iloc[0]})"] if lacking.any() else []
    else:
        notes.append(f"no {TABLE}: the samples have no published folds (--table names it)")
    notes += compare_counts("BLEMORE videos", PUBLISHED, samples.drop_duplicates("source"))
    return build_manifest(samples, source=str(root), notes=notes)


def _parse(stem: str, what: str) -> dict[str, str]:
    """Columns of the manifest that the name of a video says. Raises InputError."""
    if TEST.fullmatch(stem):
        return {"split": "test", "group": stem}
    match = NAME.fullmatch(stem)
    pair = (match["first"], match["second"]) if match else ("", "")
    if not match or (pair[0] and (pair[0] == pair[1] or "neu" in pair)):
        raise InputError(f"{what} is not named as published: {LIKE}")
    shares = ({match["only"]: "100"} if match["only"] else
              dict(zip(pair, match["shares"].split("_"), strict=True)))
    return {"split": "train", "group": match["actor"], "basic": EMOTIONS.get(match["only"], ""),
            "intensity": match["intensity"] or "",
            **{f"{SOFT}{name}": shares.get(code, "0") for code, name in EMOTIONS.items()}}


READER = read_blemore
