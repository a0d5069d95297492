"""FER2013 and FER+: faces inside the csv, labels from votes."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from twofold.data.images.decode import ImageError, decode
from twofold.data.images.sources import open_images
from twofold.data.readers.fer2013 import LOOSE, MAJORITY, STRICT, VOTED, compounds, majority, read_fer2013
from twofold.data.utils.errors import InputError


def pixels_of(path) -> np.ndarray:
    text = pd.read_csv(path / "fer2013.csv" if path.is_dir() else path)["pixels"]
    return np.stack([np.array(row.split(), np.uint8).reshape(48, 48) for row in text])


def test_fer2013_alone(fer2013):
    faces = read_fer2013(fer2013)
    assert faces.keys[6] == "fer2013.csv/0000006.png" and len(faces) == 12
    assert list(faces.table["basic"][:7]) == ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"]
    assert list(faces.table["split"][7:]) == ["train", "val", "val", "test", "test"]
    assert "FER2013 train: 8 samples here, 28,709 as published" in faces.notes


def test_faces_are_read_from_inside_the_csv(fer2013):
    wanted = pixels_of(fer2013)
    for root in (fer2013, fer2013 / "fer2013.csv"):
        source = open_images(root)
        for key, grey in zip(read_fer2013(root).keys, wanted, strict=True):
            assert (np.asarray(decode(source.read(key)))[..., 0] == grey).all()


def test_the_file_may_have_another_name(fer2013):
    path = (fer2013 / "fer2013.csv").rename(fer2013 / "ICML.CSV")
    faces = read_fer2013(path)
    assert (np.asarray(decode(open_images(path).read(faces.keys[5])))[..., 0] == pixels_of(path)[5]).all()


def test_votes_make_the_labels(fer2013):
    faces = read_fer2013(fer2013, ferplus=fer2013 / "fer2013new.csv")
    table = faces.table.set_index("image")
    assert len(faces) == 11 and "fer0000003.png" not in table.index
    assert "1 rows without a face (no image name in FER+) are left out" in faces.notes
    assert table.loc["fer0000004.png", "key"] == "fer2013.csv/0000004.png"
    assert list(table.loc["fer0000000.png", ["basic", "compound", "compound_strict"]]) == [
        "happiness", "happily_surprised", "1"]
    assert list(table.loc["fer0000001.png", ["basic", "compound", "compound_strict"]]) == ["", "", "0"]
    assert list(table.loc["fer0000002.png", ["basic", "compound", "compound_strict"]]) == ["", "sadly_surprised", "0"]
    assert list(table.loc["fer0000007.png", ["basic", "compound", "fer2013"]]) == ["neutral", "", "anger"]
    assert table.loc["fer0000002.png", "votes_unknown"] == "3"
    assert list(table.loc["fer0000000.png", ["basic_rule", "compound_rule"]]) == [MAJORITY, STRICT]
    assert list(table.loc["fer0000002.png", ["basic_rule", "compound_rule"]]) == ["", LOOSE]


def test_strict_compounds(fer2013):
    table = read_fer2013(fer2013, ferplus=fer2013 / "fer2013new.csv", strict=True).table
    assert set(table["compound"]) == {"", "happily_surprised"}
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
    assert hashlib.sha256(content).hexdigest() == GOLDEN


GOLDEN = "3b2cf1e1ec922e11c97862f4a58b28cc3b57d9feae48d9b83654990ef73ace9f"


@pytest.mark.parametrize(("row", "reason"), [
    ("0,1 2 3,Training", "not a square"), ("0,1 2 3 256,Training", "not 0 to 255"),
    ("0,1 2 x 4,Training", "not 0 to 255"), ("0,,Training", "not a square"), ("0,1 2 3 4", "other columns")])
def test_damaged_rows_are_bad_faces(fer2013, row, reason):
    (fer2013 / "fer2013.csv").write_text(f"emotion,pixels,Usage\n{row}\n")
    with pytest.raises(ImageError, match=reason):
        open_images(fer2013).read("fer2013.csv/0000000.png")


@pytest.mark.parametrize("key", ["fer2013.csv/0000012.png", "fer2013.csv/x.png", "other.csv/0000000.png"])
def test_rows_that_are_not_there(fer2013, key):
    with pytest.raises(ImageError):
        open_images(fer2013).read(key)


def test_windows_line_ends_byte_order_mark_quotes_and_other_order(fer2013):
    table = pd.read_csv(fer2013 / "fer2013.csv", dtype=str)
    before, wanted = read_fer2013(fer2013).table, pixels_of(fer2013)
    text = "emotion, Usage, pixels\r\n" + "".join(
        f'{row.emotion},{row.Usage},"{row.pixels}"\r\n' for row in table.itertuples())
    (fer2013 / "fer2013.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    faces, source = read_fer2013(fer2013), open_images(fer2013)
    assert faces.table.equals(before)
    assert (np.asarray(decode(source.read(faces.keys[11])))[..., 0] == wanted[11]).all()


def broken(path, **arguments) -> str:
    with pytest.raises(InputError) as caught:
        read_fer2013(path, **arguments)
    return str(caught.value)


def test_not_there_or_with_other_columns(fer2013, tmp_path):
    assert "no such file" in broken(tmp_path / "none.csv")
    (fer2013 / "fer2013.csv").write_text("label,pixels\n0,1\n")
    assert "no column emotion, Usage; it has label, pixels" in broken(fer2013)


def test_labels_outside(fer2013):
    path = fer2013 / "fer2013.csv"
    path.write_text("emotion,pixels,Usage\n0,1,Training\n7,1,Training\n")
    assert "row 3, column 'emotion': '7' is not one of 0, 1" in broken(fer2013)
    path.write_text("emotion,pixels,Usage\n0,1,train\n")
    assert "row 2, column 'Usage': 'train'" in broken(fer2013)


def test_votes_for_other_rows(fer2013):
    path = fer2013 / "fer2013new.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    assert "11 rows, but" in broken(fer2013, ferplus=path)
    path.write_text("".join([lines[0], lines[-1], *lines[1:-1]]))
    assert "row 2, column 'Usage'" in broken(fer2013, ferplus=path)
    path.write_text("".join(lines).replace(",9,", ",nine,").replace("9,0,0,0,0,0", "nine,0,0,0,0,0"))
    assert "column 'neutral': 'nine' is not a number of votes" in broken(fer2013, ferplus=path)
    path.write_text("".join(lines).replace("Image name", "image"))
    assert "no column Image name" in broken(fer2013, ferplus=path)


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
    labels, clear = compounds(np.array([[votes.get(name, 0) for name in VOTED]]))
    assert (labels[0], clear[0]) == (label, strict)


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


def test_the_rules_give_the_labels_of_the_real_faces(real):
    table = pd.read_csv(real / "faces_ferplus/labels.csv", keep_default_na=False)
    votes = table[[f"votes_{name}" for name in VOTED]].to_numpy()
    labels, strict = compounds(votes)
    basic, plain = majority(votes), table["basic"]  # `plain`: more than half of all ten votes
    assert (basic == plain)[plain != ""].all() and (basic != "").sum() == 4617 and (plain != "").sum() == 3729
    assert {side: int((basic != "")[table["split"] == side].sum()) for side in ("train", "val", "test")} == {
        "train": 3547, "val": 540, "test": 530}
    assert (labels == table["compound"]).all()
    assert (strict == (table["compound_strict"] == 1)).all()


def test_the_real_faces_rewritten_as_the_official_files(real, tmp_path):
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
    assert (faces["basic"] == table["basic"])[table["basic"] != ""].all()
    assert ("images/" + faces["image"] == table["image"]).all()
    source = open_images(tmp_path)
    for row in range(0, len(faces), 61):
        grey = np.asarray(Image.open(real / "faces_ferplus" / table["image"][row]).convert("RGB"))
        assert (np.asarray(decode(source.read(faces["key"][row]))) == grey).all()


@pytest.mark.parametrize(("name", "separator"), [("icml_face_data.csv", ", "), ("fer2013.csv", ";"),
                                                 ("icml_face_data.csv", ";")])
def test_copies_under_other_names_and_with_semicolons(tmp_path, name, separator):
    grey = " ".join(["7"] * 2304)
    rows = [["emotion", "Usage", "pixels"], ["0", "Training", grey], ["3", "PrivateTest", grey]]
    (tmp_path / name).write_text("".join((separator if row is rows[0] else separator.strip()).join(row) + "\n"
                                         for row in rows))
    samples = read_fer2013(tmp_path)
    assert list(samples.table["split"]) == ["train", "test"] and samples.keys[1] == f"{name}/0000001.png"
    assert (np.asarray(decode(open_images(tmp_path).read(samples.keys[1]))) == 7).all()
    (tmp_path / name).unlink()
    (tmp_path / "train.csv").write_text(f"emotion,pixels\n0,{grey}\n")
    assert list(read_fer2013(tmp_path).table["split"]) == ["train"]
