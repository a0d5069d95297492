"""The table of samples: written, read back unchanged, run by no spreadsheet, and refused with row and column."""

import csv
import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from twofold.data.manifest import (
    COLUMNS,
    Manifest,
    build_manifest,
    manifest_output,
    read_manifest,
    write_manifest,
)
from twofold.data.targets import summary_lines
from twofold.data.utils.atomic import atomic_write
from twofold.data.utils.csv_files import (
    check_columns,
    detect_separator,
    escape_cells,
    read_table,
    table_to_csv,
    unescape_cells,
)
from twofold.data.utils.errors import InputError
from twofold.data.utils.keys import LONGEST, ambiguous_keys, key_fault

TEXTS = st.text(st.sampled_from("abé =+-@'\"\t\r\n,;1.e_/"), max_size=8)
KEYS = st.lists(st.text("abcé ,\"'.-_/", min_size=1, max_size=12), min_size=1, max_size=8, unique=True)


def made(**columns) -> pd.DataFrame:
    return pd.DataFrame({"key": ["a.png", "b.png"], **columns})


def test_it_reads_back_what_was_written(tmp_path):
    faces = build_manifest(made(split=["train", ""], compound=["happily_angry", ""], subject=["007", "é, \"x\""],
                                box=["-4 3 40 40", ""]), source="x")
    path = tmp_path / "faces.csv"
    write_manifest(faces, path)
    again = read_manifest(path)
    assert again.table.equals(faces.table) and faces.select(np.array([False, True])).keys == ["b.png"]
    assert tuple(again.table.columns[:5]) == COLUMNS and again.table["subject"][0] == "007"
    assert [path.name for path in tmp_path.iterdir()] == ["faces.csv"] and ",'-4 3 40 40\n" in path.read_text()
    before = path.stat()
    write_manifest(faces, path)  # a complete store may be read-only
    assert path.stat().st_ino == before.st_ino and path.stat().st_mtime_ns == before.st_mtime_ns


@settings(deadline=None)
@given(KEYS)
def test_any_keys_that_are_accepted_survive_the_file(tmp_path_factory, keys):
    try:
        faces = build_manifest(pd.DataFrame({"key": keys}), source="x")
    except InputError:
        return
    path = tmp_path_factory.mktemp("m") / "faces.csv"
    write_manifest(faces, path)
    assert read_manifest(path).keys == keys


@pytest.mark.parametrize(("columns", "says"), [
    ({"key": ["a.png", "a.png"]}, "row 3, column 'key': 'a.png' stands in row 2 already"),
    ({"key": ["a.png", "/etc/x.png"]}, "row 3, column 'key': '/etc/x.png' is not a path relative to the root"),
    ({"key": ["a.png", "C:/x.png"]}, "not a path relative"), ({"key": ["a.png", "b\\c.png"]}, "forward slashes"),
    ({"key": ["a/../../b.png", "b"]}, "row 2, column 'key': 'a/../../b.png' leaves the root"),
    ({"key": ["a.png", "./b.png"]}, "write it as 'b.png'"), ({"key": ["a.png", ""]}, "row 3, column 'key': the key"),
    ({"key": ["a\rb.png", "b"]}, "'a\\rb.png' has a line end or another control character in it: rename the file"),
    *(({"key": [f"a{letter}b.png", "b"]}, "control character") for letter in "\n\x1b\u2028\x85\0"),
    *(({"key": [key, "b"]}, "longer than 4,096 bytes") for key in ("ä" * (LONGEST // 2 + 1),
                                                                   "a/" * (LONGEST // 2) + "bc")),
    ({"split": ["train", "Train"]}, "row 3, column 'split': 'Train' is not train, val, test or empty"),
    ({"basic": ["joy", ""]}, "row 2, column 'basic': 'joy' is not a basic emotion"),
    ({"compound": ["", "happily_happy"]}, "row 3, column 'compound': 'happily_happy' is not a compound")])
def test_errors_name_row_and_column(columns, says):
    with pytest.raises(InputError) as caught:
        build_manifest(made(**columns), source="faces.csv")
    sentence = str(caught.value)
    assert says in sentence and "faces.csv" in sentence and "\n" not in sentence and len(sentence) < 400


def test_soft_labels_are_shares_or_votes_of_the_classes(tmp_path):
    table = pd.DataFrame({"key": list("abcd"), "p_fear": ["4", "0.5", "", "0"], "p_anger": [" 1", "", "nan", "1e3"],
                          "p_value": ["x", "-1", "", "?"], "p_calm": ["1", "2", "", ""]})
    faces = build_manifest(table, source="x")
    write_manifest(faces, tmp_path / "x.csv")
    for manifest in (faces, read_manifest(tmp_path / "x.csv")):  # p_value is a column of somebody's own
        assert manifest.soft_classes == ("fear", "anger")
        assert manifest.soft_labels(["anger", "fear"]).tolist() == [[0.2, 0.8], [0, 1], [0, 0], [1, 0]]
        assert manifest.soft_labels(["calm"]).tolist() == [[1], [1], [0], [0]]
        assert manifest.soft_labels(["joy"]) is None and manifest.soft_labels([]) is None
        assert "soft      3 soft labels of 2 basic classes; largest share: fear 2, anger 1" in summary_lines(manifest)
        with pytest.raises(InputError, match="no column p_sadness"):
            manifest.soft_labels(["fear", "sadness"])


@pytest.mark.parametrize("cell", ["-0.1", "nine", "inf", "1e99", "0x10"])
def test_a_share_that_is_none_is_named_by_row_and_column(cell):
    with pytest.raises(InputError, match=f"x: row 3, column 'p_fear': '{cell}' is not a share or a number of votes"):
        build_manifest(made(p_fear=["0", cell], p_anger=["", "1"]), source="x")


@pytest.mark.parametrize(("content", "says"), [
    (None, "no such file"), (b"", "not a CSV table"), (b"\xff\xfe\x00", "not a CSV table"),
    (b'key\n"a\n', "not a CSV table"), (b"image,split\na,train\n", "no column 'key'; it has image, split")])
def test_files_that_are_no_manifest(tmp_path, content, says):
    if content is not None:
        (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(InputError, match=says):
        read_manifest(tmp_path / "x.csv")


def test_a_pipe_in_the_place_of_a_manifest_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "manifest.csv")
    with pytest.raises(InputError, match="no regular file"):
        read_manifest(tmp_path / "manifest.csv")


def test_words_that_pandas_takes_for_missing_stay_words_in_other_columns(tmp_path):
    (tmp_path / "x.csv").write_text("key,subject,note\nNA,None,nan\n")
    assert read_manifest(tmp_path / "x.csv").table.loc[0, ["key", "subject", "note"]].tolist() == ["NA", "None", "nan"]


@pytest.mark.parametrize("text", ["-nan", "#NA", "Null", "1.#QNAN", r"\N", "none", "missing", ".", "?", "-"])
def test_other_words_for_missing_are_no_split_group_or_fold(text):
    faces = build_manifest(made(split=["train", text], group=["g", text], fold=["0", text]), source="x")
    assert faces.table[["split", "group", "fold"]].iloc[1].tolist() == ["", "", ""]
    assert len([note for note in faces.notes if f"1 cells such as {text!r} are taken as missing" in note]) == 3


def test_names_in_either_unicode_form_are_one_group_and_one_column(tmp_path):
    (tmp_path / "x.csv").write_text("key,group,Gefu\u0308hl\na.png,Zo\u00eb,x\nb.png,Zoe\u0308,y\n")
    faces = read_manifest(tmp_path / "x.csv")
    assert faces.table["group"].nunique() == 1 and faces.table["Gef\u00fchl"].tolist() == ["x", "y"]
    (tmp_path / "x.csv").write_text("key,\u00e9,e\u0301\na.png,x,y\n")
    with pytest.raises(InputError, match="stands twice in its header line"):
        read_manifest(tmp_path / "x.csv")


def test_blanks_around_names_of_columns_and_groups_are_none(tmp_path):
    (tmp_path / "faces.csv").write_text("key, split, group\na.jpg,train,S1\nb.jpg,test,S1 \n")
    table = read_manifest(tmp_path / "faces.csv").table
    assert table["split"].tolist() == ["train", "test"] and table["group"].tolist() == ["S1", "S1"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    faces, path = build_manifest(made(), source="x"), tmp_path / "faces.csv"
    path.write_text("old")
    for place, says in ((tmp_path / "none/faces.csv", "its folder is missing"), (tmp_path, "it is a folder")):
        with pytest.raises(InputError, match=says):
            write_manifest(faces, place)
    with pytest.raises(UnicodeEncodeError):
        write_manifest(Manifest(pd.DataFrame({"key": ["a.png", "\udcff.png"]})), path)
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert [file.name for file in tmp_path.iterdir()] == ["faces.csv"] and path.read_text() == "old"


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=6))
@example(["=1+1", "'=1+1", "''=x", "-a.jpg", "'-a.jpg", "-0.25", "'-0.25", "@x", "+", "'", "''", "\rx"])
def test_cells_read_back_and_are_no_formulas(texts):
    cells = escape_cells(texts)
    assert unescape_cells(cells) == texts
    for cell in cells:
        number = cell[1:].replace(".", "").replace("e", "").replace("-", "").replace("+", "").isdecimal()
        assert cell[:1] not in ("=", "@", "\t", "\r") and (cell[:1] not in ("+", "-") or number)


@settings(deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
@example([("a\rb", "x"), ("'=c", "-1"), ("\r", "\n")])
def test_any_table_survives_its_file(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("t") / "x.csv"
    table = pd.DataFrame([(str(number), *row) for number, row in enumerate(rows)], columns=["n", "a", "b"])
    path.write_text(table_to_csv(table), encoding="utf-8", newline="")
    assert read_table(path).to_numpy().tolist() == table.to_numpy().tolist()


def test_a_spreadsheet_sees_text_where_a_formula_stood(tmp_path):
    """What another program's parser gets, and what we get back."""
    keys = ["=HYPERLINK(1).jpg", "-a.jpg", "+b/@c.jpg", "@SUM(A1).jpg", "plain.jpg", "'-d.jpg"]
    table = pd.DataFrame({"key": keys, "valence": ["-0.25", "+1", "-1e-3", "=2", "x", "-x"]})
    faces = build_manifest(table, source="x")
    write_manifest(faces, tmp_path / "faces.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "faces.csv").read_text())))
    assert [row["key"] for row in rows] == ["'=HYPERLINK(1).jpg", "'-a.jpg", "'+b/@c.jpg", "'@SUM(A1).jpg", "plain.jpg",
                                            "''-d.jpg"]
    assert [row["valence"] for row in rows] == ["-0.25", "+1", "-1e-3", "'=2", "x", "'-x"]  # numbers stay numbers
    assert read_manifest(tmp_path / "faces.csv").table.equals(faces.table)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tables_as_spreadsheets_save_them(tmp_path, separator, encoding, end):
    lines = [["key", "split", "note"], ["a.png", "train", "é, x"], ["b;c.png", "", "-1,5"]]
    quoted = [[f'"{cell}"' if "," in cell or ";" in cell else cell for cell in line] for line in lines]
    text = end.join(separator.join(line) for line in quoted)
    (tmp_path / "x.csv").write_bytes((text + end).encode(encoding))
    assert read_table(tmp_path / "x.csv").to_numpy().tolist() == lines[1:]


def test_the_separator_is_what_the_header_has_most_of():
    assert detect_separator("key,a;b,c") == "," and detect_separator('"a,b,c";d') == ";"
    assert detect_separator("key") == detect_separator("key\tlabel, as said") == ","


def test_keys_that_other_systems_take_for_one_file(tmp_path, cli, put):
    assert ambiguous_keys(["a.png", "b.png", "A/a.png"]) == () and not key_fault("a.png")
    (note,) = ambiguous_keys(["é.png", "e\u0301.png", "f.png"])
    assert note.startswith("1 pairs of keys differ only by the Unicode form of their letters") and "macOS" in note
    (note,) = ambiguous_keys(["a/B.png", "A/b.png", "a/b.png"])
    assert note.startswith("2 pairs of keys differ only by upper and lower case") and "'a/B.png' and 'A/b.png'" in note
    for name in ("e\u0301.jpg", "é.jpg", "É.jpg"):
        put(tmp_path / "faces/anger" / name, 1)
    done = cli("manifest", "folder", tmp_path / "faces", "-o", tmp_path / "faces.csv")
    if done.stdout.startswith("3 samples"):  # on a file system that keeps them apart
        assert "Unicode form" in done.stderr and "upper and lower case" in done.stderr
        checked = cli("manifest", "check", tmp_path / "faces.csv", "--root", tmp_path / "faces")
        assert "Unicode form" in checked.stdout


def test_an_empty_file_as_mktemp_makes_it_is_replaced(tmp_path, cli, put):
    put(tmp_path / "faces/anger/1.jpg")
    (tmp_path / "empty").touch()
    assert cli("manifest", "folder", tmp_path / "faces", "-o", tmp_path / "empty").returncode == 0
    with pytest.raises(InputError, match="not a regular file"):
        manifest_output(Path("/dev/null")).check()


def test_a_long_list_of_columns_is_cut_between_names():
    table = pd.DataFrame(columns=[f"au_{number}" for number in range(99)])
    with pytest.raises(InputError, match=r"no column smile; it has au_0, .*au_\d+, \.\.\.$"):
        check_columns(table, ["smile"], "m.csv")
