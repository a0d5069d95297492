"""From footage to expressions in one command, beside the three commands that write every step to disk."""

import json

import av
import numpy as np
import pytest
from PIL import Image

from tests.data.faces.films import film
from twofold.data.faces.in_memory import FaceFinder, open_detection, sample_kind
from twofold.data.faces.settings import Sampling
from twofold.data.labels import basic_pair, builtin_taxonomy
from twofold.data.manifest import read_table
from twofold.data.readers.cexpr import HEADER
from twofold.data.synthetic.dataset import draw_face
from twofold.fuse.runs.read import read_run


@pytest.fixture(scope="module")
def place(cli, real, tmp_path_factory):
    """A folder with a detector, a run trained on faces that `crop` cut out of photographs, and a film of two people."""
    place = tmp_path_factory.mktemp("footage")
    (place / "weights").mkdir()
    (place / "weights/face_detection_yunet.onnx").symlink_to(real / "weights/detectors/yunet_n_dynamic.onnx")
    (place / "photos").mkdir()
    for number in range(49):
        portrait(number).save(place / f"photos/{number:02d}.png")
    return place


@pytest.fixture
def ready(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("TWOFOLD_WEIGHTS", str(place / "weights"))
    return place


NETWORK = "timm:test_resnet"
CROP = ("--size", "96", "--margin", "0.1", "--min-score", "0.3")
LABELS = builtin_taxonomy("cexpr7").classes


def portrait(number, size=(300, 220), at=(90, 50)):
    """A drawn face of 120 pixels somewhere in a picture."""
    image = Image.new("RGB", size, (90, 110, 130))
    image.paste(draw_face(identity=number, emotions=basic_pair(LABELS[number % 7]), size=120, seed=number), at)
    return image


def train(cli, faces, root, store, run):
    """Extract the faces of a manifest and train a head on them."""
    assert cli("extract", faces, "--root", root, "--store", store, "--backbones", NETWORK, "--weights",
               f"{NETWORK}=random:0", "--precision", "fp32").returncode == 0
    done = cli("fuse", store, "--out", run, "--epochs", "3", "--hidden", "8", "--seeds", "1")
    assert done.returncode == 0, done.stderr


def run_of(cli, place):
    """Cropped, labelled, extracted, trained: once for all tests."""
    if not (place / "run").exists():
        assert cli("crop", place / "photos", "-o", place / "cropped", *CROP).returncode == 0
        table = read_table(place / "cropped/faces.csv")
        assert len(table) == 49 and (table["score"] != "").sum() > 40  # it is drawn faces that YuNet is asked for
        table["compound"] = [LABELS[int(name[:2]) % 7] for name in table["source"]]
        table["split"] = ["train"] * 35 + ["val"] * 7 + ["test"] * 7
        table.to_csv(place / "cropped/labelled.csv", index=False)
        train(cli, place / "cropped/labelled.csv", place / "cropped", place / "store", place / "run")
    return place / "run"


@pytest.fixture
def predict(cli, ready, tmp_path):
    """Run `predict`, which writes to `out` and ends with `code`."""
    def command(*words, out="out.csv", code=0, run=None):
        done = cli("predict", run or run_of(cli, ready), *words, "-o", tmp_path / out)
        assert done.returncode == code, done.stderr
        return done

    return command


def pair(shift=0, *, both=True):
    """Two people side by side, or only the first, who moves."""
    image = portrait(1, size=(480, 240), at=(30 + shift, 50))
    if both:
        image.paste(portrait(2).crop((90, 50, 210, 170)), (300, 60))
    return image


def two_people(path):
    """12 frames; the second person is away in frames 5 to 7."""
    return film(path, [np.asarray(pair(2 * number, both=not 5 <= number <= 7)) for number in range(12)])


def test_one_command_says_what_three_say(cli, predict, ready, tmp_path):
    lines = json.loads((run_of(cli, ready) / "run.json").read_text())["crops"]
    assert len(lines) == 1 and lines[0].startswith("align=similarity size=96 margin=0.1 ")
    inputs = [two_people(tmp_path / "a film.mp4"), ready / "photos/03.png"]
    done = predict(*inputs, "--timeline", tmp_path / "t.png", "--annotate", tmp_path / "a.mp4", out="one.csv")
    assert "1 pictures: 0 taken as they are, 1 cropped to 1 faces" in done.stderr
    assert "12 frames of 1 videos: 21 faces, 0 frames without one" in done.stderr
    assert cli("crop", *inputs, "-o", tmp_path / "faces", *CROP).returncode == 0
    predict(tmp_path / "faces/faces.csv", "--root", tmp_path / "faces", out="two.csv")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    table = read_table(tmp_path / "one.csv")
    assert list(table["track"].value_counts()) == [12, 9, 1]  # one was away for a while, and is the same again
    assert table["frame"][table["track"] == "1"].tolist() == ["0", "1", "2", "3", "4", "8", "9", "10", "11"]
    assert Image.open(tmp_path / "t.png").height > 2 * 200
    drawn(tmp_path / "a.mp4", tmp_path / "a film.mp4", table)


def drawn(annotated, original, table):
    """Every frame is there at its time; boxes are drawn where the table has them."""
    with av.open(str(annotated)) as one, av.open(str(original)) as other:
        pairs = list(zip(one.decode(video=0), other.decode(video=0), strict=True))
    assert len(pairs) == 12
    for number, (frame, before) in enumerate(pairs):
        assert frame.time == pytest.approx(number / 25, abs=1e-3)
        away = np.abs(frame.to_ndarray(format="rgb24").astype(int) - before.to_ndarray(format="rgb24")).max(axis=2)
        for box in table["box"][table["frame"] == str(number)]:
            x, y, _, height = (round(float(value)) for value in box.split())
            assert away[y:y + height, x - 1:x + 2].max(axis=1).mean() > 25  # the left edge of the box
        assert np.median(away) < 4


def test_a_picture_that_its_face_fills_is_taken_as_it_is_and_the_answer_is_that_of_the_whole(predict, ready, tmp_path):
    photo = ready / "photos/03.png"
    predict(photo)  # so that there are crops
    crop = ready / "cropped/images/03.png.0.png"
    for options, said in (([], "1 taken as they are"), (["--cropped"], "1 taken as they are"),
                          (["--detect"], "1 cropped to 1 faces")):
        assert said in predict(crop, "--overwrite", *options).stderr
    predict(crop, out="crop.csv")
    predict(photo, out="whole.csv")
    predict(photo, "--cropped", out="raw.csv")
    crop, whole, raw = (read_table(tmp_path / name).iloc[0] for name in ("crop.csv", "whole.csv", "raw.csv"))
    scores = crop.index[crop.index.get_loc("prediction"):].drop(["yaw", "pitch", "roll"])  # of what was detected
    assert list(crop[scores]) == list(whole[scores]) != list(raw[scores])
    assert "contradict" in predict(photo, "--cropped", "--detect", out="x.csv", code=2).stderr


def test_pictures_without_a_face_say_so_and_damaged_ones_are_counted(predict, ready, tmp_path):
    Image.new("RGB", (400, 300), "grey").save(tmp_path / "nobody.png")
    assert "1 without a face" in predict(tmp_path / "nobody.png").stderr
    assert read_table(tmp_path / "out.csv")["prediction"].tolist() == ["no face"]
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    film(tmp_path / "still.mp4", [np.full((96, 160, 3), 90, np.uint8)] * 3)
    done = predict(*(tmp_path / name for name in ("nobody.png", "cut.jpg", "still.mp4")), ready / "photos/00.png",
                   "--smooth", "box:3", out="some.csv", code=1)
    table = read_table(tmp_path / "some.csv").set_index("source")
    assert "cut.jpg: " in done.stdout
    assert list(table.index) == ["00.png", "cut.jpg", "nobody.png", *["still.mp4"] * 3]
    assert list(table["prediction"] == "no face") == [False, *[True] * 5] and table["note"]["cut.jpg"] != "no face"


def test_a_store_keeps_features_for_the_next_time_and_other_faces_are_not_lost(predict, ready, tmp_path):
    video = two_people(tmp_path / "a.mp4")
    for name in ("one.csv", "two.csv"):
        predict(video, "--store", tmp_path / "s", out=name)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    before = (ready / "store/manifest.csv").read_bytes()
    assert "a store of other faces" in predict(video, "--store", ready / "store", out="x.csv", code=2).stderr
    assert (ready / "store/manifest.csv").read_bytes() == before
    done = predict(ready / "photos/03.png", "--store", tmp_path / "s", out="x.csv", code=2)
    assert "21 faces of other footage" in done.stderr


def test_gaps_of_the_only_person_are_filled_by_smoothing(predict, tmp_path):
    frames = [np.asarray(portrait(1) if number not in (3, 4) else Image.new("RGB", (300, 220))) for number in range(8)]
    predict(film(tmp_path / "a.mp4", frames), "--smooth", "none")
    table = read_table(tmp_path / "out.csv")
    assert list(table["face"]) == ["yes"] * 3 + ["no"] * 2 + ["yes"] * 3
    scores = table[table["prediction"][0]].astype(float)
    assert scores[3] == pytest.approx(scores[2] + (scores[5] - scores[2]) / 3, abs=2e-6)


def test_the_challenge_is_answered_from_its_videos_by_one_command_or_by_three(cli, predict, tmp_path):
    (tmp_path / "videos").mkdir()
    two_people(tmp_path / "videos/01.mp4")  # 12 frames, and the template asks for one more
    template = tmp_path / "template.txt"
    template.write_text("\n".join([",".join(HEADER), *(f"01/{frame:05d}.jpg," for frame in range(1, 14))]) + "\n")
    predict(tmp_path / "videos", "--submission", template, out="one.txt")
    lines = (tmp_path / "one.txt").read_text().splitlines()
    assert lines[0] == ",".join(HEADER) and len(lines) == 14 and all(line[-1] in "0123456" for line in lines[1:])
    done = cli("manifest", "cexpr", tmp_path / "videos", "--template", template, "--crop", tmp_path / "crops",
               "-o", tmp_path / "cexpr.csv")
    assert done.returncode == 0 and "12 of 13 frames of the template have a face" in done.stderr
    assert read_table(tmp_path / "cexpr.csv")["key"].tolist() == [
        *(f"01/{frame:05d}.png" for frame in range(1, 13)), "01/00013.jpg"]
    predict(tmp_path / "cexpr.csv", "--root", tmp_path / "crops/frames", "--submission", template, out="three.txt")
    assert len((tmp_path / "three.txt").read_text().splitlines()) == 14
    done = cli("manifest", "cexpr", tmp_path / "videos", "--crop", tmp_path / "crops", "-o", tmp_path / "x.csv")
    assert done.returncode == 2 and "--template" in done.stderr


def test_without_a_detector_only_faces_are_answered(cli, predict, ready, tmp_path, monkeypatch):
    run_of(cli, ready)
    monkeypatch.setenv("TWOFOLD_WEIGHTS", str(tmp_path / "empty"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    said = predict(ready / "photos/03.png", out="no.csv", code=2).stderr
    assert "face_detection_yunet.onnx" in said and "weights get yunet" in said and "--cropped" in said
    predict(ready / "photos/03.png", "--cropped")
    for arguments in ([two_people(tmp_path / "a.mp4")], [ready / "photos", "--detect"]):
        assert "no face detector" in predict(*arguments, out="no.csv", code=2).stderr
        assert not (tmp_path / "no.csv").exists()


def test_drawings_that_cannot_be_are_refused_before_the_work(predict, ready, tmp_path):
    video = two_people(tmp_path / "a.mp4")
    tiny = film(tmp_path / "tiny.mkv", [np.full((1, 1, 3), 90, np.uint8)] * 3, codec="ffv1", pixels="bgr0")
    for arguments, reason in (([ready / "photos", "--timeline", tmp_path / "t.png"], "no video"),
                              ([video, "--annotate", video], "is the input"),
                              ([video, "--timeline", tmp_path / "t.jpg"], ".png"),
                              ([video, two_people(tmp_path / "b.mp4"), "--annotate", tmp_path / "c.mp4"], "one video"),
                              ([tiny, "--annotate", tmp_path / "c.mp4"], "frames of 1 x 1 pixels"),
                              ([video, "--annotate", tmp_path / "gone/c.mp4"], "its folder is missing")):
        assert reason in predict(*arguments, code=2).stderr and not (tmp_path / "out.csv").exists()
    assert video.stat().st_size > 1000


def test_pictures_are_taken_or_cropped_as_the_samples_of_the_run_were(cli, predict, ready, tmp_path):
    """Tight photographs, which a face fills: a run on crops crops them, a run on whole ones takes them whole."""
    tight = tmp_path / "tight"
    tight.mkdir()
    for number in range(0, 49, 7):
        portrait(number, size=(140, 150), at=(10, 20)).save(tight / f"{number:02d}.png")
    assert "7 pictures: 0 taken as they are, 7 cropped to 7 faces" in predict(tight, out="one.csv").stderr
    assert cli("crop", tight, "-o", tmp_path / "faces", *CROP).returncode == 0
    predict(tmp_path / "faces/faces.csv", "--root", tmp_path / "faces", out="two.csv")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    rows = "".join(f"{number:02d}.png,{'train' if number < 42 else 'test'},{LABELS[number % 7]}\n"
                   for number in range(49))
    (tmp_path / "whole.csv").write_text(f"key,split,compound\n{rows}")
    store, run = tmp_path / "whole", tmp_path / "run"
    train(cli, tmp_path / "whole.csv", ready / "photos", store, run)
    assert json.loads((run / "run.json").read_text())["crops"] == []
    done = predict(ready / "photos", out="direct.csv", run=run)
    assert "49 taken as they are (as the run's samples were: --detect" in done.stderr
    assert "were in the training or validation set" in done.stdout
    predict(store, out="stored.csv", run=run)
    direct, stored = (read_table(tmp_path / f"{name}.csv").set_index("key") for name in ("direct", "stored"))
    scores = list(stored.columns[stored.columns.get_loc("prediction"):])
    assert direct[scores].equals(stored.loc[direct.index, scores])
    config = open_detection(read_run(run_of(cli, ready)).record.crops, detector=None, sampling=Sampling())
    content = (tight / "07.png").read_bytes()
    assert FaceFinder(config, "crops").find(content, most=1).faces[0].content != content
    for finder in (FaceFinder(config, "whole"), FaceFinder(config, "mixed")):
        assert finder.find(content, most=1).faces[0].content == content
    crop = (ready / "cropped/images/03.png.0.png").read_bytes()
    assert FaceFinder(config, "crops").find(crop, most=1).faces[0].content == crop
    group = tmp_path / "group.png"
    pair().save(group)
    assert len(FaceFinder(config, "whole").find(group.read_bytes(), most=4).faces) == 2
    assert (sample_kind([]), sample_kind(["a"]), sample_kind(["a", ""])) == ("whole", "crops", "mixed")
