"""RAF-DB as published and as it is found on disks."""

import shutil

import pytest

from twofold.data.images.decode import decode
from twofold.data.images.sources import open_images
from twofold.data.readers.rafdb import LIST, read_rafdb
from twofold.data.utils.errors import InputError


def test_the_compound_part_reads_as_published(rafdb):
    faces = read_rafdb(rafdb, part="compound")
    table = faces.table.set_index("key")
    assert len(faces) == 22
    assert table["split"].value_counts().to_dict() == {"train": 11, "test": 11}
    assert table.loc["compound/Image/aligned/train_00001_aligned.jpg", "compound"] == "happily_surprised"
    assert table.loc["compound/Image/aligned/test_00007_aligned.jpg", "compound"] == "fearfully_angry"
    assert table.loc["compound/Image/aligned/test_00011_aligned.jpg", "compound"] == "disgustedly_surprised"
    assert (table["basic"] == "").all()
    assert decode(open_images(rafdb).read(faces.keys[0])).size == (48, 48)


def test_the_basic_part_has_its_own_numbering(rafdb):
    table = read_rafdb(rafdb, part="basic").table.set_index("key")["basic"]
    named = [table[f"basic/Image/aligned/train_{number:05d}_aligned.jpg"] for number in range(1, 8)]
    assert named == ["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"]


def test_both_parts_and_original_pictures(rafdb):
    faces = read_rafdb(rafdb, part="both", images="original")
    assert len(faces) == 14 + 22 and faces.keys[0] == "basic/Image/original/train_00001.jpg"
    assert all(open_images(rafdb).read(key) for key in faces.keys)


def test_counts_other_than_published_are_said_with_both_numbers(rafdb):
    notes = read_rafdb(rafdb, part="both").notes
    assert notes == ("RAF-DB basic train: 7 samples here, 12,271 as published",
                     "RAF-DB basic test: 7 samples here, 3,068 as published",
                     "RAF-DB compound: 22 samples here, 3,954 as published")


def test_the_part_folder_itself_will_do(rafdb):
    faces = read_rafdb(rafdb / "compound", part="compound")
    assert faces.keys[0] == "Image/aligned/train_00001_aligned.jpg"


def test_repackaged_class_folders(rafdb, put):
    shutil.rmtree(rafdb / "basic")
    for split in ("train", "test"):
        for number in range(1, 8):
            put(rafdb / f"basic/{split}/{number}/{split}_{number:05d}_aligned.jpg", number)
    faces = read_rafdb(rafdb, part="basic")
    assert faces.table.set_index("key").loc["basic/test/4/test_00004_aligned.jpg", "basic"] == "happiness"
    assert faces.table["split"].value_counts().to_dict() == {"train": 7, "test": 7}
    assert read_rafdb(rafdb / "basic", part="basic").keys[0] == "test/1/test_00001_aligned.jpg"


def broken(rafdb, **arguments) -> str:
    with pytest.raises(InputError) as caught:
        read_rafdb(rafdb, **{"part": "compound", **arguments})
    return str(caught.value)


def test_no_list(rafdb):
    (rafdb / "compound" / LIST).unlink()
    assert "list_patition_label.txt" in broken(rafdb) and "spelled so" in broken(rafdb)


def test_images_not_unpacked(rafdb):
    shutil.rmtree(rafdb / "compound/Image/aligned")
    assert "unpack aligned.zip there, or say --images original" in broken(rafdb)
    (rafdb / "compound/Image/aligned").mkdir()
    assert "none of the 22 listed images is there" in broken(rafdb) and "unpack aligned.zip" in broken(rafdb)


def test_original_pictures_in_the_aligned_folder(rafdb):
    shutil.rmtree(rafdb / "compound/Image/aligned")
    shutil.copytree(rafdb / "compound/Image/original", rafdb / "compound/Image/aligned")
    assert "holds the original pictures" in broken(rafdb)


def test_a_few_images_gone_is_a_warning(rafdb):
    (rafdb / "compound/Image/aligned/train_00003_aligned.jpg").unlink()
    faces = read_rafdb(rafdb, part="compound")
    assert len(faces) == 22
    assert ("1 of 22 listed images are not there (the first is compound/Image/aligned/train_00003_aligned.jpg)"
            in faces.notes)


@pytest.mark.parametrize(("line", "says"), [
    ("train_00099.jpg 12", "line 23: 12 is not a class of RAF-DB compound"),
    ("train_00099.jpg", "line 23: 'train_00099.jpg' is not like"),
    ("valid_00001.jpg 1", "does not start with train_ or test_"),
    ("train_00001.jpg 1", "stands in another line already")])
def test_a_line_that_is_not_as_published(rafdb, line, says):
    path = rafdb / "compound" / LIST
    path.write_text(path.read_text() + line + "\n")
    assert says in broken(rafdb)


def test_wrong_options(rafdb):
    assert "choose from basic, compound, both" in broken(rafdb, part="other")
    assert "choose from aligned, original" in broken(rafdb, images="cropped")


def test_the_other_part_is_not_read_in_its_place(rafdb, put):
    """Numbers 1 to 7 mean something in both parts: read as the wrong one, every label would be wrong."""
    assert "is the other part: say --part basic" in broken(rafdb / "basic")
    assert "is the other part: say --part compound" in broken(rafdb / "compound", part="basic")
    for split in ("train", "test"):
        for number in range(1, 8):
            put(rafdb / f"DATASET/{split}/{number}/{split}_{number:05d}_aligned.jpg", number)
    assert "say --part basic" in broken(rafdb / "DATASET")
    assert "not both parts" in broken(rafdb / "DATASET", part="both")
    assert len(read_rafdb(rafdb / "DATASET", part="basic")) == 14


def test_a_list_with_tabs(rafdb):
    before = read_rafdb(rafdb, part="compound").table
    path = rafdb / "compound" / LIST
    path.write_text(path.read_text().replace(" ", "\t"))
    assert read_rafdb(rafdb, part="compound").table.equals(before)
