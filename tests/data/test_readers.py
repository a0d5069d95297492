"""Tables and folders of anyone's making."""

import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest

from twofold.data.images.formats import IMAGE_SUFFIXES
from twofold.data.labels import TAXONOMIES, builtin_taxonomy, canonical_label, label_column, taxonomy_from_labels
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
    ({"key": "file"}, "no column file; it has image, side, what, id, person, age"),
    ({"key": "image", "split": "id"}, "row 2, column 'split': '3' is not train"),
    ({"key": "image", "basic": "id"}, "row 2, column 'basic': '3' is not a basic emotion"),
    ({"key": "image", "classes": "rafdb11"}, "name their column with --compound"),
    ({"key": "image", "basic": "what", "classes": "rafdb11"}, "name their column with --compound")])
def test_errors(table, options, says):
    with pytest.raises(InputError, match=says):
        read_csv(table, **options)


def test_a_number_outside_the_taxonomy(table):
    table.write_text(table.read_text().replace(",3,", ",12,"))
    with pytest.raises(InputError, match=r"row 2, column 'compound': '12' is not a class number of rafdb11 \(1"):
        read_csv(table, key="image", compound="id", classes="rafdb11")


def test_the_real_table(real):
    path = real / "faces_ferplus/labels.csv"
    named = read_csv(path, key="image", split="split", basic="basic", compound="compound", group="dup_group")
    assert len(named) == 5564 and (named.table["compound"] == "happily_surprised").sum() == 687
    with pytest.raises(InputError, match=r"'0' is not a class number of rafdb11 \(1 to 11\); .* say --from-zero"):
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


def test_what_is_no_image_by_name_or_content_is_counted(tmp_path, put, jpeg, cli):
    (tmp_path / "d/fear").mkdir(parents=True)
    for name in ("a.JPG", "b.jfif", "c", "d.image"):  # suffixes in upper case, unknown ones, none
        (tmp_path / "d/fear" / name).write_bytes(jpeg())
    for name in ("e.mp4", "f.txt", "g.dat", "README", ".hidden"):
        (tmp_path / "d/fear" / name).write_bytes(b"P2P is no picture")
    done = cli("manifest", "folder", tmp_path / "d", "-o", tmp_path / "m.csv")
    assert read_manifest(tmp_path / "m.csv").keys == [f"fear/{name}" for name in ("a.JPG", "b.jfif", "c", "d.image")]
    assert "4 files are no images and are left out (1 .dat, 1 .mp4, 1 .txt, 1 no suffix)" in done.stderr


def test_class_folders_that_are_links(tmp_path, put, cli):
    put(tmp_path / "store/1.jpg")
    put(tmp_path / "d/anger/2.jpg")
    (tmp_path / "d/fear").symlink_to(tmp_path / "store")
    (tmp_path / "d/anger/loop").symlink_to(tmp_path / "d")
    without, followed = read_folder(tmp_path / "d"), read_folder(tmp_path / "d", follow_links=True)
    assert without.keys == ["anger/2.jpg"] and "2 folders are links and are left out" in without.notes[0]
    assert followed.keys == ["anger/2.jpg", "fear/1.jpg"] and not followed.notes


@pytest.mark.parametrize(("cells", "labels"), [
    (["1.0", "2.00", "", "7."], ["surprise", "fear", "", "neutral"]),
    (["1", "-1", "-1.0", " 3"], ["surprise", "", "", "disgust"]),
])
def test_numbers_as_pandas_writes_them(tmp_path, cells, labels):
    pd.DataFrame({"image": [f"{row}.jpg" for row in range(4)], "label": cells}).to_csv(tmp_path / "x.csv", index=False)
    assert list(read_csv(tmp_path / "x.csv", key="image", basic="label", classes="basic7").table["basic"]) == labels


def test_labels_that_are_numbers_below_zero(tmp_path):
    (tmp_path / "own.toml").write_text('target = "mood"\nclasses = ["-1", "0", "-0.5"]')
    (tmp_path / "x.csv").write_text("key,mood\na.jpg,-1\nb.jpg,0\nc.jpg,-0.5\n")
    assert list(read_csv(tmp_path / "x.csv", classes=str(tmp_path / "own.toml")).table["mood"]) == ["-1", "0", "-0.5"]
    assert taxonomy_from_labels(["1", "-1", "0", "-0.5", "nan"], target="mood").classes == ("-1", "-0.5", "0", "1")


def test_paths_as_lists_have_them(tmp_path):
    (tmp_path / "x.csv").write_text("key\n./pics/0.jpg\npics\\1.jpg\n.\\pics\\2.jpg\npics//./3.jpg\n")
    assert read_csv(tmp_path / "x.csv").keys == [f"pics/{number}.jpg" for number in range(4)]
    for absolute in ("/a.jpg", "C:\\a.jpg", "../a.jpg"):
        (tmp_path / "x.csv").write_text(f"key\n{absolute}\n")
        with pytest.raises(InputError, match=r"relative to the root|leaves the root"):
            read_csv(tmp_path / "x.csv")


def test_a_table_in_memory():
    table = pd.DataFrame({"key": ["a.jpg", "b.jpg"], "basic": ["fear", None], "age": [30, np.nan]}, index=[7, 9])
    for manifest in (read_manifest(table), read_csv(table)):
        assert manifest.table.iloc[1].tolist() == ["b.jpg", "", "", "", "", ""] and manifest.table["basic"][0] == "fear"


def test_missing_values_as_text_are_no_group_class_or_fold(tmp_path, caplog):
    words = ["nan", "NaN", "NA", "N/A", " <NA> ", "None", " ", ""]
    table = pd.DataFrame({"key": [f"{row}.jpg" for row in range(8)]} | dict.fromkeys(("group", "basic", "fold"), words))
    table.to_csv(tmp_path / "x.csv", index=False)
    manifest = read_manifest(tmp_path / "x.csv")
    assert set(manifest.table[["group", "basic", "fold"]].to_numpy().ravel()) == {""}
    assert "column group: 7 cells such as 'nan' are taken as missing" in caplog.text


@pytest.mark.parametrize("value", [
    np.array([3, 4]), np.array(np.inf), np.array("9" * 5000), np.array("x"), np.array(3.5), np.array(3 + 2j),
    np.array("2020-01-01", "datetime64[D]"), np.zeros((0,)), np.array((1, 2.0), dtype="i4,f4"), b"",
    b"PK\x05\x06" + bytes(18), b"\x93NUMPY" + bytes(20), b"\x93NUMPY\x01\x00\x10\x00{'a':  (1, 2), \n"])
def test_odd_annotation_arrays_of_affectnet_are_one_sentence(affectnet, value):
    path = affectnet / "train_set/annotations/0_exp.npy"
    path.write_bytes(value) if isinstance(value, bytes) else np.save(path, value)
    with pytest.raises(InputError, match=r"0_exp\.npy: not one expression number"):
        read_affectnet(affectnet)


@pytest.mark.parametrize("line", ["train_00001.jpg " + "9" * 5000, "train_00001.jpg ²", "train_00001.jpg -3", "x"])
def test_odd_lists_of_rafdb_are_one_sentence(rafdb, line):
    (rafdb / "basic/EmoLabel/list_patition_label.txt").write_text(line + "\n")
    with pytest.raises(InputError, match=r"line 1: .* is not like"):
        read_rafdb(rafdb, part="basic")


@pytest.mark.parametrize("cell", ["9" * 5000, "--5", "²", "-", "1.5"])
def test_odd_annotations_of_cexpr_are_one_sentence(cexpr, cell):
    (cexpr / "labels").mkdir()
    (cexpr / "labels/01.txt").write_text(f"header\n{cell}\n")
    with pytest.raises(InputError, match=r"is not one class number|not a class number"):
        read_cexpr(cexpr / "frames", annotation=cexpr / "labels")


def test_odd_lists_of_affectnet_are_one_sentence(older_affectnet):
    path = older_affectnet / "training.csv"
    path.write_text(path.read_text().replace(",0,0.5,", f",{'9' * 5000},0.5,", 1))
    with pytest.raises(InputError, match=r"column 'expression': .* is no number"):
        read_affectnet(older_affectnet)


def test_rafdb_as_train_and_valid(tmp_path, put):
    for split in ("train", "valid"):
        for number in range(1, 8):
            put(tmp_path / f"{split}/{number}/{split}.jpg", number)
    assert set(read_rafdb(tmp_path, part="basic").table["split"]) == {"train", "val"}
