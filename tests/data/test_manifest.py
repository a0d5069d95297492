"""The table of faces: written, read, and refused with row and column."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.data.manifest import COLUMNS, Manifest, build_manifest, read_manifest, write_manifest
from twofold.data.utils.errors import InputError


def made(**columns) -> pd.DataFrame:
    return pd.DataFrame({"key": ["a.png", "b.png"], **columns})


def test_it_reads_back_what_was_written(tmp_path):
    table = made(split=["train", ""], compound=["happily_angry", ""], subject=["007", "é, \"x\""])
    faces = build_manifest(table, source="x")
    write_manifest(faces, tmp_path / "faces.csv")
    again = read_manifest(tmp_path / "faces.csv")
    assert again.table.equals(faces.table)
    assert tuple(again.table.columns[:5]) == COLUMNS and again.table["subject"][0] == "007"
    assert [path.name for path in tmp_path.iterdir()] == ["faces.csv"]


KEYS = st.lists(st.text("abcé ,\"'.-_/", min_size=1, max_size=12), min_size=1, max_size=8, unique=True)


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
    ({"split": ["train", "Train"]}, "row 3, column 'split': 'Train' is not train, val, test or empty"),
    ({"basic": ["joy", ""]}, "row 2, column 'basic': 'joy' is not a basic emotion"),
    ({"compound": ["", "happily_happy"]}, "row 3, column 'compound': 'happily_happy' is not a compound")])
def test_errors_name_row_and_column(columns, says):
    with pytest.raises(InputError) as caught:
        build_manifest(made(**columns), source="faces.csv")
    assert says in str(caught.value) and "faces.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_no_table(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_manifest(tmp_path / "none.csv")
    for content in (b"", b"\xff\xfe\x00", b'key\n"a\n'):
        (tmp_path / "x.csv").write_bytes(content)
        with pytest.raises(InputError, match="not a CSV table"):
            read_manifest(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text("image,split\na,train\n")
    with pytest.raises(InputError, match="no column 'key'; it has image, split"):
        read_manifest(tmp_path / "x.csv")


def test_a_byte_order_mark_and_windows_line_ends(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"\xef\xbb\xbfkey,split\r\na.png,train\r\n")
    assert read_manifest(tmp_path / "x.csv").keys == ["a.png"]


def test_words_that_pandas_takes_for_missing_stay_words_in_other_columns(tmp_path):
    (tmp_path / "x.csv").write_text("key,subject,note\nNA,None,nan\n")
    assert read_manifest(tmp_path / "x.csv").table.loc[0, ["key", "subject", "note"]].tolist() == ["NA", "None", "nan"]


def test_rows_can_be_selected():
    faces = build_manifest(made(), source="x")
    assert faces.select(np.array([False, True])).keys == ["b.png"] and len(faces) == 2


def test_an_output_that_cannot_be_written_leaves_nothing(tmp_path):
    faces = build_manifest(made(), source="x")
    with pytest.raises(InputError, match="its folder is missing"):
        write_manifest(faces, tmp_path / "none/faces.csv")
    with pytest.raises(InputError, match="it is a folder"):
        write_manifest(faces, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "faces.csv"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_manifest(Manifest(pd.DataFrame({"key": ["a.png", "\udcff.png"]})), path)
    assert [file.name for file in tmp_path.iterdir()] == ["faces.csv"] and path.read_text() == "old"


def test_a_manifest_that_says_the_same_is_not_written_again(tmp_path):
    """A box past the left edge is an escaped cell; a complete store may be read-only."""
    path = tmp_path / "manifest.csv"
    manifest = build_manifest(pd.DataFrame({"key": ["a.png"], "box": ["-4 3 40 40"]}), source="x")
    write_manifest(manifest, path)
    before = path.stat()
    write_manifest(manifest, path)
    assert path.stat().st_ino == before.st_ino and path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.read_text().endswith("'-4 3 40 40\n") and read_manifest(path).table["box"][0] == "-4 3 40 40"
