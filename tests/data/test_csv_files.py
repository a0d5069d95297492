"""Tables that come back as they were written, and that no spreadsheet runs."""

import csv
import io
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from twofold.data.manifest import build_manifest, manifest_output, read_manifest, write_manifest
from twofold.data.utils.atomic import atomic_write
from twofold.data.utils.csv_files import detect_separator, escape_cells, read_table, table_to_csv, unescape_cells
from twofold.data.utils.errors import InputError
from twofold.data.utils.keys import LONGEST, ambiguous_keys, key_fault

TEXTS = st.text(st.sampled_from("abé =+-@'\"\t\r\n,;1.e_/"), max_size=8)


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
    assert detect_separator("key") == ","
    assert detect_separator("key\tlabel, as said") == ","  # of two that stand as often, the comma


@pytest.mark.parametrize(("key", "says"), [
    ("a\rb.png", "'a\\rb.png' has a line end or another control character in it: rename the file"),
    ("a\nb.png", "a line end"), ("a\x1b[2Jb.png", "control character"), ("a\u2028b.png", "a line end"),
    ("a\x85b.png", "a line end"), ("a\0b.png", "control character"),
    ("ä" * (LONGEST // 2 + 1), "longer than 4,096 bytes"),
    ("a/" * (LONGEST // 2) + "bc", "longer than 4,096 bytes")])
def test_keys_that_no_file_of_ours_could_carry(key, says):
    assert says in key_fault(key) and len(key_fault(key)) < 400 and "\n" not in key_fault(key)
    with pytest.raises(InputError, match="row 2, column 'key'"):
        build_manifest(pd.DataFrame({"key": [key]}), source="x")


def test_keys_that_other_systems_take_for_one_file():
    assert ambiguous_keys(["a.png", "b.png", "A/a.png"]) == ()
    (note,) = ambiguous_keys(["é.png", "e\u0301.png", "f.png"])
    assert note.startswith("1 pairs of keys differ only by the Unicode form of their letters") and "macOS" in note
    (note,) = ambiguous_keys(["a/B.png", "A/b.png", "a/b.png"])
    assert note.startswith("2 pairs of keys differ only by upper and lower case") and "'a/B.png' and 'A/b.png'" in note


def test_look_alikes_are_said_when_a_manifest_is_made_and_checked(tmp_path, cli, put):
    for name in ("e\u0301.jpg", "é.jpg", "É.jpg"):
        put(tmp_path / "faces/anger" / name, 1)
    done = cli("manifest", "folder", tmp_path / "faces", "-o", tmp_path / "faces.csv")
    if done.stdout.startswith("3 samples"):  # on a file system that keeps them apart
        assert "Unicode form" in done.stderr and "upper and lower case" in done.stderr
        checked = cli("manifest", "check", tmp_path / "faces.csv", "--root", tmp_path / "faces")
        assert "Unicode form" in checked.stdout


@pytest.mark.parametrize("words", [
    ["csv", "t.csv", "-o", "t.csv"], ["csv", "t.csv", "-o", "./x/../t.csv"], ["csv", "t.csv", "-o", "link.csv"],
    ["split", "t.csv", "-o", "t.csv"], ["merge", "a=t.csv", "b=u.csv", "-o", "u.csv"],
    ["check", "t.csv", "--root", ".", "--group-duplicates", "-o", "t.csv"]])
def test_an_input_is_never_the_output(tmp_path, cli, put, words):
    (tmp_path / "x").mkdir()
    put(tmp_path / "a.png", 1)
    for name in ("t.csv", "u.csv"):
        (tmp_path / name).write_text("key,split,basic,compound,group\n" + "".join(
            f"{key}.png,,anger,,\n" for key in "abcdefgh"))
    (tmp_path / "link.csv").symlink_to("t.csv")
    before = {path: path.read_bytes() for path in tmp_path.glob("*.csv")}
    done = cli("manifest", *words, cwd=tmp_path)
    assert done.returncode == 2 and "is the input: name another output" in done.stderr, done.stderr
    assert {path: path.read_bytes() for path in tmp_path.glob("*.csv")} == before and len(list(tmp_path.iterdir())) == 5


def test_what_is_no_manifest_is_not_written_over(tmp_path, cli, put):
    put(tmp_path / "faces/anger/1.jpg")
    for name, content in (("notes.csv", b"date,weight\n"), ("photo.jpg", b"\xff\xd8\xff\xe0")):
        (tmp_path / name).write_bytes(content)
        done = cli("manifest", "folder", tmp_path / "faces", "-o", tmp_path / name)
        assert done.returncode == 2 and "is there already and is not a manifest" in done.stderr
        assert (tmp_path / name).read_bytes() == content
    for again in range(2):  # a manifest is replaced; so is a file with nothing in it
        assert cli("manifest", "folder", tmp_path / "faces", "-o", tmp_path / "faces.csv").returncode == 0, again
    (tmp_path / "empty").touch()
    assert cli("manifest", "folder", tmp_path / "faces", "-o", tmp_path / "empty").returncode == 0
    with pytest.raises(InputError, match="not a regular file"):
        manifest_output(Path("/dev/null")).check()


def test_a_failure_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and [file.name for file in tmp_path.iterdir()] == ["x.csv"]


def test_a_store_of_faces_named_as_formulas_verifies(tmp_path, cli, put):
    for number, name in enumerate(("-a.jpg", "=b.jpg", "@c.jpg", "plain.jpg")):
        put(tmp_path / "faces/anger" / name, number)
        put(tmp_path / "flat" / name, number)
    (tmp_path / "keys.csv").write_text("key\n-a.jpg\n=b.jpg\n@c.jpg\nplain.jpg\n")
    done = cli("extract", tmp_path / "keys.csv", "--root", tmp_path / "flat", "--store", tmp_path / "store",
               "--backbones", "torchvision:mobilenet_v2", "--weights", "torchvision:mobilenet_v2=random:0", "--device",
               "cpu", "--precision", "fp32", "--batch-size", "4")
    assert done.returncode == 0, done.stderr
    assert "'=b.jpg" in (tmp_path / "store/manifest.csv").read_text()
    verified = cli("cache", "verify", tmp_path / "store", "--root", tmp_path / "flat")
    assert verified.returncode == 0 and "not in" not in verified.stdout, verified.stdout
