"""RAF-CE as published and broken."""

import shutil

import pytest

from twofold.data.images.sources import open_images
from twofold.data.labels import builtin_taxonomy
from twofold.data.readers.rafce import read_rafce
from twofold.data.utils.errors import InputError


def test_it_reads_as_published(rafce):
    faces = read_rafce(rafce)
    assert faces.keys[0] == "aligned/0001_aligned.jpg"
    assert tuple(faces.table["compound"]) == builtin_taxonomy("rafce14").classes
    assert faces.table["compound"][8] == "fearfully_disgusted" and faces.table["compound"][13] == "happily_sad"
    assert list(faces.table["split"][:4]) == ["train", "test", "val", "train"]
    assert faces.table["au"][4] == "5+12"
    assert faces.notes == ("RAF-CE: 14 samples here, 4,549 as published",)
    assert all(open_images(rafce).read(key) for key in faces.keys)


def test_action_units_may_be_missing_and_line_ends_are_windows(rafce):
    (rafce / "RAFCE_AUlabel.txt").unlink()
    for name in ("RAFCE_emolabel.txt", "RAFCE_partition.txt"):
        path = rafce / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    faces = read_rafce(rafce)
    assert len(faces) == 14 and "au" not in faces.table


@pytest.mark.parametrize("name", ["RAFCE_emolabel.txt", "RAFCE_partition.txt", "aligned"])
def test_something_not_there(rafce, name):
    shutil.rmtree(rafce / name) if name == "aligned" else (rafce / name).unlink()
    with pytest.raises(InputError, match=name):
        read_rafce(rafce)


@pytest.mark.parametrize(("file", "line", "says"), [
    ("RAFCE_emolabel.txt", "0015.jpg 14", "line 15: 14 is not a class of RAF-CE"),
    ("RAFCE_emolabel.txt", "0015.jpg 3", "no line for 0015.jpg"),
    ("RAFCE_partition.txt", "0015.jpg x", "line 15: '0015.jpg x' is not like")])
def test_lines_that_are_not_as_published(rafce, file, line, says):
    with (rafce / file).open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(InputError, match=says):
        read_rafce(rafce)


def test_an_unknown_side(rafce):
    path = rafce / "RAFCE_partition.txt"
    path.write_text(path.read_text().replace("0002.jpg 1", "0002.jpg 3"))
    with pytest.raises(InputError, match="line 2: 3 is not a split of RAF-CE"):
        read_rafce(rafce)


def test_images_not_unpacked(rafce):
    shutil.rmtree(rafce / "aligned")
    (rafce / "aligned").mkdir()
    with pytest.raises(InputError, match="none of the 14 listed images is there"):
        read_rafce(rafce)
