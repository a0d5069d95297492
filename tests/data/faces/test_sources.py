"""What photographs and videos are called."""

import os
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from twofold.data.faces.sources import find_sources
from twofold.data.manifest import build_manifest
from twofold.data.readers.common import find_images
from twofold.data.utils.errors import InputError


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def names(inputs, **options):
    return [source.name for source in find_sources(inputs, **options)]


def test_folders_are_looked_into_and_files_called_by_their_own_name(tmp_path):
    touch(tmp_path, "in/a.JPG", "in/deep/b.mp4", "in/note.txt", "in/.hidden.jpg", "in/__MACOSX/a.jpg", "c.mov")
    sources = find_sources([tmp_path / "in", tmp_path / "c.mov"])
    assert [(source.name, source.video) for source in sources] == [
        ("a.JPG", False), ("c.mov", True), ("deep/b.mp4", True)]


def test_a_file_named_twice_is_one_source(tmp_path):
    touch(tmp_path, "in/a.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "in/a.jpg")
    assert names([tmp_path / "in", tmp_path / "in/a.jpg", tmp_path / "link.jpg"]) == ["a.jpg"]


def test_two_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    touch(tmp_path, "x/day/a.jpg", "y/day/a.jpg", "z/b.jpg")
    assert names([tmp_path / "x/day/a.jpg", tmp_path / "y/day/a.jpg", tmp_path / "z/b.jpg"]) == [
        "b.jpg", "x/day/a.jpg", "y/day/a.jpg"]


def test_blanks_and_letters_of_all_scripts_stay_and_what_no_key_may_have_goes(tmp_path):
    touch(tmp_path, "mein film.mp4", "视频 1.mp4", "a\\b.jpg", "line\nend.jpg", "n" * 240 + ".jpg")
    (tmp_path / "broken-\udcff.jpg").write_bytes(b"x")
    found = names([tmp_path])
    assert {"mein film.mp4", "视频 1.mp4", "a_b.jpg", "line_end.jpg", "broken-_.jpg"} <= set(found)
    assert max(len(name.encode()) for name in found) <= 200
    build_manifest(pd.DataFrame({"key": [f"images/{name}.0.png" for name in found]}), source="test")  # all are keys


def test_the_output_is_no_input_and_what_is_not_there_is_said(tmp_path):
    touch(tmp_path, "a.jpg", "out/images/a.jpg.0.png", "empty/readme.txt")
    assert names([tmp_path], ignore=tmp_path / "out") == ["a.jpg"]
    with pytest.raises(InputError, match="no photographs or videos"):
        find_sources([tmp_path / "empty"])
    with pytest.raises(InputError, match="no such file"):
        find_sources([tmp_path / "gone.mp4"])


def test_links_out_of_a_folder_are_used_only_when_asked_for(tmp_path, caplog):
    touch(tmp_path, "in/a.jpg", "elsewhere/b.jpg", "in/deep/c.jpg")
    (tmp_path / "in/b.jpg").symlink_to(tmp_path / "elsewhere/b.jpg")
    (tmp_path / "in/d.jpg").symlink_to(tmp_path / "in/deep/c.jpg")
    assert names([tmp_path / "in"]) == ["a.jpg", "d.jpg"]
    assert "1 links lead out of it and are left out (the first is b.jpg): --follow-links reads them" in caplog.text
    assert names([tmp_path / "in"], follow_links=True) == ["a.jpg", "b.jpg", "d.jpg"]
    (tmp_path / "links").mkdir()
    (tmp_path / "links/a.jpg").symlink_to(tmp_path / "in/a.jpg")
    with pytest.raises(InputError, match="--follow-links"):
        find_sources([tmp_path / "links"])


@pytest.mark.parametrize("follow_links", [False, True])
def test_what_cannot_be_read_in_a_folder_is_counted(tmp_path, caplog, monkeypatch, follow_links):
    """In `crop` and `predict`, and in `manifest folder` alike."""
    touch(tmp_path, "in/a.jpg", "in/locked/b.jpg")
    (tmp_path / "in/loop.jpg").symlink_to(tmp_path / "in/loop.jpg")
    (tmp_path / "in/none.jpg").symlink_to(tmp_path / "in/gone.jpg")
    os.mkfifo(tmp_path / "in/pipe.jpg")
    scandir = os.scandir

    def refuse(place):
        if Path(place).name == "locked":  # for everybody, also for the superuser
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    assert names([tmp_path / "in"], follow_links=follow_links) == ["a.jpg"]
    images, notes = find_images(tmp_path / "in", follow_links=follow_links)
    assert [str(path) for path in images] == ["a.jpg"]
    for said in (caplog.text, "; ".join(notes)):
        assert "3 entries are links to nothing or no regular files and are left out (the first is" in said
        assert "1 folders cannot be read and are left out (the first is" in said and "Permission denied" in said


def test_photographs_are_known_by_content_and_others_are_counted(tmp_path, caplog):
    touch(tmp_path, "in/a.jpg", "in/note.txt", "in/film.xyz")
    for name in ("IMG_0001", "b.photo"):
        Image.new("RGB", (8, 8)).save(tmp_path / "in" / name, "JPEG")
    assert names([tmp_path / "in"]) == ["IMG_0001", "a.jpg", "b.photo"]
    assert not any(source.video for source in find_sources([tmp_path / "in"]))
    assert "2 files are no images and are left out (1 .txt, 1 .xyz)" in caplog.text
