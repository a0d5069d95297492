"""`crop` from end to end: what is in the folder afterwards, and what becomes of it when things go wrong."""

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.faces.films import BLOBS, GREEN, RED, film, sound, still
from twofold.data.faces import detect
from twofold.data.faces.crop import crop
from twofold.data.faces.settings import CropSettings, Sampling, parse_crop_line
from twofold.data.faces.sources import find_sources
from twofold.data.manifest import read_manifest
from twofold.data.readers.folder import folder_labels
from twofold.data.utils.errors import InputError


def run(inputs, out, *, model=BLOBS, workers=2, sampling=None, overwrite=False, labels=lambda folders: {}, **settings):
    return crop(find_sources(inputs, ignore=out, labels=labels), out, model, sampling=sampling or Sampling(),
                settings=CropSettings(**({"size": 32, "align": "square"} | settings)), workers=workers,
                overwrite=overwrite, progress=False)


def table(out):
    return read_manifest(out / "faces.csv").table


def contents(out):
    """Everything in the folder, by name."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.fixture
def two_people(tmp_path):
    """25 frames a second; red in frames 0-9 and, after a gap, 14-19, moving right; green from frame 5 on, still."""
    frames = [still(*([(RED, 10 + place, 20)] if not 10 <= place < 14 else []),
                    *([(GREEN, 110, 40)] if place >= 5 else [])) for place in range(20)]
    return film(tmp_path / "two people.mp4", frames)


def test_frames_times_tracks_and_crops_are_those_of_the_film(two_people, tmp_path):
    report = run([two_people], tmp_path / "out")
    rows = table(tmp_path / "out")
    assert list(rows["frame"].astype(int)) == [*range(5), *(k for k in range(5, 10) for _ in "rg"), *range(10, 14),
                                               *(k for k in range(14, 20) for _ in "rg")]
    np.testing.assert_allclose(rows["time"].astype(float), rows["frame"].astype(int) / 25, atol=1e-6)
    red, green = rows[rows["track"] == "0"], rows[rows["track"] == "1"]
    assert len(red) == 16 and len(green) == 15 and len(rows) == 31
    for _, row in red.iterrows():
        np.testing.assert_allclose([float(value) for value in row["box"].split()],
                                   [10 + int(row["frame"]), 20, 32, 32], atol=2)
    for _, row in rows.iterrows():
        pixels = np.asarray(Image.open(tmp_path / "out" / row["key"]))
        colour = RED if row["track"] == "0" else GREEN
        assert pixels.shape == (32, 32, 3) and np.abs(pixels[4:-4, 4:-4].astype(int) - colour).mean() < 8
    assert set(rows["group"]) == set(rows["source"]) == {"two people.mp4"}
    assert (report.faces, report.looks, report.tracks, report.exit_code) == (31, 20, 2, 0)


def test_settings_travel_in_every_row_and_beside_it(two_people, tmp_path):
    run([two_people], tmp_path / "out", margin=0.2, jpeg=90, sampling=Sampling(fps=5))
    facts, rows = json.loads((tmp_path / "out/crop.json").read_text()), table(tmp_path / "out")
    settings = CropSettings(size=32, align="square", margin=0.2, jpeg=90)
    assert set(rows["crop"]) == {facts["line"]} and facts["detector"]["sha256"] == "b" * 64
    assert parse_crop_line(facts["line"]) == (settings, "b" * 16)
    assert sorted(set(rows["frame"].astype(int))) == [0, 5, 10, 15] and rows["key"][0].endswith("t0-000000.jpg")
    assert Image.open(tmp_path / "out" / rows["key"][0]).format == "JPEG"


def test_pictures_and_frames_without_a_face_are_rows_without_an_image(tmp_path):
    Image.fromarray(still()).save(tmp_path / "nobody.png")
    Image.fromarray(still((GREEN, 5, 5), (RED, 60, 9))).save(tmp_path / "pair.png")
    film(tmp_path / "gap.mp4", [still((RED, 9, 9)), still(), still((RED, 9, 9))])
    report = run([tmp_path], tmp_path / "out")
    rows = table(tmp_path / "out")
    assert list(rows["key"]) == [
        "images/gap.mp4/t0-000000.png", "images/gap.mp4/000001.noface", "images/gap.mp4/t0-000002.png",
        "images/nobody.png.noface", "images/pair.png.0.png", "images/pair.png.1.png"]
    assert list(rows["note"]) == ["", "no face", "", "no face", "", ""]
    assert report.faceless == ("nobody.png",) and report.exit_code == 0 and "no face in 1" in report.text()
    assert {path.name for path in (tmp_path / "out/images").rglob("*.*") if path.is_file()} == {
        "t0-000000.png", "t0-000002.png", "pair.png.0.png", "pair.png.1.png"}


def test_bad_files_are_rows_with_a_reason_and_the_rest_is_done(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    Image.fromarray(still((RED, 5, 5))).save(source / "good.png")
    content = (source / "good.png").read_bytes()
    for name, damaged in (("zero.jpg", b""), ("cut.png", content[:len(content) // 2]), ("text.jpg", b"hello"),
                          ("zero.mp4", b""), ("junk.mkv", b"no film" * 99)):
        (source / name).write_bytes(damaged)
    sound(tmp_path / "sound.wav").rename(source / "sound.mp4")
    report = run([source], tmp_path / "out")
    rows = table(tmp_path / "out").set_index("source")
    assert list(rows.index) == ["cut.png", "good.png", "junk.mkv", "sound.mp4", "text.jpg", "zero.jpg", "zero.mp4"]
    assert rows["note"]["good.png"] == "" and rows["key"]["zero.mp4"] == "images/zero.mp4.noface"
    assert rows["note"]["zero.mp4"] == "empty file" and rows["note"]["zero.jpg"] == "empty file"
    assert rows["note"]["text.jpg"] == "not an image" and rows["note"]["cut.png"] == "truncated image"
    assert "only sound" in rows["note"]["sound.mp4"] and "not a video" in rows["note"]["junk.mkv"]
    assert report.exit_code == 1 and len(report.faults) == 6 and report.faceless == () and report.faces == 1
    assert run([source], tmp_path / "out").record() | {"frames_now": 0, "seconds": 0} == report.record() | {
        "frames_now": 0, "seconds": 0}


def test_a_film_cut_off_keeps_its_frames_and_says_where_it_ends(tmp_path):
    noise = np.random.default_rng(0).integers(100, 140, (40, 96, 160, 3), np.uint8)
    noise[:, 10:42, 10:42] = RED
    path = film(tmp_path / "a.mkv", list(noise))
    content = path.read_bytes()
    path.write_bytes(content[:len(content) * 2 // 3])
    report = run([path], tmp_path / "out")
    rows = table(tmp_path / "out")
    assert 15 < len(rows) < 35 and not rows["note"][:-1].any()
    assert "the video ends after" in rows["note"].iloc[-1] and report.exit_code == 1
    assert report.faces == len(rows) and "ends after" in report.text()


def test_the_same_command_again_and_the_number_of_threads_change_nothing(two_people, tmp_path):
    run([two_people], tmp_path / "out", workers=1)
    before = contents(tmp_path / "out")
    assert run([two_people], tmp_path / "out").frames_now == 0
    run([two_people], tmp_path / "more", workers=5)
    assert contents(tmp_path / "out") == before == contents(tmp_path / "more")


class Interrupted:
    """A detector that is stopped by Ctrl-C at its n-th picture."""

    def __init__(self, pictures):
        self.left = pictures

    def detect(self, image):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return BLOBS.create(CropSettings()).detect(image)


@pytest.mark.parametrize("pictures", [1, 7, 12, 20])
def test_an_interrupted_crop_goes_on_and_ends_the_same(two_people, tmp_path, pictures, monkeypatch):
    Image.fromarray(still((RED, 5, 5))).save(tmp_path / "a.png")
    inputs = [two_people, tmp_path / "a.png"]
    run(inputs, tmp_path / "whole")
    detector = Interrupted(pictures)
    model = type(BLOBS)(BLOBS.sha256, lambda settings: detector)
    report = run(inputs, tmp_path / "out", model=model, workers=1)
    assert report.stopped and report.exit_code == 130 and "goes on" in report.text()
    assert not (tmp_path / "out/faces.csv").exists()
    monkeypatch.setattr("twofold.data.faces.crop.CHUNK_ROWS", 7)
    again = run(inputs, tmp_path / "out")
    assert again.frames_now == 21 - pictures
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_crop_is_stopped_while_a_picture_is_decoded(tmp_path, monkeypatch):
    for number, name in enumerate("ab"):
        Image.fromarray(still((RED, 5, 5 + number))).save(tmp_path / f"{name}.png")
    slow, began, done, decode = (tmp_path / "b.png").read_bytes(), time.monotonic(), threading.Event(), detect.decode
    monkeypatch.setattr(detect, "decode", lambda content: decode(content) if content != slow else done.wait(20))
    detector = Interrupted(0)
    report = run([tmp_path], tmp_path / "out", model=type(BLOBS)(BLOBS.sha256, lambda settings: detector))
    assert report.stopped and time.monotonic() - began < 10
    done.set()


def test_a_line_cut_off_and_an_image_that_is_gone_are_done_again(two_people, tmp_path):
    run([two_people], tmp_path / "whole")
    run([two_people], tmp_path / "out")
    journal = tmp_path / "out/.journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-300])  # the last looks, one of them in half
    assert 0 < run([two_people], tmp_path / "out").frames_now < 20
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    (tmp_path / "out/images/two people.mp4/t1-000009.png").write_bytes(b"half")
    assert run([two_people], tmp_path / "out").frames_now == 20
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    Image.fromarray(still((RED, 5, 5))).save(tmp_path / "a.png")
    assert run([tmp_path / "a.png"], tmp_path / "out").frames_now == 1  # another input joins those that are there
    assert set(table(tmp_path / "out")["source"]) == {"a.png", "two people.mp4"}


def test_what_is_not_ours_is_not_touched(two_people, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="no folder of `crop`"):
        run([two_people], tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.txt"]
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(InputError, match="link exists and is no folder of `crop`"):
        run([two_people], tmp_path / "link")
    run([two_people], tmp_path / "out")
    for changes, says in (({"size": 64}, r"cropped otherwise \(size 32 there, 64 here\)"),
                          ({"sampling": Sampling(every=3)}, "every 1 there, 3 here"),
                          ({"model": type(BLOBS)("c" * 64, BLOBS.create)}, r"sha256 b+ there, c+ here")):
        with pytest.raises(InputError, match=says):
            run([two_people], tmp_path / "out", **changes)
    film(two_people, [still((GREEN, 9, 9))])
    with pytest.raises(InputError, match=r"another file that is called two people\.mp4"):
        run([two_people], tmp_path / "out")


def test_labels_that_somebody_has_added_are_not_lost(two_people, tmp_path):
    run([two_people], tmp_path / "out")
    path = tmp_path / "out/faces.csv"
    changed = path.read_text().replace(",,,", ",train,happiness,", 1)
    path.write_text(changed)
    with pytest.raises(InputError, match=r"faces\.csv was changed since `crop` wrote it: --overwrite replaces it"):
        run([two_people], tmp_path / "out")
    assert path.read_text() == changed
    run([two_people], tmp_path / "out", overwrite=True)
    assert path.read_text() != changed


@pytest.mark.parametrize("options", [{"align": "oval"}, {"size": 4}, {"min_score": 2}, {"min_size": 0}, {"jpeg": 101},
                                     {"margin": -1}])
def test_settings_out_of_range_are_said(options):
    with pytest.raises(InputError, match=f"{next(iter(options)).replace('_', '-')} .*: (choose from|it must be) "):
        CropSettings(**options)


def test_upright_by_exif_and_enlarged_faces_are_counted(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    Image.fromarray(still((RED, 0, 0))).save(tmp_path / "phone.png", exif=exif)
    report = run([tmp_path / "phone.png"], tmp_path / "out", size=64)
    row = table(tmp_path / "out").iloc[0]
    assert row["box"] == "64 0 32 32" and row["scale"] == "2" and report.enlarged == 1


def test_class_folders_keep_their_labels(cli, tmp_path):
    root, out, labels = tmp_path / "in", tmp_path / "out", folder_labels()
    for name in ("train/happy/a.png", "val/Sadly Angry/b.png", "holiday/c.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(still((RED, 5, 5))).save(root / name)
    report = run([root], out, labels=labels)
    rows = table(out).set_index("source")[["split", "basic", "compound"]].to_dict("index")
    assert rows == {"train/happy/a.png": {"split": "train", "basic": "happiness", "compound": ""},
                    "val/Sadly Angry/b.png": {"split": "val", "basic": "", "compound": "sadly_angry"},
                    "holiday/c.png": {"split": "", "basic": "", "compound": ""}}
    assert report.labelled == 2 and "2 of 3 sources have their folder's label" in report.text()
    before = contents(out)
    run([root], out, labels=labels)
    assert contents(out) == before
    Image.fromarray(still((GREEN, 5, 5))).save(tmp_path / "d.png")
    run([tmp_path / "d.png"], out)  # another input, and the labels stay
    assert table(out).set_index("source")["basic"]["train/happy/a.png"] == "happiness"
    done = cli("manifest", "folder", out, "-o", tmp_path / "m.csv", "--map", "holiday=fear")
    assert done.returncode == 0, done.stderr
    again = read_manifest(tmp_path / "m.csv").table
    assert set(again["crop"]) == set(table(out)["crop"]) and list(again["key"]) == list(table(out)["key"])


def test_class_folders_that_are_named_themselves_keep_their_labels(tmp_path, monkeypatch):
    for name in ("set/happiness/a.png", "set/anger/a.png", "set/train/fear/b.png", "set/holiday/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(still((RED, 5, 5))).save(tmp_path / name)
    monkeypatch.chdir(tmp_path / "set/train")
    inputs = [tmp_path / "set/happiness", Path("../anger/a.png"), Path("fear"), tmp_path / "set/holiday/c.png"]
    labels = {source.path.parent.name: dict(source.labels) for source in find_sources(inputs, labels=folder_labels())}
    assert labels == {"happiness": {"basic": "happiness"}, "anger": {"basic": "anger"},
                      "fear": {"split": "train", "basic": "fear"}, "holiday": {}}
    monkeypatch.chdir("fear")
    assert dict(find_sources([Path()], labels=folder_labels())[0].labels) == {"split": "train", "basic": "fear"}


def test_names_with_control_characters_are_cropped(tmp_path):
    (tmp_path / "in").mkdir()
    for letter in "\x7f\x85\u2028\u2029\n":
        Image.fromarray(still((RED, 5, 5))).save(tmp_path / "in" / f"a{letter}b.png")
    assert run([tmp_path / "in"], tmp_path / "out").faces == 5 == len(table(tmp_path / "out"))


@pytest.mark.parametrize("name", [".journal.jsonl", "faces.csv", "crop.json", "images", "images/two people.mp4"])
def test_a_received_folder_with_a_link_is_refused(two_people, tmp_path, name):
    run([two_people], tmp_path / "out")
    target = tmp_path / "victim"
    (tmp_path / "out" / name).rename(target)
    before = contents(target) if target.is_dir() else target.read_bytes()
    (tmp_path / "out" / name).symlink_to(target)
    Image.fromarray(still((RED, 5, 5))).save(tmp_path / "a.png")
    if name.endswith("mp4"):
        (tmp_path / "out/.journal.jsonl").write_text("")  # so that its images are written again
    with pytest.raises(InputError, match="link"):
        run([two_people, tmp_path / "a.png"], tmp_path / "out")
    assert (contents(target) if target.is_dir() else target.read_bytes()) == before


def test_a_file_too_large_to_be_a_photograph_is_not_read(tmp_path):
    with (tmp_path / "a.jpg").open("wb") as file:
        file.write(b"\xff\xd8\xff")
        file.truncate(9_000_000_000)
    Image.fromarray(still((RED, 5, 5))).save(tmp_path / "b.png")
    report = run([tmp_path / "a.jpg", tmp_path / "b.png"], tmp_path / "out")
    assert report.faces == 1 and report.faults == {"a.jpg": "file larger than 256 MB"}
