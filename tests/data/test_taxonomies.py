"""Classes of the user's own: read, refused, listed, written down and read back."""

import json

import pytest

from twofold.data.labels import (
    BASIC,
    TAXONOMIES,
    basic_emotions,
    basic_pair,
    load_taxonomy,
    taxonomy_from_labels,
    taxonomy_from_record,
    taxonomy_record,
)
from twofold.data.manifest import read_manifest
from twofold.data.readers.csv import read_csv
from twofold.data.utils.errors import InputError
from twofold.pipeline import main


@pytest.fixture
def toml(tmp_path):
    def write(text: str):
        path = tmp_path / "own.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_emotions_in_another_language(toml):
    classes = load_taxonomy(toml('classes = ["joie", "colère", "می\u200cخندد"]'))
    assert (classes.name, classes.target) == ("own", "label")
    assert classes.classes == ("joie", "colère", "می\u200cخندد") and classes.numbers == (0, 1, 2)
    assert classes.basics == ((), (), ())


def test_blends_with_pairs_and_numbers(toml):
    classes = load_taxonomy(toml('name = "blends"\ntarget = "blend"\nnumbers = [3, 1]\n'
                                 'classes = ["bittersweet", "angrily_surprised"]\n'
                                 '[pairs]\nbittersweet = ["happiness", "sadness"]'))
    assert (classes.name, classes.target, classes.numbers) == ("blends", "blend", (3, 1))
    assert classes.basics == (("happiness", "sadness"), ("anger", "surprise"))
    assert classes.label(1) == "angrily_surprised"


@pytest.mark.parametrize(("names", "target"), [
    ('["happily_surprised", "sadly_angry"]', "compound"), ('["fear", "neutral"]', "basic"),
    ('["neutral", "sadly_angry"]', "label"), ('["AU1+2", "AU4"]', "label")])
def test_the_column_follows_from_the_names(toml, names, target):
    assert load_taxonomy(toml(f"classes = {names}")).target == target


def test_one_name_in_both_of_unicodes_forms_is_one_class(toml):
    with pytest.raises(InputError, match=r"own\.toml: the class 'colère' is listed twice"):
        load_taxonomy(toml('classes = ["col\u00e8re", "cole\u0300re"]'))


@pytest.mark.parametrize(("text", "message"), [
    ('classes = ["joy", "joy"]', "'joy' is listed twice"),
    ('classes = ["joy"]', "1 class: 2 to 500 are needed"),
    ("classes = []", "0 classes: 2 to 500 are needed"),
    ('name = "x"', "classes must be a list of names"),
    ("classes = [1, 2]", "classes must be a list of names"),
    ('classes = ["joy", ""]', "'' is not 1 to 100 characters long"),
    ('classes = ["joy", "a\\u0007b"]', "has control characters"),
    ('classes = ["joy", "a\\nb"]', "has control characters"),
    ('classes = ["joy", "\\u202eyoj"]', "has control characters"),
    ('classes = ["joy", "=1+1"]', "begins with '=': spreadsheets take that for a formula"),
    ('classes = ["joy", "+joy"]', r"begins with '\+'"),
    ('classes = ["joy", "-joy"]', "begins with '-'"),
    ('classes = ["joy", "@joy"]', "begins with '@'"),
    ('classes = ["joy", "prediction"]', "is the name of a column of our tables"),
    ('classes = ["joy", "top3"]', "is the name of a column of our tables"),
    ('classes = ["joy", "fun"]\ncolour = "red"', "unknown colour: keys are name, target, classes, numbers, pairs"),
    ('classes = ["joy", "fun"]\ntarget = "key"', "the target 'key' is no column of labels"),
    ('classes = ["joy", "fun"]\ntarget = 3', "the target 3 is no column of labels"),
    ('classes = ["joy", "fear"]\ntarget = "basic"', "'joy' is none: put labels of your own in a column of their own"),
    ('classes = ["fear", "sadly_angry"]\ntarget = "compound"', "'fear' is none"),
    ('classes = ["joy", "fun"]\nname = "cexpr7"', "is taken by a built-in taxonomy"),
    ('classes = ["joy", "fun"]\nname = "=x"', "cannot stand in a table"),
    ('classes = ["joy", "fun"]\nname = 7', "cannot stand in a table"),
    ('classes = ["joy", "fun"]\nnumbers = [1]', "a list of 2 different whole numbers"),
    ('classes = ["joy", "fun"]\nnumbers = [1, 1]', "a list of 2 different whole numbers"),
    ('classes = ["joy", "fun"]\nnumbers = [true, 2]', "a list of 2 different whole numbers"),
    ('classes = ["joy", "fun"]\nnumbers = [-1, 2]', "a list of 2 different whole numbers"),
    ('classes = ["joy", "fun"]\npairs = 3', "pairs must be a table"),
    ('classes = ["joy", "fun"]\n[pairs]\njo = ["fear", "anger"]', "pairs has 'jo', which is not one of the classes"),
    ('classes = ["joy", "fun"]\n[pairs]\njoy = ["joy", "anger"]', "two different basic emotions are needed"),
    ('classes = ["joy", "fun"]\n[pairs]\njoy = ["anger", "anger"]', "two different basic emotions are needed"),
    ('classes = ["joy", "fun"]\n[pairs]\njoy = ["anger"]', "two different basic emotions are needed"),
    ('classes = ["joy", "fun"]\n[pairs]\njoy = [["anger"], 2]', "two different basic emotions are needed"),
    ('classes = ["sadly_angry", "fun"]\n[pairs]\nsadly_angry = ["fear", "anger"]', "is sadness and anger, as its name"),
    ("classes = [", "not a TOML of classes")])
def test_what_is_refused_says_which_file_and_what(toml, text, message):
    with pytest.raises(InputError, match=r"own\.toml: .*" + message):
        load_taxonomy(toml(text))


def test_a_missing_file_a_folder_and_an_unknown_name(tmp_path):
    with pytest.raises(InputError, match=r"no\.toml: no such file"):
        load_taxonomy(str(tmp_path / "no.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(InputError, match="not a TOML of classes"):
        load_taxonomy(str(tmp_path / "folder.toml"))
    with pytest.raises(InputError, match=r"unknown classes 'cexpr'.*or give a FILE\.toml"):
        load_taxonomy("cexpr")
    with pytest.raises(InputError, match="only `fuse` and `sweep`"):
        load_taxonomy("from-data")


def test_classes_from_the_labels_as_they_stand():
    assert taxonomy_from_labels(["b", "", "a", "b"], target="mood").classes == ("a", "b")
    assert taxonomy_from_labels(["10", "2", "1"], target="mood").classes == ("1", "2", "10")
    own = taxonomy_from_labels(["sadly_angry", "happily_surprised"], target="compound")
    assert (own.name, own.target, own.basics[0]) == ("from-data", "compound", ("happiness", "surprise"))
    for labels, message in ((["a", ""], "1 class"), ([], "0 classes"), (["=a", "b"], "formula"),
                            ([f"{k}.png" for k in range(501)], "501 classes: 2 to 500")):
        with pytest.raises(InputError, match=f"the labels in the column 'mood': .*{message}"):
            taxonomy_from_labels(labels, target="mood")


def test_a_record_reads_back(toml):
    own = load_taxonomy(toml('classes = ["bittersweet", "calm"]\n[pairs]\nbittersweet = ["happiness", "sadness"]'))
    for classes in (*TAXONOMIES, own):
        assert taxonomy_from_record(json.loads(json.dumps({"taxonomy": taxonomy_record(classes)}))) == classes


@pytest.mark.parametrize(("record", "message"), [
    ([], "no classes"), ({}, "no classes are recorded"), ({"taxonomy": 3}, "no classes"), ({"taxonomy": {}}, "damaged"),
    ({"taxonomy": {"source": "x", "name": "own"}}, "unknown classes"),
    ({"taxonomy": {"name": "x", "classes": ["a", "b"], "parts": [[]]}}, "damaged"),
    ({"taxonomy": {"name": "x", "classes": ["a", "=b"], "parts": [[], []]}}, "formula"),
    ({"taxonomy": {"name": "x", "classes": ["a", ["b"]], "parts": [[], []]}}, "list of names"),
    ({"taxonomy": {"name": "x", "classes": ["a", "b"], "parts": [["joy", 3], []]}}, "two different basic")])
def test_what_a_stranger_wrote_is_checked(record, message):
    with pytest.raises(InputError, match=message):
        taxonomy_from_record(record)


def test_parts_of_any_text():
    assert basic_emotions("happily_surprised") == basic_pair("happily_surprised") == ("happiness", "surprise")
    assert basic_emotions("fear") == ("fear",)
    assert [basic_emotions(text) for text in ("happily_happy", "a_b", "happily", "_", "", "joie")] == [()] * 6


def test_the_verb_lists_every_class_with_its_number(toml, capsys):
    assert main(["manifest", "classes"]) == 0
    out = capsys.readouterr().out
    for classes in TAXONOMIES:
        assert f"{classes.name} ({classes.target})" in out
    assert "   9  angrily_surprised      anger + surprise" in out
    assert main(["manifest", "classes", "rafdb11", "--json"]) == 0
    record, = json.loads(capsys.readouterr().out)["taxonomies"]
    assert record["numbers"] == list(range(1, 12))
    assert {basic for names in record["parts"] for basic in names} <= set(BASIC)
    assert main(["manifest", "classes", str(toml('classes = ["a", "b"]'))]) == 0
    assert "own (label, the manifest's column of that name), 2 classes" in capsys.readouterr().out
    assert main(["manifest", "classes", "nonsense"]) == 2


# ---------------------------------------------------------------------------------------- readers with own classes


def test_class_folders_in_another_language_also_as_macos_spells_them(toml, tmp_path, capsys):
    for number, name in enumerate(["joie", "cole\u0300re", "joie"]):  # the second one in decomposed form
        place = tmp_path / "faces" / ("train", "test")[number % 2] / name
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes(b"x")
    out, own = tmp_path / "faces.csv", toml('classes = ["joie", "col\u00e8re"]')
    assert main(["manifest", "folder", str(tmp_path / "faces"), "-o", str(out), "--classes", str(own)]) == 0
    assert "label     3 labelled: joie 2, col\u00e8re 1" in capsys.readouterr().out
    table = read_manifest(out).table
    assert sorted(table["label"]) == ["col\u00e8re", "joie", "joie"] and set(table["basic"]) == {""}
    assert main(["manifest", "folder", str(tmp_path / "faces"), "-o", str(out)]) == 2
    assert "for classes of your own --classes FILE.toml" in capsys.readouterr().err
    (tmp_path / "faces" / "train" / "ennui").mkdir()
    (tmp_path / "faces" / "train" / "ennui" / "4.png").write_bytes(b"x")
    assert main(["manifest", "folder", str(tmp_path / "faces"), "-o", str(out), "--classes", str(own)]) == 2
    assert "'ennui' is neither a basic nor a compound expression nor one of joie" in capsys.readouterr().err


def test_a_table_with_a_column_of_own_labels(toml, tmp_path):
    own = str(toml('target = "au"\nclasses = ["AU1+2", "AU4"]\nnumbers = [12, 4]'))
    table = tmp_path / "t.csv"
    table.write_text("image,au,basic\na.png,AU4,\nb.png,12,\nc.png,,\nd.png,-1,\n", encoding="utf-8")
    assert read_csv(table, key="image", classes=own).table["au"].tolist() == ["AU4", "AU1+2", "", ""]
    table.write_text("image,au\na.png,AU4\nb.png,AU9\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"row 3, column 'au': 'AU9' is not one of the classes of own: AU1\+2, AU4"):
        read_csv(table, key="image", classes=own)
    table.write_text("image,label\na.png,AU4\n", encoding="utf-8")
    with pytest.raises(InputError, match="no column 'au', the target of --classes own; it has key, label"):
        read_csv(table, key="image", classes=own)


def test_splits_keep_the_proportions_of_an_own_column(tmp_path, capsys):
    faces = tmp_path / "faces.csv"
    faces.write_text("key,mood\n" + "".join(f"{k}.png,{'ab'[k % 4 == 0]}\n" for k in range(200)), encoding="utf-8")
    out = tmp_path / "split.csv"
    assert main(["manifest", "split", str(faces), "-o", str(out), "--target", "mood"]) == 0
    table = read_manifest(out).table
    assert (table.loc[table["split"] == "test", "mood"] == "b").mean() == pytest.approx(0.25, abs=0.03)
    assert main(["manifest", "split", str(faces), "-o", str(out), "--target", "key"]) == 2
    assert "choose from auto, compound, basic, mood" in capsys.readouterr().err
