"""FER2013 and FER+: faces inside the csv, labels from votes."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from twofold.data.faces import in_memory
from twofold.data.faces.detectors import DetectorModel
from twofold.data.faces.settings import CropSettings, Sampling
from twofold.data.images.decode import ImageError, decode
from twofold.data.images.sources import open_images
from twofold.data.readers.fer2013 import LOOSE, MAJORITY, STRICT, VOTED, majority, read_fer2013
from twofold.data.targets import derive_compounds
from twofold.data.utils.errors import InputError

GREY = " ".join(["7"] * 2304)


def read_pixels(root, keys) -> np.ndarray:
    source = open_images(root)
    return np.stack([np.asarray(decode(source.read(key)))[..., 0] for key in keys])


def pixels_in(path) -> np.ndarray:
    return np.stack([np.array(row.split(), np.uint8).reshape(48, 48) for row in pd.read_csv(path)["pixels"]])


def test_fer2013_alone(fer2013):
    faces, path = read_fer2013(fer2013), fer2013 / "fer2013.csv"
    assert faces.keys[6] == "fer2013.csv/0000006.png" and len(faces) == 12
    assert list(faces.table["basic"][:7]) == ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"]
    assert list(faces.table["split"][7:]) == ["train", "val", "val", "test", "test"]
    assert "FER2013 train: 8 samples here, 28,709 as published" in faces.notes
    for root in (fer2013, path):
        assert (read_pixels(root, faces.keys) == pixels_in(path)).all()
    renamed = path.rename(fer2013 / "ICML.CSV")
    assert (read_pixels(renamed, read_fer2013(renamed).keys) == pixels_in(renamed)).all()


def test_photographs_are_cropped_as_these_faces_are_framed(fer2013, monkeypatch, caplog):
    line, = set(read_fer2013(fer2013).table["crop"])
    monkeypatch.setattr(in_memory, "open_detector", lambda _: DetectorModel("ab" * 32, lambda _: None, "a detector"))
    config = in_memory.open_detection([line], detector=None, sampling=Sampling())
    assert config.settings == CropSettings(size=48, margin=0.08) and in_memory.sample_kind([line]) == "crops"
    assert not caplog.records  # no detector found them, so that none is another one
    in_memory.open_detection([line.replace("none", "0" * 16)], detector=None, sampling=Sampling())
    assert "found by another detector" in caplog.text


def test_fer2013_as_others_have_written_it_again(fer2013):
    expected, path = read_fer2013(fer2013).table, fer2013 / "fer2013.csv"
    lines = path.read_text().splitlines()
    names = ("angry", "Disgust", " fear", "happy", "sad", "surprised", "neutral")
    for write in (lambda cell: f"{cell}.0", lambda cell: names[int(cell)]):
        rows = [f"{write(line.partition(',')[0])},{line.partition(',')[2]}" for line in lines[1:]]
        text = "\n".join([lines[0], *rows]).replace("Training", "train").replace("PrivateTest", "Test")
        path.write_text(f"{text}\n", encoding="utf-8-sig")
        assert read_fer2013(fer2013).table.equals(expected)
    path.write_text(text, encoding="utf-16")
    with pytest.raises(InputError, match="in UTF-16, of which no single row can be read: save it as UTF-8"):
        read_fer2013(fer2013)


def test_votes_make_the_labels(fer2013):
    faces = read_fer2013(fer2013, ferplus=fer2013 / "fer2013new.csv")
    table = faces.table.set_index("image")
    assert len(faces) == 11 and "fer0000003.png" not in table.index
    assert "1 rows without a face (no image name in FER+) are left out" in faces.notes
    assert table.loc["fer0000004.png", "key"] == "fer2013.csv/0000004.png"
    columns = ["basic", "compound", "compound_strict", "basic_rule", "compound_rule"]
    for row, expected in ((0, ["happiness", "happily_surprised", "1", MAJORITY, STRICT]), (1, ["", "", "0", "", ""]),
                          (2, ["", "sadly_surprised", "0", "", LOOSE]), (7, ["neutral", "", "0", MAJORITY, ""])):
        assert list(table.loc[f"fer{row:07d}.png", columns]) == expected
    assert list(table.loc["fer0000007.png", ["fer2013", "p_neutral"]]) == ["anger", "9"]
    assert faces.soft_classes == VOTED
    assert faces.soft_labels(VOTED[:8])[0].tolist() == [0, 0.6, 0.4, 0, 0, 0, 0, 0]  # of eight emotions, unknown aside
    strict = read_fer2013(fer2013, ferplus=fer2013 / "fer2013new.csv", strict=True).table
    assert set(strict["compound"]) == {"", "happily_surprised"}
    with pytest.raises(InputError, match="--ferplus"):
        read_fer2013(fer2013, strict=True)


def test_unpacked_files_are_the_same_bytes(fer2013, tmp_path):
    faces = read_fer2013(fer2013, ferplus=fer2013 / "fer2013new.csv")
    files = read_fer2013(fer2013, ferplus=fer2013 / "fer2013new.csv", unpack=tmp_path / "png")
    assert files.keys[3] == "fer0000004.png"
    inside, outside = open_images(fer2013), open_images(tmp_path / "png")
    assert [inside.read(key) for key in faces.keys] == [outside.read(key) for key in files.keys]
    with Image.open(tmp_path / "png/fer0000004.png") as image:
        image.verify()
    assert not list((tmp_path / "png").glob(".tmp*"))


def test_the_bytes_of_a_face_are_fixed(fer2013):
    """The hash of a face is what resuming and joining go by: it may not change with versions."""
    (fer2013 / "fer2013.csv").write_text("emotion,pixels,Usage\n0,0 1 2 3,Training\n")
    content = open_images(fer2013).read("fer2013.csv/0000000.png")
    assert hashlib.sha256(content).hexdigest() == "3b2cf1e1ec922e11c97862f4a58b28cc3b57d9feae48d9b83654990ef73ace9f"


@pytest.mark.parametrize(("row", "key", "reason"), [
    ("0,1 2 3,Training", "0.png", "not a square"), ("0,1 2 3 256,Training", "0.png", "not 0 to 255"),
    ("0,1 2 x 4,Training", "0.png", "not 0 to 255"), ("0,,Training", "0.png", "not a square"),
    ("0,1 2 3 4", "0.png", "other columns"), ("0,1,Training", "0000012.png", "no such row"),
    ("0,1,Training", "x.png", "unreadable file")])
def test_damaged_rows_are_bad_faces(fer2013, row, key, reason):
    (fer2013 / "fer2013.csv").write_text(f"emotion,pixels,Usage\n{row}\n")
    with pytest.raises(ImageError, match=reason):
        open_images(fer2013).read(f"fer2013.csv/{key}")


@pytest.mark.parametrize(("name", "text"), [
    ("fer2013.csv", "\ufeffemotion, Usage, pixels\r\n0,Training,\"{}\"\r\n3,PrivateTest,\"{}\"\r\n"),
    ("icml_face_data.csv", "emotion, Usage, pixels\n0,Training,{}\n3,PrivateTest,{}\n"),
    ("icml_face_data.csv", "emotion;Usage;pixels\n0;Training;{}\n3;PrivateTest;{}\n"),
    ("train.csv", "emotion,pixels\n0,{}\n3,{}\n")])
def test_copies_under_other_names_and_in_other_forms(tmp_path, name, text):
    (tmp_path / name).write_bytes(text.format(GREY, GREY).encode())
    samples = read_fer2013(tmp_path)
    assert list(samples.table["split"]) == ["train", "train" if name == "train.csv" else "test"]
    assert list(samples.table["basic"]) == ["anger", "happiness"] and samples.keys[1] == f"{name}/0000001.png"
    assert (read_pixels(tmp_path, samples.keys) == 7).all()


def test_after_a_blank_line_labels_stay_with_their_faces(tmp_path):
    rows = [f"{number},{' '.join([str(10 * number)] * 9)},Training" for number in range(3)]
    (tmp_path / "fer2013.csv").write_text("\n".join(["emotion,pixels,Usage", rows[0], "", *rows[1:], "", ""]))
    samples = read_fer2013(tmp_path)
    assert list(samples.table["basic"]) == ["anger", "disgust", "fear"]
    assert read_pixels(tmp_path, samples.keys)[:, 0, 0].tolist() == [0, 10, 20]


ROW = "Training,fer0000000.png,0,6,4,0,0,0,0,0,0,0"


@pytest.mark.parametrize(("file", "old", "new", "says"), [
    ("fer2013.csv", None, None, "no such file"),
    ("fer2013.csv", "emotion,", "label,", "no column emotion; it has label"),
    ("fer2013.csv", "\n1,", "\n7,", "row 3, column 'emotion': '7' is not one of 0 to 6"),
    ("fer2013.csv", "\n1,", "\ncontempt,", "'contempt' is not one of 0 to 6, nor anger"),
    ("fer2013.csv", "Training", "teach", "row 2, column 'Usage': 'teach'"),
    ("fer2013.csv", "emotion,", "emotion,emotion,", "the column 'emotion' stands twice"),
    ("fer2013new.csv", f"{ROW}\n", "", "11 rows, but"),
    ("fer2013new.csv", ROW, ROW.replace("Training", "PublicTest"), "row 2, column 'Usage'"),
    ("fer2013new.csv", ROW, ROW.replace(",6,", ",six,"), "column 'happiness': 'six' is not a number of votes"),
    ("fer2013new.csv", "Image name", "image", "no column Image name")])
def test_what_is_not_as_published_is_one_sentence(fer2013, file, old, new, says):
    path = fer2013 / file
    path.unlink() if old is None else path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=says):
        read_fer2013(fer2013, ferplus=fer2013 / "fer2013new.csv")


@pytest.mark.parametrize(("votes", "label", "strict"), [
    ({"happiness": 4, "surprise": 3}, "happily_surprised", True),
    ({"happiness": 3, "surprise": 2}, "happily_surprised", False),
    ({"happiness": 4, "surprise": 2}, "happily_surprised", False),  # the second has fewer than 3
    ({"happiness": 4, "surprise": 1}, "", False),
    ({"happiness": 2, "surprise": 2}, "", False),  # fewer than 5 together
    ({"happiness": 4, "surprise": 2, "fear": 2}, "", False),  # no clear second
    ({"happiness": 4, "surprise": 3, "neutral": 3}, "happily_surprised", False),
    ({"happiness": 4, "surprise": 2, "neutral": 3}, "", False),
    ({"surprise": 4, "anger": 3}, "angrily_surprised", True),
    ({"surprise": 3, "disgust": 3, "contempt": 4}, "disgustedly_surprised", True)])
def test_the_compound_rule_at_its_edges(votes, label, strict):
    shares = np.array([[votes.get(name, 0) / 10 for name in VOTED]])
    clear = derive_compounds(shares, VOTED, second=0.3, both=0.6, over_neutral=0.1)[0]
    assert (derive_compounds(shares, VOTED)[0], clear) == (label, label if strict else "")


@pytest.mark.parametrize(("votes", "label"), [
    ({"happiness": 5, "surprise": 5}, ""), ({"happiness": 6, "surprise": 4}, "happiness"),
    ({"happiness": 5, "surprise": 4, "fear": 1}, "happiness"),  # 5 of 9 that count, 5 of 10 in all
    ({"happiness": 4, "surprise": 2, "fear": 1, "anger": 1, "sadness": 1, "NF": 1}, "happiness"),
    ({"happiness": 4, "surprise": 2, "fear": 2, "anger": 2}, ""), ({"unknown": 6, "fear": 4}, ""),
    ({"NF": 9, "fear": 1}, ""), ({"neutral": 1, "fear": 1}, ""), ({"contempt": 2, "fear": 1, "anger": 1}, "contempt")])
def test_single_votes_are_dropped_before_the_majority(votes, label):
    assert majority(np.array([[votes.get(name, 0) for name in VOTED]]))[0] == label


@given(st.lists(st.sampled_from(VOTED), min_size=10, max_size=10))
def test_no_label_of_the_plain_majority_changes(ten):
    first, most = max(((name, ten.count(name)) for name in VOTED), key=lambda pair: pair[1])
    kept = [name for name in ten if ten.count(name) > 1]
    winner = next((name for name in set(kept) if 2 * kept.count(name) > len(kept)), "")
    label = majority(np.array([[ten.count(name) for name in VOTED]]))[0]
    assert label == ("" if winner in ("unknown", "NF") else winner)
    assert most <= 5 or first in ("unknown", "NF") or label == first


def test_the_rules_give_the_labels_of_the_real_faces_rewritten_as_the_official_files(real, tmp_path):
    """Labels and pixels of every row come back, whatever the rows' numbers are."""
    table = pd.read_csv(real / "faces_ferplus/labels.csv", dtype=str, keep_default_na=False)
    usage = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}
    with (tmp_path / "fer2013.csv").open("w") as fer, (tmp_path / "fer2013new.csv").open("w") as plus:
        fer.write("emotion,pixels,Usage\n")
        plus.write(f"Usage,Image name,{','.join(VOTED)}\n")
        for row in table.to_dict("records"):
            grey = np.asarray(Image.open(real / "faces_ferplus" / row["image"]).convert("L"))
            fer.write(f"0,{' '.join(map(str, grey.ravel()))},{usage[row['split']]}\n")
            plus.write(",".join([usage[row["split"]], row["image"].removeprefix("images/"),
                                 *(row[f"votes_{name}"] for name in VOTED)]) + "\n")
    faces = read_fer2013(tmp_path, ferplus=tmp_path / "fer2013new.csv").table
    for name in ("compound", "compound_strict", "split"):
        assert (faces[name] == table[name]).all(), name
    plain = table["basic"]  # more than half of all ten votes
    assert (faces["basic"] == plain)[plain != ""].all() and (plain != "").sum() == 3729
    assert faces[faces["basic"] != ""]["split"].value_counts().to_dict() == {"train": 3547, "val": 540, "test": 530}
    assert ("images/" + faces["image"] == table["image"]).all()
    some = range(0, len(faces), 61)
    for row, grey in zip(some, read_pixels(tmp_path, faces["key"][some]), strict=True):
        assert (grey == np.asarray(Image.open(real / "faces_ferplus" / table["image"][row]).convert("L"))).all()
