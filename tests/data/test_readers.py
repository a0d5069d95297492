"""Tables and folders of anyone's making."""

import shutil
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
from PIL import Image, features

from twofold.data.images.formats import IMAGE_SUFFIXES
from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import read_manifest
from twofold.data.readers.affectnet import read_affectnet
from twofold.data.readers.cexpr import read_cexpr
from twofold.data.readers.csv import read_csv
from twofold.data.readers.folder import read_folder
from twofold.data.readers.rafce import read_rafce
from twofold.data.readers.rafdb import read_rafdb
from twofold.data.utils.errors import InputError

PEOPLE = "image,side,what,id,person,age\na.png,train,happiness,3,p1,30\nb/c.png,test,,-1,p1,\n"
OURS = "key;split;basic;compound;group;emotion\na.png;Training;happy;;p1;fear\n"
COPIES = "image,label\n" + "".join(f"{row}.jpg,{label}\n" for row, label in enumerate(
    ["1.0", "2.00", "", "7.", "1", "-1", "-1.0", " 3"]))


@pytest.fixture
def table(tmp_path):
    def write(text: str, encoding: str = "utf-8"):
        (tmp_path / "x.csv").write_text(text, encoding=encoding)
        return tmp_path / "x.csv"

    return write


@pytest.mark.parametrize(("text", "options", "columns"), [
    (PEOPLE, {"key": "image", "split": "side", "basic": "what", "group": "person"}, {  # others are carried along
        "key": ["a.png", "b/c.png"], "split": ["train", "test"], "basic": ["happiness", ""], "group": ["p1", "p1"],
        "age": ["30", ""]}),
    (PEOPLE, {"key": "image", "compound": "id", "classes": "rafdb11"}, {"compound": ["sadly_fearful", ""]}),
    (PEOPLE, {"key": "image", "compound": "id", "classes": "cexpr7"}, {"compound": ["disgustedly_surprised", ""]}),
    (PEOPLE, {"key": "image", "compound": "id", "classes": "rafdb11", "from_zero": True}, {
        "compound": ["sadly_angry", ""]}),
    (OURS, {}, {"split": ["train"], "basic": ["happiness"], "group": ["p1"], "emotion": ["fear"]}),
    (OURS, {"basic": "emotion", "group": "none", "split": "none"}, {"split": [""], "basic": ["fear"], "group": [""]}),
    ("key,basic\na.png,\nb.png,4\n", {"basic": "none"}, {"basic": ["", ""]}),
    (COPIES, {"key": "image", "basic": "label", "classes": "basic7"}, {  # as pandas writes numbers
        "basic": ["surprise", "fear", "", "neutral", "surprise", "", "", "disgust"]}),
    ("key\n./pics/0.jpg\npics\\1.jpg\n.\\pics\\2.jpg\npics//./3.jpg\n", {}, {
        "key": [f"pics/{number}.jpg" for number in range(4)]})])
def test_columns_are_named_by_options_and_labels_as_people_write_them(table, text, options, columns):
    made = read_csv(table(text), **options).table
    assert {name: made[name].tolist() for name in columns} == columns


@pytest.mark.parametrize(("text", "options", "says"), [
    (PEOPLE, {"key": "file"}, "no column file; it has image, side, what, id, person, age"),
    (PEOPLE, {"key": "image", "split": "id"}, "row 2, column 'split': '3' is not train"),
    (PEOPLE, {"key": "image", "basic": "id"}, "row 2, column 'basic': '3' is not a basic emotion"),
    (PEOPLE, {"key": "image", "classes": "rafdb11"}, "name their column with --compound"),
    (PEOPLE.replace(",3,", ",12,"), {"key": "image", "compound": "id", "classes": "rafdb11"},
     r"row 2, column 'compound': '12' is not a class number of rafdb11 \(1 to 11\)"),
    ("key,basic\na.png,\nb.png,4\n", {}, r"row 3, column 'basic': '4' is not a basic emotion; .*: --basic none"),
    ("key,basic\na.png,anger,\nb.png,fear,\n", {}, r"x\.csv: row 2 has more cells than the header line"),
    ("key,basic\na.png,anger,x,y\n", {}, "row 2 has more cells than the header line"),
    *((f"key\n{key}\n", {}, "relative to the root|leaves the root") for key in ("/a.jpg", "C:\\a.jpg", "../a.jpg"))])
def test_what_is_wrong_in_a_table_is_named_by_row_and_column(table, text, options, says):
    with pytest.raises(InputError, match=says):
        read_csv(table(text), **options)


@pytest.mark.parametrize(("text", "options", "says"), [
    ("image,label,label\na.jpg,1,2\n", {}, "the column 'label' stands twice in its header line"),
    ('"image";" label";label\na.jpg;1;2\n', {}, "the column 'label' stands twice"),
    ("sep=;\nimage;label\na.jpg;1\n", {}, "its first line is 'sep=;', for Excel: take that line out"),
    ("image,label\nhttps://x.y/a.jpg,1\n", {}, "row 2, column 'key': 'https://x.y/a.jpg' is a URL: download the files"),
    ("image,label\na.jpg,1\ns3:/b/a.jpg,1\n", {}, "row 3, column 'key': 's3:/b/a.jpg' is a URL"),
    ("image,label\nfile:///d/a.jpg,1\n", {}, "is a URL"),
    ("image,label\na.jpg,1\nb.jpg,1.5\n", {"classes": "basic7"},
     "row 3.*'1.5' is not a basic emotion nor a class number of basic7; for another word: --map 1.5=..., for no "),
    ("image,label\na.jpg,1\nb.jpg,1,2\n", {}, "with as many cells in each row as in the header line"),
])
def test_tables_that_would_be_misread_are_refused(table, text, options, says):
    with pytest.raises(InputError, match=says):
        read_csv(table(text), **{"key": "image", "basic": "label", "classes": "basic7"} | options)


def test_columns_of_a_table_in_memory_that_stand_twice():
    with pytest.raises(InputError, match="the table: the column 'label' stands twice"):
        read_csv(pd.DataFrame([["a.jpg", "1", "2"]], columns=["key", "label", "label"]), basic="label")


def test_wide_tables_have_distinct_columns_beyond_any_block(table):
    names = [f"embedding_dimension_{number}" for number in range(8_000)]
    assert len(read_csv(table(f"key,{','.join(names)}\na.jpg{',0' * 8_000}\n")).table.columns) == 8_005


@pytest.mark.parametrize("from_zero", [False, True])
def test_numbers_below_zero_are_said_to_be_no_labels(table, from_zero):
    faces = read_csv(table("key,basic\na.jpg,-1\nb.jpg,1.0\nc.jpg,-1.0\nd.jpg,nan\n"), classes="basic7",
                     from_zero=from_zero)
    assert faces.table["basic"].tolist() == ["", "fear" if from_zero else "surprise", "", ""]
    assert faces.notes == ("column basic: 2 cells such as '-1', numbers below 0, are taken as no label",
                           "column basic: 1 cells such as 'nan' are taken as missing")


def test_other_words_are_mapped(table, tmp_path, put, cli):
    path = table("key\tbasic\na.png\tglücklich\nb.png\tunklar\nc.png\tsad\n", encoding="utf-8-sig")
    words = ["manifest", "csv", path, "-o", tmp_path / "out.csv", "--map"]
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


def test_the_real_table(real):
    path = real / "faces_ferplus/labels.csv"
    named = read_csv(path, key="image", split="split", basic="basic", compound="compound", group="dup_group")
    assert len(named) == 5564 and (named.table["compound"] == "happily_surprised").sum() == 687
    with pytest.raises(InputError, match=r"'0' is not a class number of rafdb11 \(1 to 11\); .* say --from-zero"):
        read_csv(path, key="image", compound="rafdb_compound_id", classes="rafdb11")
    for name, column in (("cexpr7", "cexpr_id"), ("rafdb11", "rafdb_compound_id"), ("rafce14", "rafce_id")):
        numbered = read_csv(path, key="image", compound=column, classes=name, from_zero=True).table["compound"]
        inside = named.table["compound"].isin(builtin_taxonomy(name).classes)
        assert (numbered[inside] == named.table["compound"][inside]).all() and (numbered[~inside] == "").all()


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


def test_class_folders_within_splits(tmp_path, put):
    for place in ("train/Happily Surprised/1.JPG", "train/sadly-angry/1.JPG", "validation/sadly_angry/1.JPG",
                  "test/neutral/1.JPG", "train/anger/._1.jpg", "__MACOSX/train/anger/1.jpg", ".cache/1.jpg"):
        put(tmp_path / place)
    (tmp_path / "train/sadly-angry/notes.txt").write_text("not a face")
    table = read_folder(tmp_path).table
    assert table[["key", "split", "basic", "compound"]].to_numpy().tolist() == [
        ["test/neutral/1.JPG", "test", "neutral", ""],
        ["train/Happily Surprised/1.JPG", "train", "", "happily_surprised"],
        ["train/sadly-angry/1.JPG", "train", "", "sadly_angry"],
        ["validation/sadly_angry/1.JPG", "val", "", "sadly_angry"]]


def test_class_folders_alone_and_numbered_with_every_image_format(tmp_path, put):
    for suffix in IMAGE_SUFFIXES:
        put(tmp_path / f"fear/{suffix[1:]}{suffix.upper()}")
    faces = read_folder(tmp_path)
    assert {"." + key.rpartition(".")[2].lower() for key in faces.keys} == IMAGE_SUFFIXES
    assert faces.keys == sorted(faces.keys) and set(faces.table["split"]) == {""}
    put(tmp_path / "n/3/a.png")
    assert read_folder(tmp_path / "n", classes="rafdb11").table["compound"][0] == "sadly_fearful"


def test_class_folders_whose_numbers_pandas_wrote(tmp_path, put):
    for name in ("1.0", "2.", "03"):
        put(tmp_path / name / "a.jpg")
    assert read_folder(tmp_path, classes="basic7").table["basic"].tolist() == ["disgust", "surprise", "fear"]
    put(tmp_path / "1.5" / "a.jpg")
    with pytest.raises(InputError, match=r"the folder '1\.5' is neither"):
        read_folder(tmp_path, classes="basic7")


@pytest.mark.parametrize(("place", "says"), [
    ("glad/1.png", "'glad' is neither a basic nor a compound expression; for numbered folders say --classes"),
    ("1.png", "not split/class or class"), ("a/b/anger/1.png", "a/b/anger is not split/class or class"),
    ("fold1/anger/1.png", "fold1/anger is not split/class"), ("notes.txt", "no images in split/class"),
    pytest.param("anger/" + b"\xff.png".decode(errors="surrogateescape"), "row 2, column 'key': .* is not text in",
                 marks=pytest.mark.skipif(sys.platform == "darwin", reason="file names are UTF-8 there"))])
def test_other_folders(tmp_path, put, place, says):
    put(tmp_path / place)
    with pytest.raises(InputError, match=says):
        read_folder(tmp_path)


@pytest.mark.parametrize("read", [read_affectnet, read_cexpr, read_folder, read_rafce,
                                  partial(read_rafdb, part="both"), read_csv])
def test_missing_roots(tmp_path, read):
    with pytest.raises(InputError, match="no such fil" if read is read_csv else "no such folder"):
        read(tmp_path / "none")


def test_what_is_no_image_by_name_or_content_is_counted(tmp_path, jpeg, cli):
    (tmp_path / "d/fear").mkdir(parents=True)
    for name in ("a.JPG", "b.jfif", "c", "d.image"):  # suffixes in upper case, unknown ones, none
        (tmp_path / "d/fear" / name).write_bytes(jpeg())
    for name in ("e.mp4", "f.txt", "g.dat", "README", ".hidden"):
        (tmp_path / "d/fear" / name).write_bytes(b"P2P is no picture")
    done = cli("manifest", "folder", tmp_path / "d", "-o", tmp_path / "m.csv")
    assert read_manifest(tmp_path / "m.csv").keys == [f"fear/{name}" for name in ("a.JPG", "b.jfif", "c", "d.image")]
    assert "4 files are no images and are left out (1 .dat, 1 .mp4, 1 .txt, 1 no suffix)" in done.stderr


@pytest.mark.parametrize("suffix", ["", ".zip"])
def test_animations_are_counted_by_their_content(tmp_path, put, cli, suffix):
    frames = [Image.new("RGB", (48, 48), colour) for colour in ("white", "red", "blue")]
    put(put(tmp_path / "d/fear/x.jpg").parents[1] / "anger/x.jpg")
    kinds = [kind for kind in ("GIF", "PNG", "WEBP", "AVIF") if kind != "AVIF" or features.check("avif")]
    for kind in kinds:
        frames[0].save(tmp_path / f"d/fear/{kind}.png", kind, save_all=True, append_images=frames[1:], duration=100)
        frames[0].save(tmp_path / f"d/fear/still.{kind}", kind)
    if suffix:
        shutil.make_archive(str(tmp_path / "d"), "zip", tmp_path / "d")
    done = cli("manifest", "folder", tmp_path / f"d{suffix}", "-o", tmp_path / "m.csv")
    assert len(read_manifest(tmp_path / "m.csv")) == 2 * len(kinds) + 2
    assert f"{len(kinds)} samples are animations (the first is " in done.stderr
    assert "their first frame is taken; `crop` reads all frames" in done.stderr


def test_class_folders_that_are_links(tmp_path, put):
    put(tmp_path / "store/1.jpg")
    put(tmp_path / "d/anger/2.jpg")
    (tmp_path / "d/fear").symlink_to(tmp_path / "store")
    (tmp_path / "d/anger/loop").symlink_to(tmp_path / "d")
    without, followed = read_folder(tmp_path / "d"), read_folder(tmp_path / "d", follow_links=True)
    assert without.keys == ["anger/2.jpg"] and "2 folders are links and are left out" in without.notes[0]
    assert followed.keys == ["anger/2.jpg", "fear/1.jpg"] and not followed.notes
