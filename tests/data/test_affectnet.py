"""Both releases of AffectNet, whole and broken."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from twofold.data.images.decode import decode
from twofold.data.images.sources import open_images
from twofold.data.labels import BASIC
from twofold.data.readers.affectnet import read_affectnet
from twofold.data.utils.errors import InputError


def test_the_release_of_2021(affectnet):
    faces = read_affectnet(affectnet)
    table, (*notes, last) = faces.table, faces.notes
    assert tuple(table.loc[table["split"] == "train", "basic"]) == BASIC
    assert tuple(table.loc[table["split"] == "val", "basic"]) == BASIC
    assert faces.keys[:3] == ["train_set/images/0.jpg", "train_set/images/7.jpg", "train_set/images/14.jpg"]
    assert "--val-as test" in last and notes == [
        "1 samples labelled 8 (none) are left out", "1 samples labelled 9 (uncertain) are left out",
        "1 samples labelled 10 (no face) are left out",
        "AffectNet, 8 classes train: 8 samples here, 287,651 as published",
        "AffectNet, 8 classes val: 8 samples here, 3,999 as published"]
    assert all(open_images(affectnet).read(key) for key in faces.keys)


def test_the_official_validation_set_can_be_the_test_split(affectnet, older_affectnet):
    for root in (affectnet, older_affectnet):
        as_val, as_test = read_affectnet(root), read_affectnet(root, val_as="test")
        assert as_test.keys == as_val.keys and not any("--val-as" in note for note in as_test.notes)
        assert list(as_test.table["split"]) == list(as_val.table["split"].replace("val", "test"))
    with pytest.raises(InputError, match="choose from val, test"):
        read_affectnet(affectnet, val_as="train")


def test_seven_classes_leave_contempt_out(affectnet):
    faces = read_affectnet(affectnet, classes="basic7")
    assert len(faces) == 14 and "contempt" not in set(faces.table["basic"])
    assert "2 samples of contempt are left out (basic7)" in faces.notes


def test_the_older_lists(older_affectnet):
    faces = read_affectnet(older_affectnet)
    assert len(faces) == 16 and faces.keys[1] == "Manually_Annotated_Images/1/1ab.jpg"
    assert tuple(faces.table["basic"][8:]) == BASIC and set(faces.table["split"][8:]) == {"val"}
    assert set(faces.table["valence"]) == {"0.5"} and "facial_landmarks" not in faces.table
    assert any("--crop" in note for note in faces.notes)


def test_the_older_pictures_are_cut_to_the_face(older_affectnet, tmp_path):
    (older_affectnet / "Manually_Annotated_Images/2/2ab.jpg").write_bytes(b"no picture")
    faces = read_affectnet(older_affectnet, crop=tmp_path / "crops")
    cut = open_images(tmp_path / "crops")
    assert decode(cut.read(faces.keys[0])).size == (32, 38)  # the box ends below the picture of 48 x 48
    assert not any("--crop" in note for note in faces.notes)
    assert ("1 faces could not be cropped (the first is Manually_Annotated_Images/2/2ab.jpg: not an image)"
            in faces.notes)
    whole = np.asarray(decode(open_images(older_affectnet).read(faces.keys[3])), int)[10:48, 8:40]
    assert np.abs(np.asarray(decode(cut.read(faces.keys[3])), int) - whole).mean() < 4


def test_cropping_needs_boxes(affectnet, tmp_path):
    with pytest.raises(InputError, match="nothing to crop"):
        read_affectnet(affectnet, crop=tmp_path / "crops")


def test_what_has_no_counterpart_is_counted(affectnet):
    (affectnet / "train_set/images/7.jpg").unlink()
    (affectnet / "train_set/annotations/14_exp.npy").unlink()
    faces = read_affectnet(affectnet)
    assert {"train_set: 1 annotations without an image are left out",
            "train_set: 1 images without an annotation are left out"} <= set(faces.notes)
    assert "train_set/images/7.jpg" not in faces.keys and "train_set/images/14.jpg" not in faces.keys


def test_validation_alone_will_do(affectnet):
    shutil.rmtree(affectnet / "train_set")
    faces = read_affectnet(affectnet)
    assert len(faces) == 8 and "train_set: no such folder" in faces.notes[0]


def broken(root, **arguments) -> str:
    with pytest.raises(InputError) as caught:
        read_affectnet(root, **arguments)
    return str(caught.value)


def test_images_not_unpacked(affectnet):
    shutil.rmtree(affectnet / "val_set/images")
    assert "val_set/images: no such folder: unpack val_set whole" in broken(affectnet)
    (affectnet / "val_set/images").mkdir()
    assert "no images in it" in broken(affectnet)


def test_neither_release(tmp_path):
    assert "neither train_set/ and val_set/" in broken(tmp_path)
    assert "choose from basic8, basic7" in broken(tmp_path, classes="cexpr7")


@pytest.mark.parametrize("value", ["11", "surprise"])
def test_an_expression_that_is_none(affectnet, value):
    np.save(affectnet / "train_set/annotations/7_exp.npy", np.array(value))
    assert ("expression 11 of train_set/images/7.jpg" if value == "11" else "7_exp.npy") in broken(affectnet)


class Touch:
    """An object whose reading back makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_an_annotation_that_is_code_is_refused_and_not_run(affectnet, tmp_path):
    annotation = np.array([Touch(tmp_path / "ran")], object)
    np.save(affectnet / "train_set/annotations/7_exp.npy", annotation, allow_pickle=True)
    assert "7_exp.npy" in broken(affectnet) and not (tmp_path / "ran").exists()


def test_older_lists_with_other_columns_or_labels(older_affectnet):
    path = older_affectnet / "training.csv"
    text = path.read_text()
    path.write_text(text.replace("expression", "label"))
    assert "no column expression; it has subDirectory_filePath" in broken(older_affectnet)
    path.write_text(text.replace(",0,0.5", ",happy,0.5"))
    assert "row 2, column 'expression': 'happy' is no number" in broken(older_affectnet)


def test_older_pictures_not_unpacked(older_affectnet):
    shutil.rmtree(older_affectnet / "Manually_Annotated_Images")
    assert "Manually_Annotated_Images: no such folder" in broken(older_affectnet)
    (older_affectnet / "Manually_Annotated_Images").mkdir()
    assert "none of the 19 listed images is there" in broken(older_affectnet)


def test_images_and_annotations_of_other_names(affectnet):
    for name in ("train_set", "val_set"):
        for path in (affectnet / name / "images").iterdir():
            path.rename(path.with_name(f"x{path.name}"))
    assert "no image has an annotation of its name: train_set: 11 annotations without an image" in broken(affectnet)
