"""The challenge from its videos: its template's frames among cropped faces."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.data.faces.films import BLOBS, GREEN, RED, film, still
from twofold.data.faces.challenge import challenge_frames, link_frames, main_tracks
from twofold.data.faces.crop import crop
from twofold.data.faces.settings import CropSettings, Sampling
from twofold.data.faces.sources import find_sources
from twofold.data.manifest import read_manifest

ASKED = [f"{video}/{frame:05d}.jpg" for video, last in (("01", 7), ("02", 4)) for frame in range(1, last + 1)]


@pytest.fixture
def cropped(tmp_path):
    """01: green in the middle, red (first to come) in a corner, green away in frame 3, six frames where seven are asked
    for; 2: red alone, five frames where four are asked for."""
    (tmp_path / "videos").mkdir()
    film(tmp_path / "videos/01.mp4", [
        still((RED, 2, 2), *([] if place in (0, 3) else [(GREEN, 64, 32)])) for place in range(6)])
    film(tmp_path / "videos/2.mp4", [still((RED, 20 + place, 30)) for place in range(5)])
    crop(find_sources([tmp_path / "videos"]), tmp_path / "crops", BLOBS, sampling=Sampling(),
         settings=CropSettings(size=32, align="square"), progress=False)
    return tmp_path / "crops"


def test_a_frame_is_answered_by_the_person_whom_the_video_is_about(cropped):
    table = read_manifest(cropped / "faces.csv").table
    assert main_tracks(table[table["track"] != ""]) == {"01.mp4": "1", "2.mp4": "0"}
    assert challenge_frames(table, ASKED) == [
        "01/00001.jpg", "images/01.mp4/t1-000001.png", "images/01.mp4/t1-000002.png", "01/00004.jpg",
        "images/01.mp4/t1-000004.png", "images/01.mp4/t1-000005.png", "01/00007.jpg",
        *(f"images/2.mp4/t0-{frame:06d}.png" for frame in range(4))]


def test_faces_lie_where_the_template_says(cropped, tmp_path):
    table = read_manifest(cropped / "faces.csv").table
    for _ in range(2):
        assert link_frames(table, ASKED, cropped, tmp_path / "frames") == 8
    files = sorted(str(path.relative_to(tmp_path / "frames")) for path in (tmp_path / "frames").rglob("*.*"))
    assert files == ["01/00002.png", "01/00003.png", "01/00005.png", "01/00006.png",
                     *(f"02/{frame:05d}.png" for frame in range(1, 5))]
    assert np.abs(np.asarray(Image.open(tmp_path / "frames/01/00002.png"))[8:24, 8:24].astype(int) - GREEN).mean() < 8


def test_size_counts_more_than_the_middle_and_the_middle_more_than_nothing():
    def person(track, box):
        return {"source": "a.mp4", "track": track, "box": box, "picture": "200 100"}

    assert main_tracks(pd.DataFrame([person("0", "90 40 20 20"), person("1", "0 0 60 60")])) == {"a.mp4": "1"}
    assert main_tracks(pd.DataFrame([person("0", "0 0 20 20"), person("1", "90 40 20 20")])) == {"a.mp4": "1"}
    assert main_tracks(pd.DataFrame([person("0", "10 0 20 20"), person("1", "170 0 20 20")])) == {"a.mp4": "0"}
