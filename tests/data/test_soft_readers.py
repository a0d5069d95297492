"""Datasets whose labels are distributions: small copies in the layouts as published, and what is not as published."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.data.conftest import VIDEOS
from twofold.data.images.sources import open_images
from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import SOFT
from twofold.data.readers.blemore import EMOTIONS, read_blemore
from twofold.data.readers.csv import read_csv
from twofold.data.readers.folder import read_folder
from twofold.data.readers.mafw import read_mafw
from twofold.data.readers.rafdb import read_rafdb
from twofold.data.readers.rafml import read_rafml
from twofold.data.targets import soft_targets
from twofold.data.utils.errors import InputError

SIX, SEVEN = builtin_taxonomy("basic6").classes, builtin_taxonomy("basic7").classes


def test_distributions_of_rafdb_are_joined_by_image(rafdb, tmp_path, put):
    lines = [f"{split}_{number:05d}.jpg {' '.join(str(float(place == number - 1)) for place in range(7))} \n"
             for split in ("test", "train") for number in range(1, 8)]
    (rafdb / "basic/EmoLabel/distribution_basic.txt").write_text("".join(lines[1:]) + "train_09999.jpg 1 0 0 0 0 0 0\n")
    faces = read_rafdb(rafdb, part="both")
    shares = soft_targets(faces, SEVEN)
    basic = (faces.table["basic"] != "").to_numpy()
    assert shares[~basic].sum() == 0 and shares[basic].any(axis=1).sum() == 13  # the first test image has no line
    rows = np.flatnonzero(basic & shares.any(axis=1))
    assert [SEVEN[place] for place in shares[rows].argmax(axis=1)] == faces.table["basic"][rows].tolist()
    says = [note.partition("txt: ")[2] for note in faces.notes if "distribution_basic" in note]
    assert says == ["1 of the dataset's images have no line in it", "1 of its lines are of no image of the dataset"]
    for number in range(1, 8):
        put(tmp_path / f"x/train/{number}/train_{number:05d}_aligned.jpg", number)
        put(tmp_path / f"x/test/{number}/test_{number:05d}_aligned.jpg", number)
    shutil.move(rafdb / "basic/EmoLabel/distribution_basic.txt", tmp_path / "x")
    repackaged = read_rafdb(tmp_path / "x", part="basic")
    assert soft_targets(repackaged, SEVEN).any(axis=1).sum() == 13


def test_rafml_is_its_distributions(rafml, tmp_path):
    faces = read_rafml(rafml)
    assert faces.keys[0] == "Image/aligned/0001_aligned.jpg"
    assert list(faces.table["split"]) == ["train", "test", "train"]
    shares = [[.5, 0, 0, .5, 0, 0], [0, .1, .1, 0, .8, 0], [0] * 6]
    np.testing.assert_allclose(soft_targets(faces, SIX), shares, rtol=1e-6)
    assert set(faces.table["basic"]) == {""} and faces.notes == ("RAF-ML: 3 samples here, 4,908 as published",)
    assert all(open_images(rafml).read(key) for key in faces.keys)


@pytest.mark.parametrize(("name", "text", "says"), [
    ("distribution.txt", "0001.jpg 1 0 0 0 0\n", "line 1: '0001.jpg 1 0 0 0 0' is not like '0001.jpg 0.5 0 0 0.5 0 0'"),
    *(("distribution.txt", f"0001.jpg 1 0 0 0 0 {share}\n", "line 1: .* is not like") for share in ("-1", "inf", "x")),
    ("distribution.txt", "0001.jpg 1 0 0 0 0 0\n" * 2, "line 2: 0001.jpg stands in another line already"),
    ("distribution.txt", "\n", "no lines like"), ("distribution.txt", "0009.jpg 1 0 0 0 0 0\n", "no line for 0009.jpg"),
    ("partition_label.txt", "0001.jpg 1\n0002.jpg 0\n0003.jpg 1\n", "more samples of 1 than of 0"),
    ("partition_label.txt", "0001.jpg 2\n", "2 is not a split of RAF-ML")])
def test_a_copy_of_rafml_that_differs_is_one_sentence(rafml, name, text, says):
    (rafml / "EmoLabel" / name).write_text(text)
    with pytest.raises(InputError, match=says):
        read_rafml(rafml)


def test_names_of_blemore_say_everything(blemore):
    assert tuple(EMOTIONS.values()) == builtin_taxonomy("blemore6").classes
    faces = read_blemore(blemore)
    table = faces.table.set_index(faces.table["source"].map(lambda source: Path(source).stem))
    assert table.loc[[*VIDEOS], "fold"].tolist() == list("0123") and table.loc["test_0001", "fold"] == ""
    assert table["split"].tolist() == ["test", "train", "train", "train", "train"]
    assert table.loc[[*VIDEOS], "group"].tolist() == ["A102", "A102", "A411", "A411"]
    assert table.loc[[*VIDEOS], "basic"].tolist() == ["anger", "neutral", "", ""]
    assert table.loc[[*VIDEOS], "intensity"].tolist() == ["1", "", "", ""]
    shares = pd.DataFrame(soft_targets(faces, builtin_taxonomy("blemore6").classes), table.index, EMOTIONS.values())
    assert shares.loc[VIDEOS[2]].to_dict() == dict.fromkeys(EMOTIONS.values(), 0) | {
        "anger": np.float32(0.3), "happiness": np.float32(0.7)}
    assert shares.loc["test_0001"].sum() == 0 and shares.loc[VIDEOS[3], ["fear", "sadness"]].tolist() == [0.5, 0.5]
    assert any("`crop " in note for note in faces.notes)


def test_faces_that_were_cropped_out_of_videos_have_the_labels_of_their_video(blemore, mafw, tmp_path):
    for read, sources, options in (
            (read_blemore, [f"{VIDEOS[2]}.mov", "test/test_0001.mov"], {"table": blemore / "train_metadata.csv"}),
            (read_mafw, ["00001.mp4", "clips/00002.mp4"], {"lists": mafw})):
        root = mafw if read is read_mafw else blemore
        folder = tmp_path / read.__name__
        folder.mkdir()
        (folder / "crop.json").write_text(json.dumps({}))
        pd.DataFrame({"key": [f"images/{row}.png" for row in range(4)], "group": "x", "frame": list("0101"),
                      "source": np.repeat(sources, 2)}).to_csv(folder / "faces.csv", index=False)
        faces = read(folder, **options)
        assert len(faces) == 4 and faces.table["group"].nunique() == 2 and faces.table["frame"].tolist() == list("0101")
        whole = read(root, **options).table
        whole.index = whole["source"].map(lambda source: Path(source).name)
        columns = [name for name in whole if name.startswith(SOFT) or name in ("fold", "basic", "split")]
        names = faces.table["source"].map(lambda source: Path(source).name)
        assert (faces.table[columns].to_numpy() == whole.loc[names, columns].to_numpy()).all()


@pytest.mark.parametrize(("name", "says"), [
    ("A102_joy_int1_ver1", "the video 'train/A102_joy_int1_ver1.mov' is not named as published: A102_ang_int1_ver1,"),
    ("A102_mix_ang_ang_50_50_ver1", "not named"), ("A102_mix_neu_ang_50_50_ver1", "not named"),
    ("A102_mix_sad_ang_60_40_ver1", "not named"), ("A102_ang_int5_ver1", "not named"), ("102_ang_int1_ver1", "not na")])
def test_videos_of_other_names_are_one_sentence(blemore, name, says):
    (blemore / f"train/{name}.mov").write_bytes(b"")
    with pytest.raises(InputError, match=says):
        read_blemore(blemore)


@pytest.mark.parametrize(("text", "says"), [
    ("filename,fold\nA102_joy_int1_ver1,0\n", "row 2, column 'filename': 'A102_joy_int1_ver1' is not like A102_ang"),
    ("filename,fold\nA102_ang_int1_ver1,7\n", "row 2, column 'fold': '7' is no fold 0 to 4"),
    ("filename,fold\nA102_ang_int1_ver1,0\nx/A102_ang_int1_ver1.mov,1\n", "row 3, .* stands in another row already"),
    ("filename,set\nA102_ang_int1_ver1,7\n", "no column fold")])
def test_a_table_of_blemore_that_differs_is_named_by_row(blemore, text, says):
    (blemore / "train_metadata.csv").write_text(text)
    with pytest.raises(InputError, match=says):
        read_blemore(blemore)


@pytest.mark.parametrize("read", [read_blemore, read_mafw, read_folder])
def test_a_table_of_faces_that_crop_did_not_write_is_one_sentence(tmp_path, mafw, read):
    (tmp_path / "crop.json").write_text("{}")
    options = {"lists": mafw} if read is read_mafw else {}
    (tmp_path / "faces.csv").write_text("key,frame\na.png,1\n")
    with pytest.raises(InputError, match=r"faces.csv .not as `crop` writes it.: no column source; it has key"):
        read(tmp_path, **options)
    if read is not read_folder:
        (tmp_path / "faces.csv").write_text("key,source\n")
        with pytest.raises(InputError, match="no faces in it"):
            read(tmp_path, **options)


def test_labels_in_a_table_of_faces_give_way_to_those_of_the_video(tmp_path):
    (tmp_path / "crop.json").write_text("{}")
    (tmp_path / "faces.csv").write_text(f"key,source,intensity,p_anger\na.png,{VIDEOS[0]}.mov,9,3\n")
    table = read_blemore(tmp_path).table
    assert table[["intensity", "p_anger"]].to_numpy().tolist() == [["1", "100"]]


def test_mafw_by_its_lists(mafw):
    single, multi = read_mafw(mafw), read_mafw(mafw, part="multi")
    assert single.table[["label", "basic", "fold"]].to_numpy().tolist() == [["anger", "anger", "1"],
                                                                           ["helplessness", "", "0"]]
    classes = builtin_taxonomy("mafw11").classes
    assert soft_targets(single, classes).argmax(axis=1).tolist() == [0, 9]
    shares = dict(zip(classes, soft_targets(multi, classes)[0], strict=True))
    assert {name for name, share in shares.items() if share} == {"anger", "disgust", "anxiety"}
    assert shares["anxiety"] == np.float32(1 / 3) and multi.table["label"].tolist() == [""]
    assert "1 samples whose video is not in the single lists are left out" in single.notes


@pytest.mark.parametrize(("name", "text", "says"), [
    ("labels/multi_label.txt", "00003.mp4 rage\n", "line 1: '00003.mp4 rage' is not like"),
    ("labels/multi_label.txt", "00003.mp4\n", "is not like"), ("labels/multi_label.txt", "9.mp4 fear\n", "none of the"),
    ("labels/single_label.txt", "00001.mp4 fear\n", "00001.mp4 is anger here, but fear in another list"),
    ("Train & Test Set/single/no_caption/set_2/test.txt", "00002.mp4 helplessness\n", "a test video of two sets")])
def test_lists_of_mafw_that_differ_are_one_sentence(mafw, name, text, says):
    (mafw / name).write_text(text)
    with pytest.raises(InputError, match=says):
        read_mafw(mafw, part="multi" if "multi" in name else "single")


def test_no_videos_are_one_sentence(tmp_path):
    for read in (read_blemore, read_mafw):
        with pytest.raises(InputError, match="no videos below it, nor the faces that `crop` made"):
            read(tmp_path)


def test_soft_labels_of_any_table(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("key,votes_Happy,votes_sad,votes_NF,note\na.png,7,3,0,x\nb.png,1,0,9,y\n")
    faces = read_csv(path, soft="votes_")
    assert [name for name in faces.table if name.startswith(SOFT)] == ["p_happiness", "p_sadness", "p_NF"]
    np.testing.assert_allclose(soft_targets(faces, ["happiness", "sadness"]), [[0.7, 0.3], [0, 0]], rtol=1e-6)
    assert faces.table["note"].tolist() == ["x", "y"] and set(faces.table["basic"]) == {""}
    bare = tmp_path / "bare.csv"
    bare.write_text("key,happiness,Sadly Angry,age,nf\na.png,1,1,30,0\n")
    assert read_csv(bare, soft="").soft_classes == ("happiness", "sadly_angry", "NF")
    bare.write_text("key,s.calm,s.tense\na.png,1,3\n")
    own = read_csv(bare, soft="s.", classes="calm,tense")
    assert soft_targets(own, ["calm", "tense"]).tolist() == [[0.25, 0.75]]
    mapped = read_csv(bare, soft="s.", label_map=["calm=neutral", "tense=fear"])
    assert mapped.soft_classes == ("neutral", "fear")


@pytest.mark.parametrize(("text", "prefix", "says"), [
    ("key,p.glad\na.png,1\n", "p.", "column 'p.glad': 'glad' is no emotion; for another word: --map glad=happiness"),
    ("key,p.joy,p.happy\na.png,1,1\n", "p.", "column 'p.happy': another column has the soft label of happiness"),
    ("key,p.joy,p_happiness\na.png,1,1\n", "p.", "another column has the soft label of happiness"),
    ("key,p.joy\na.png,1\n", "q.", "no column q.<class> of soft labels; it has key, p.joy"),
    ("key,p.joy\na.png,-1\n", "p.", "row 2, column 'p_happiness': '-1' is not a share"),
    ("key,joyous\na.png,1\n", "", "no column <class> of soft labels")])
def test_soft_labels_that_are_none_are_one_sentence(tmp_path, text, prefix, says):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(InputError, match=says):
        read_csv(tmp_path / "x.csv", soft=prefix)


def test_the_real_votes(real):
    faces = read_csv(real / "ferplus/votes.csv", key="image", compound="compound", soft="", split="none")
    eight = builtin_taxonomy("basic8").classes
    shares = soft_targets(faces, eight)
    assert len(faces) == 34713 and shares.any(axis=1).sum() == 34494
    votes = pd.read_csv(real / "ferplus/votes.csv")[[*eight]].to_numpy(float)
    rows = shares.any(axis=1)
    np.testing.assert_allclose(shares[rows], (votes / votes.sum(axis=1, keepdims=True))[rows], rtol=1e-6)
