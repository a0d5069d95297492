"""Clips as samples: their manifest, and statistics of their frames beside numpy's."""

import numpy as np
import pandas as pd
import pytest

from twofold.data.manifest import build_manifest
from twofold.data.utils.errors import InputError
from twofold.fuse.core.settings import DEFAULT_POOL, resolve
from twofold.fuse.core.units import pool_frames, units_of


def _manifest(**columns):
    rows = {"key": [f"v{unit}/{frame:03d}.png" for frame in (10, 2, 1) for unit in "ab"], "split": ["train"] * 6,
            "clip": ["a.mp4", "b.mp4"] * 3, "group": ["ann", "bob"] * 3, "basic": ["anger", "fear"] * 3,
            "p_anger": ["7", "0"] * 3, "p_fear": ["3", "9"] * 3, "note": list("uvwxyz")}
    return build_manifest(pd.DataFrame(rows | columns), source="made up")


def test_a_unit_has_what_its_rows_agree_in_and_its_frames_in_time():
    manifest, rows = units_of(_manifest(), "clip", source="m.csv")
    assert manifest.keys == ["a.mp4", "b.mp4"] and [part.tolist() for part in rows] == [[4, 2, 0], [5, 3, 1]]
    table = manifest.table
    assert table[["group", "basic", "p_fear"]].to_numpy().tolist() == [["ann", "anger", "3"], ["bob", "fear", "9"]]
    assert "note" not in table and manifest.notes == ("2 samples, each the rows of one clip",)
    _, rows = units_of(_manifest(frame=list("312123")), "clip", source="m.csv")  # by the column, whatever the names
    assert [part.tolist() for part in rows] == [[2, 4, 0], [1, 3, 5]]
    videos = _manifest(frame=list("312113"), source=["y", "z", "x", "z", "x", "w"])
    _, rows = units_of(videos, "clip", source="m.csv")  # one video after the other
    assert [part.tolist() for part in rows] == [[0, 4, 2], [1, 3, 5]]
    pictures = _manifest(frame=[""] * 6, source=[f"clip/{number}.jpg" for number in (10, 10, 2, 9, 1, 11)],
                         key=[f"images/{row}.jpg.0.png" for row in range(6)])
    _, rows = units_of(pictures, "clip", source="m.csv")  # as `crop` names faces in pictures
    assert [part.tolist() for part in rows] == [[4, 2, 0], [3, 1, 5]]
    jpeg2000 = _manifest(key=[f"{clip}.{frame}.jp2" for frame in (10, 9, 8) for clip in "ab"])
    assert [part.tolist() for part in units_of(jpeg2000, "clip", source="m.csv")[1]] == [[4, 2, 0], [5, 3, 1]]


def test_rows_without_a_face_have_no_say_but_units_of_them_alone_stay():
    manifest = _manifest(key=["a1.noface", "b1.noface", "a2.png", "b2.noface", "a3.png", "b3.noface"],
                         group=["nobody", "bob", "ann", "bob", "ann", "bob"])
    units, rows = units_of(manifest, "clip", source="m.csv")
    assert units.table["group"].tolist() == ["ann", "bob"] and [len(part) for part in rows] == [3, 3]


@pytest.mark.parametrize(("columns", "message"), [
    ({"basic": ["anger", "fear", "anger", "fear", "sadness", "fear"]}, "clip 'a.mp4' differ in the column 'basic'"),
    ({"p_fear": list("393933")}, "clip 'b.mp4' differ in the column 'p_fear' ('3', '9')"),
    ({"split": ["train"] * 5 + ["test"]}, "clip 'b.mp4' differ in the column 'split'"),
    ({"group": ["ann", "bob", "eve", "bob", "ann", "bob"]}, "clip 'a.mp4' differ in the column 'group'"),
    ({"clip": [""] * 6}, "names no unit")])
def test_rows_of_a_unit_that_contradict_each_other_are_refused(columns, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(").replace(")", r"\)")):
        units_of(_manifest(**columns), "clip", source="m.csv")


def test_columns_that_are_not_there_and_labels_of_ones_own():
    with pytest.raises(InputError, match="no column person"):
        units_of(_manifest(), "person", source="m.csv")
    with pytest.raises(InputError, match="'note'"):
        units_of(_manifest(), "clip", labels=["note"], source="m.csv")
    manifest, rows = units_of(_manifest(clip=["a", "b", "", "b", "a", ""]), "clip", source="m.csv")
    assert manifest.notes[1] == "2 rows without a clip left out" and sorted(np.concatenate(rows)) == [0, 1, 3, 4]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 17])
def test_statistics_of_frames_are_numpys(count):
    frames = np.random.default_rng(count).normal(3, 2, (count, 5)).astype(np.float32)
    expected = np.concatenate([frames.mean(0), frames.std(0),
                               *(np.percentile(frames, q, axis=0) for q in (10, 25, 50, 75, 90))])
    assert pool_frames(frames, DEFAULT_POOL) == pytest.approx(expected, abs=1e-5)
    mixed = pool_frames(frames, ("p50", "slope", "mean", "p0", "steps3")).reshape(7, 5)
    line = np.polyfit(np.linspace(0, 1, count), frames, 1)[0] if count > 1 else np.zeros(5)
    assert mixed[1] == pytest.approx(line, abs=1e-4) and mixed[3] == pytest.approx(frames.min(0))
    assert mixed[0] == pytest.approx(np.median(frames, 0), abs=1e-5)
    if count == 17:
        assert mixed[4:] == pytest.approx(np.stack([frames[:6].mean(0), frames[5:12].mean(0), frames[11:].mean(0)]),
                                          abs=1e-5)
    if count == 1:
        assert (mixed[4:] == frames).all()


def test_statistics_that_there_are_not():
    resolve(changes={"pool": ("mean", "p100", "p5", "steps64")})
    for wrong in ((), ("median",), ("p101",), ("p05",), ("steps1",), ("steps65",), ("mean", "mean")):
        with pytest.raises(InputError, match="choose from mean"):
            resolve(changes={"pool": wrong})
