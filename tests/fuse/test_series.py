"""Videos as time series: the head's pose against projected rotations, rows at a regular rate, events, subtitles."""

import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from tests.conftest import ROOT
from twofold.data.faces.align import MEAN_FACE, head_pose
from twofold.data.utils.errors import InputError
from twofold.data.utils.outputs import Output
from twofold.fuse.series import EVENTS, find_events, resample, write_events
from twofold.fuse.smoothing import STANDALONE, sequences


def rotation(yaw, pitch, roll):
    """Axes right, down, towards the camera: the nose (0, 0, 1) goes to the right, up, and the eyes turn clockwise."""
    a, b, c = np.radians([yaw, pitch, roll])
    turn = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    nod = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    tilt = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return tilt @ turn @ nod


@pytest.mark.parametrize("distance, wrong", [(1e6, 0.01), (400, 2.0), (200, 4.0)])  # 400: 66 cm
def test_the_pose_of_projected_heads(distance, wrong):
    angles = np.array([(0, 0, 0), (30, 0, 0), (0, 20, 0), (0, -20, 0), (0, 0, 25), (40, 15, -20), (-25, -15, 10)])
    model = np.array(MEAN_FACE) - np.mean(MEAN_FACE, axis=0)
    heads = np.stack([model @ rotation(*each).T for each in angles])
    points = 3 * heads[..., :2] * distance / (distance - heads[..., 2:]) + (320, 200)
    assert np.abs(head_pose(points) - angles).max() < wrong
    nose = (rotation(30, 20, 0) @ (0, 0, 1))[:2]
    assert nose[0] > 0 > nose[1]  # to the right and up


def frames(times, tracks, **columns):
    """A manifest's rows of the frames of a video."""
    return pd.DataFrame({"key": [f"k{number}" for number in range(len(times))], "source": "clip.mp4",
                         "frame": list(map(str, range(len(times)))), "time": list(map(str, times)), "track": tracks
                         } | columns)


def test_rows_at_a_rate_are_means_of_their_frames_and_gaps_stay():
    times = [0.0, 0.04, 0.09, 0.12, 0.52, 0.56]
    samples, values = resample(frames(times, ["0"] * 6), np.array([[1.0], [3], [5], [7], [9], [11]]), 10.0)
    assert samples["time"].astype(float).tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert values[:, 0].tolist() == pytest.approx([2, 6, np.nan, np.nan, np.nan, 9, 11], nan_ok=True)
    assert samples["key"].tolist() == ["k0", "k2", "", "", "", "k4", "k5"] and set(samples["track"]) == {"0"}


def test_frames_without_a_face_are_of_the_one_person_whatever_her_tracks():
    table = frames(np.arange(5), ["0", "0", "", "1", "1"], person=["0", "0", "", "0", "0"])
    assert set(sequences(table)) == {"clip.mp4"}
    two = table.assign(person=["0", "0", "", "1", "1"])
    assert sequences(two).tolist() == ["clip.mp4, person 0"] * 2 + [STANDALONE] + ["clip.mp4, person 1"] * 2


def test_people_have_rows_of_their_own_and_photographs_stay():
    table = pd.concat([frames([0.0, 0.0, 1.0, 2.0], ["0", "1", "0", ""]),
                       frames([0.0], [""]).assign(source="a.jpg", frame="", time="", key="photo")], ignore_index=True)
    samples, values = resample(table, np.array([[1.0], [2], [3], [np.nan], [4]]), 1.0)
    assert samples["key"].tolist() == ["photo", "k0", "k2", "", "k1", "", ""]
    assert values[:, 0].tolist() == pytest.approx([4, 1, 3, np.nan, 2, np.nan, np.nan], nan_ok=True)


@pytest.fixture
def answered():
    happy = [0.6, 0.9, 0.7, 0.2, 0.8, 0.3, 0.9, 0.1]
    table = frames(np.arange(8) / 4, [*"00000", "", "0", ""], happily_surprised=happy)  # in frame 5: not seen
    calls = ["happily_surprised"] * 3 + ["none", "happily_surprised", "no face", "happily_surprised", "uncertain"]
    return table.assign(prediction=calls)


def test_events_have_onset_apex_and_offset(answered):
    events = pd.DataFrame(find_events(answered))
    assert events["onset"].tolist() == [0.0, 1.0, 1.5] and events["offset"].tolist() == [0.75, 1.25, 1.75]
    assert events["apex"].tolist() == [0.25, 1.0, 1.5] and events["peak"].tolist() == [0.9, 0.8, 0.9]
    assert events["frames"].tolist() == [3, 1, 1] and set(events["kind"]) == {"expression"}


def test_subtitles_say_the_events(answered, tmp_path):
    count = write_events(answered, Output(tmp_path / "out.vtt", EVENTS))
    text = (tmp_path / "out.vtt").read_text()
    assert count == 3 and text.startswith("WEBVTT\n\n") and text.count(" --> ") == 3
    assert "00:00:00.000 --> 00:00:00.750\n<v person 0, expression>happily surprised 90 %\n" in text
    own = answered.rename(columns={"happily_surprised": "joie & <b>"}).replace("happily_surprised", "joie & <b>")
    write_events(own, Output(tmp_path / "own.vtt", EVENTS))
    assert "joie &amp; &lt;b&gt; 90 %" in (tmp_path / "own.vtt").read_text()
    write_events(answered, Output(tmp_path / "out.eaf", EVENTS))
    document = ElementTree.parse(tmp_path / "out.eaf").getroot()
    slots = {slot.get("TIME_SLOT_ID"): int(slot.get("TIME_VALUE")) for slot in document.iter("TIME_SLOT")}
    spans = [(slots[one.get("TIME_SLOT_REF1")], slots[one.get("TIME_SLOT_REF2")])
             for one in document.iter("ALIGNABLE_ANNOTATION")]
    assert spans == [(0, 750), (1000, 1250), (1500, 1750)]
    assert [tier.get("TIER_ID") for tier in document.iter("TIER")] == ["person 0 expression"]
    assert [part.tag for part in document] == ["HEADER", "TIME_ORDER", "TIER", "LINGUISTIC_TYPE"]  # the schema's order
    assert document.attrib.keys() >= {"AUTHOR", "DATE", "VERSION", "FORMAT"}  # of which the first three must be there


def test_subtitles_of_one_frame_and_of_two_people(answered, tmp_path):
    later = answered.assign(track="1", prediction=answered["prediction"].shift(1, fill_value="none"))
    two = pd.concat([answered, later]).replace("happily_surprised", "a<b & c").rename(
        columns={"happily_surprised": "a<b & c"})
    write_events(two, Output(tmp_path / "out.eaf", EVENTS))
    order = [slot.attrib for slot in ElementTree.parse(tmp_path / "out.eaf").getroot().iter("TIME_SLOT")]
    moments, names = [int(slot["TIME_VALUE"]) for slot in order], [slot["TIME_SLOT_ID"] for slot in order]
    assert moments == sorted(moments) and len(set(names)) == len(names) == 12
    write_events(two[:1], Output(tmp_path / "out.vtt", EVENTS))
    text = (tmp_path / "out.vtt").read_text()
    assert "00:00:00.000 --> 00:00:00.001\n<v person 0, expression>a&lt;b &amp; c 60 %" in text
    with pytest.raises(InputError, match="one video"):
        write_events(pd.concat([answered, answered.assign(source="b.mp4")]), Output(tmp_path / "two.vtt", EVENTS))


def test_a_real_video_becomes_a_table_that_pandas_merges(cli, real, tmp_path, monkeypatch):
    detector = ("--detector", real / "weights/detectors/yunet_n_dynamic.onnx")
    clip = real / "media/single_face.mp4"
    done = cli("predict", clip, *detector, "--hz", 10, "--smooth", "box:5", "--embeddings", "--events",
               tmp_path / "events.csv", "-o", tmp_path / "clip.parquet", "--timeline", tmp_path / "scores.png")
    assert done.returncode == 0, done.stderr
    table = pd.read_parquet(tmp_path / "clip.parquet")
    assert np.allclose(table["time"].astype(float), np.arange(25) / 10) and {"e0", "e511"} < set(table)
    assert table[["yaw", "pitch", "roll"]].abs().to_numpy().max() < 25
    assert not np.allclose(table["happiness"], table["raw happiness"])
    events = pd.read_csv(tmp_path / "events.csv")
    assert (events["onset"] <= events["apex"]).all() and (events["apex"] < events["offset"]).all() and len(events)
    pd.DataFrame({"time": np.arange(5) / 2, "rate": [60, 61, 62, 63, 64]}).to_csv(tmp_path / "heart.csv", index=False)
    monkeypatch.chdir(tmp_path)
    source = re.search(r"<!-- python: series -->\n```python\n(.*?)```", (ROOT / "data/SERIES.md").read_text(), re.S)[1]
    names = {}
    exec(compile(source, "data/SERIES.md", "exec"), names)
    assert len(names["both"]) == 25 and names["both"]["rate"].notna().all()


@pytest.mark.parametrize("words, said", [
    (("--hz", "0", "-o", "t.csv"), "above 0"), (("--hz", "5"), "name one with -o"), (("-o", "t.xyz"), ".csv or .par"),
    (("--events", "t.txt"), ".csv, .vtt or .eaf"), (("-o", "t.vtt"), "of videos, and there is none"),
    (("-o", "t.vtt", "--events", "t.csv"), "give one of them"), (("--hz", "5", "-o", "t.csv"), "of videos"),
])
def test_what_makes_no_time_series_is_said(cli, real, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    photo = real / "faces_ferplus/images/fer0000006.png"
    done = cli("predict", photo, "--cropped", *words, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr and not list(tmp_path.iterdir()), done.stderr
