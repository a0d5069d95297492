"""Tables and folders of anyone's making."""

import sys
from functools import partial

import pytest

from twofold.data.images.formats import IMAGE_SUFFIXES
from twofold.data.labels import TAXONOMIES, builtin_taxonomy, canonical_label, label_column
from twofold.data.manifest import read_manifest
from twofold.data.readers.affectnet import read_affectnet
from twofold.data.readers.cexpr import read_cexpr
from twofold.data.readers.csv import read_csv
from twofold.data.readers.folder import read_folder
from twofold.data.readers.rafce import read_rafce
from twofold.data.readers.rafdb import read_rafdb
from twofold.data.utils.errors import InputError


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("image,side,what,id,person,age\na.png,train,happiness,3,p1,30\nb/c.png,test,,-1,p1,\n")
    return path


def test_columns_are_named_by_options_and_the_others_carried_along(table):
    faces = read_csv(table, key="image", split="side", basic="what", group="person")
    assert faces.keys == ["a.png", "b/c.png"]
    assert list(faces.table["split"]) == ["train", "test"] and list(faces.table["basic"]) == ["happiness", ""]
    assert list(faces.table["group"]) == ["p1", "p1"] and list(faces.table["age"]) == ["30", ""]


def test_integer_labels_are_official_numbers(table):
    faces = read_csv(table, key="image", compound="id", classes="rafdb11")
    assert list(faces.table["compound"]) == ["sadly_fearful", ""]
    assert list(read_csv(table, key="image", compound="id", classes="cexpr7").table["compound"]) == [
        "disgustedly_surprised", ""]


def test_columns_called_as_ours_are_taken_unless_told_otherwise(tmp_path):
    (tmp_path / "x.csv").write_text("key;split;basic;compound;group;emotion\na.png;Training;happy;;p1;fear\n")
    assert read_csv(tmp_path / "x.csv").table.iloc[0].tolist() == ["a.png", "train", "happiness", "", "p1", "fear"]
    named = read_csv(tmp_path / "x.csv", basic="emotion", group="none", split="none").table
    assert named.iloc[0].tolist() == ["a.png", "", "fear", "", ""]
    (tmp_path / "x.csv").write_text("key,basic\na.png,\nb.png,4\n")
    with pytest.raises(InputError, match=r"row 3, column 'basic': '4' is not a basic emotion; .*: --basic none"):
        read_csv(tmp_path / "x.csv")
    assert list(read_csv(tmp_path / "x.csv", basic="none").table["basic"]) == ["", ""]


@pytest.mark.parametrize(("label", "name"), [
    ("happy", "happiness"), ("Sad", "sadness"), ("JOY", "happiness"), ("angry", "anger"), ("Suprise", "surprise"),
    ("Happily Surprised", "happily_surprised"), ("happily-surprised", "happily_surprised"),
    ("HappilySurprised", "happily_surprised"), ("sad angry", "sadly_angry"), ("fear+surprise", "fearfully_surprised"),
    ("surprise_happy", "surprisedly_happy"), ("happy_happy", "happy_happy"), ("neutral_happy", "neutral_happy"),
    ("4", "4"), ("", ""), (" contempt ", "contempt"), ("appalled", "appalled"), ("afraid", "fear")])
def test_labels_as_people_write_them(label, name):
    assert canonical_label(label) == name


@pytest.mark.parametrize("classes", TAXONOMIES)
def test_every_canonical_name_stays_what_it_is(classes):
    assert [canonical_label(label) for label in classes.classes] == list(classes.classes)
    assert {label_column(label) for label in classes.classes} == {classes.target}


def test_a_folder_is_indexed_with_every_image_format(tmp_path, put):
    for suffix in IMAGE_SUFFIXES:
        put(tmp_path / f"fear/{suffix[1:]}{suffix.upper()}")
    put(tmp_path / "fear/._mac.jpg")
    assert {"." + key.rpartition(".")[2].lower() for key in read_folder(tmp_path).keys} == IMAGE_SUFFIXES


def test_other_words_are_mapped(tmp_path, put, cli):
    (tmp_path / "x.csv").write_text("key\tbasic\na.png\tglücklich\nb.png\tunklar\nc.png\tsad\n", encoding="utf-8-sig")
    words = ["manifest", "csv", tmp_path / "x.csv", "-o", tmp_path / "out.csv", "--map"]
    done = cli(*words, "glücklich=joy", "--map", "unklar=")
    assert done.returncode == 0 and "happiness 1, sadness 1" in done.stdout, done.stderr
    for wrong in ("glücklich", "=fear", "a=glad"):
        done = cli(*words, wrong)
        assert done.returncode == 2 and "is not OLD=NEW" in done.stderr
    put(tmp_path / "faces/train/glad/1.jpg")
    put(tmp_path / "faces/dev/odd/1.jpg")
    done = cli("manifest", "folder", tmp_path / "faces", "-o", tmp_path / "out.csv", "--overwrite",
               "--map", "glad=happy", "--map", "odd=")
    assert done.returncode == 0 and read_manifest(tmp_path / "out.csv").table[["key", "split", "basic"]].to_numpy(
        ).tolist() == [["dev/odd/1.jpg", "val", ""], ["train/glad/1.jpg", "train", "happiness"]]


@pytest.mark.parametrize(("options", "says"), [
    ({"key": "file"}, "no column 'file' .for key.; it has image, side, what, id, person, age"),
    ({"key": "image", "split": "id"}, "row 2, column 'split': '3' is not train"),
    ({"key": "image", "basic": "id"}, "row 2, column 'basic': '3' is not a basic emotion"),
    ({"key": "image", "classes": "rafdb11"}, "name their column with --compound"),
    ({"key": "image", "basic": "what", "classes": "rafdb11"}, "name their column with --compound")])
def test_errors(table, options, says):
    with pytest.raises(InputError, match=says):
        read_csv(table, **options)


def test_a_number_outside_the_taxonomy(table):
    table.write_text(table.read_text().replace(",3,", ",12,"))
    with pytest.raises(InputError, match=r"row 2, column 'compound': 12 is not a class number of rafdb11 \(1 to 11\)"):
        read_csv(table, key="image", compound="id", classes="rafdb11")


def test_the_real_table(real):
    path = real / "faces_ferplus/labels.csv"
    named = read_csv(path, key="image", split="split", basic="basic", compound="compound", group="dup_group")
    assert len(named) == 5564 and (named.table["compound"] == "happily_surprised").sum() == 687
    with pytest.raises(InputError, match=r"0 is not a class number of rafdb11 \(1 to 11\); .* say --from-zero"):
        read_csv(path, key="image", compound="rafdb_compound_id", classes="rafdb11")
    for name, column in (("cexpr7", "cexpr_id"), ("rafdb11", "rafdb_compound_id"), ("rafce14", "rafce_id")):
        faces = read_csv(path, key="image", compound=column, classes=name, from_zero=True)
        numbered = faces.table["compound"]
        inside = named.table["compound"].isin(builtin_taxonomy(name).classes)
        assert (numbered[inside] == named.table["compound"][inside]).all() and (numbered[~inside] == "").all()


def test_class_folders_within_splits(tmp_path, put):
    places = ("train/Happily Surprised", "train/sadly-angry", "validation/sadly_angry", "test/neutral")
    for number, place in enumerate(places):
        put(tmp_path / place / "1.JPG", number)
    (tmp_path / "train/sadly-angry/notes.txt").write_text("not a face")
    table = read_folder(tmp_path).table
    assert table[["key", "split", "basic", "compound"]].to_numpy().tolist() == [
        ["test/neutral/1.JPG", "test", "neutral", ""],
        ["train/Happily Surprised/1.JPG", "train", "", "happily_surprised"],
        ["train/sadly-angry/1.JPG", "train", "", "sadly_angry"],
        ["validation/sadly_angry/1.JPG", "val", "", "sadly_angry"]]


def test_class_folders_alone_and_numbered(tmp_path, put):
    put(tmp_path / "anger/b.png")
    put(tmp_path / "anger/a.png")
    assert read_folder(tmp_path).keys == ["anger/a.png", "anger/b.png"]
    assert set(read_folder(tmp_path).table["split"]) == {""}
    put(tmp_path / "n/3/a.png")
    assert read_folder(tmp_path / "n", classes="rafdb11").table["compound"][0] == "sadly_fearful"


@pytest.mark.parametrize(("place", "says"), [
    ("glad/1.png", "'glad' is neither a basic nor a compound expression; for numbered folders say --classes"),
    ("1.png", "not split/class or class"), ("a/b/anger/1.png", "a/b/anger is not split/class or class"),
    ("fold1/anger/1.png", "fold1/anger is not split/class"), ("notes.txt", "no images in split/class")])
def test_other_folders(tmp_path, put, place, says):
    put(tmp_path / place)
    with pytest.raises(InputError, match=says):
        read_folder(tmp_path)


@pytest.mark.parametrize("read", [read_affectnet, read_cexpr, read_folder, read_rafce,
                                  partial(read_rafdb, part="both")])
def test_missing_roots(tmp_path, read):
    with pytest.raises(InputError, match="no such folder"):
        read(tmp_path / "none")


def test_a_missing_table(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_csv(tmp_path / "none.csv")


@pytest.mark.parametrize("text", ["key,basic\na.png,anger,\nb.png,fear,\n", "key,basic\na.png,anger,x,y\n"])
def test_rows_longer_than_the_header_do_not_shift_columns(tmp_path, text):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(InputError, match=r"x\.csv: row 2 has more cells than the header line"):
        read_csv(tmp_path / "x.csv", basic="basic")


def test_what_macos_leaves_beside_images_is_no_face(tmp_path, put):
    put(tmp_path / "train/anger/1.jpg")
    for name in ("train/anger/._1.jpg", "__MACOSX/train/anger/1.jpg", ".cache/1.jpg"):
        put(tmp_path / name)
    assert read_folder(tmp_path).keys == ["train/anger/1.jpg"]


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are UTF-8 there")
def test_file_names_that_are_no_text(tmp_path, put):
    put(tmp_path / "anger" / b"\xff.png".decode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r"row 2, column 'key': .* is not text in UTF-8: rename the file"):
        read_folder(tmp_path)
