"""Samples of several rows: a clip, a video, a person. A manifest of units, and their frames' features as one row."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from twofold.data.manifest import COLUMNS, SOFT, Manifest
from twofold.data.utils.csv_files import check_columns
from twofold.data.utils.errors import InputError
from twofold.data.utils.keys import NO_FACE_SUFFIX
from twofold.fuse.core.settings import STEPS, most_frames


def _slope(frames: np.ndarray) -> np.ndarray:
    """Change from the first to the last frame of the line that fits best; 0 of one frame."""
    time = np.linspace(-0.5, 0.5, len(frames)) if len(frames) > 1 else np.zeros(1)
    return time @ (frames - frames.mean(axis=0)) / max(float(time @ time), 1e-12)


def _steps(frames: np.ndarray, count: int) -> np.ndarray:
    """(count D,) means of as many equal spans of time, one after the other; of fewer frames, some stand twice."""
    lows = np.arange(count) * len(frames) // count
    highs = np.maximum(lows + 1, -(-np.arange(1, count + 1) * len(frames) // count))
    return np.concatenate([frames[low:high].mean(axis=0) for low, high in zip(lows, highs, strict=True)])


def pool_frames(frames: np.ndarray, pool: Sequence[str]) -> np.ndarray:
    """(P D,) float32: these statistics of frames (T, D) over time, one after the other. Of a sequence the frames
    (T, D), of too many (P, D) the means of as many equal spans of time."""
    if most := most_frames(pool):
        return frames if len(frames) <= most else _steps(frames.astype(np.float64), most).astype(np.float32).reshape(
            most, -1)
    exact, statistics = frames.astype(np.float64), []
    for name in pool:
        if name.startswith(STEPS):
            statistics.append(_steps(exact, int(name.removeprefix(STEPS))))
        elif name == "slope":
            statistics.append(_slope(exact))
        else:
            statistics.append(exact.mean(axis=0) if name == "mean" else exact.std(axis=0) if name == "std" else
                         np.percentile(exact, float(name[1:]), axis=0))
    return np.concatenate(statistics).astype(np.float32)


def units_of(manifest: Manifest, column: str, *, labels: Sequence[str] = (), source: str
             ) -> tuple[Manifest, list[np.ndarray]]:
    """The manifest of the units that a column names, and the rows (T,) of each in the order of time.

    A unit's key is its name, and its other columns those that its rows agree in. They must agree in split, group, fold
    and labels, those of `labels` included; rows that stand for a picture without a face have no say if others are
    there. Rows without a unit are left out, and a note says so. In time: frames of a video by the column `frame`, of
    several videos one after the other; pictures by the number at the end of the name of their `source`, or of their
    key, else as they stand. Raises InputError naming the unit.
    """
    table = manifest.table
    check_columns(table, [column], source)
    names = table[column].to_numpy(object)
    if not (names != "").any():
        raise InputError(f"{source}: the column {column!r} names no unit: all of its cells are empty")
    must = [name for name in table.columns if name != "key" and (
        name in (*COLUMNS, "fold", *labels) or name.startswith(SOFT))]
    named = np.flatnonzero(names != "")
    codes, units = pd.factorize(names[named])
    empty = pd.Series("", table.index)
    frame, video = (table.get(name, empty) if "frame" in table else empty for name in ("frame", "source"))
    number = frame.where(frame != "", video.where(video != "", table["key"]).str.extract(
        r"(\d{1,15})(?:\.[^./\d][^./]*)?$")[0])
    time = pd.to_numeric(number, errors="coerce").fillna(0).to_numpy()[named]
    video = pd.factorize(video.where(frame != "", ""))[0][named]
    named = named[np.lexsort((named, time, video, codes))]
    starts = np.cumsum(np.bincount(codes))[:-1]
    rows = np.split(named, starts)
    says = ~table["key"].str.endswith(NO_FACE_SUFFIX).to_numpy(bool)
    heard = np.concatenate([part[says[part]] if says[part].any() else part for part in rows])
    of_unit = pd.Series(names[heard])
    columns = {"key": units.astype(object)}
    for name in table.columns.drop("key"):
        values = pd.Series(table[name].to_numpy(object)[heard])
        by_unit = values.groupby(of_unit, sort=False)
        several = by_unit.nunique() > 1
        if not several.any():
            columns[name] = by_unit.first().loc[units].to_numpy(object)
        elif name in must:
            unit = several.index[several.to_numpy()][0]
            first, second = values[of_unit == unit].unique()[:2]
            raise InputError(f"{source}: the rows of {column} {unit!r} differ in the column {name!r} ({first!r}, "
                             f"{second!r}): a unit has one; name another column with --unit, or mend the manifest")
    left = len(table) - len(named)
    notes = [f"{len(units):,} samples, each the rows of one {column}"]
    notes += [f"{left:,} rows without a {column} left out"] if left else []
    return replace(manifest, table=pd.DataFrame(columns), notes=tuple(notes)), rows
