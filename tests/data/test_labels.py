"""Emotions, compounds, spellings and official numbers; classes of the user's own: read, refused, listed, recorded."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.data.labels import (
    ADVERBS,
    BASIC,
    NOUNS,
    TAXONOMIES,
    basic_emotions,
    basic_pair,
    builtin_taxonomy,
    canonical_label,
    label_column,
    load_taxonomy,
    taxonomy_from_labels,
    taxonomy_from_record,
    taxonomy_record,
)
from twofold.data.manifest import read_manifest
from twofold.data.readers.csv import read_csv
from twofold.data.readers.folder import read_folder
from twofold.data.utils.errors import InputError


@pytest.fixture
def toml(tmp_path):
    def write(text: str):
        path = tmp_path / "own.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


@pytest.mark.parametrize(("name", "size", "numbers"), [
    ("cexpr7", 7, {0: "fearfully_surprised", 6: "sadly_angry"}),
    ("rafdb11", 11, {1: "happily_surprised", 9: "angrily_surprised"}),
    ("rafce14", 14, {8: "fearfully_disgusted", 13: "happily_sad"}), ("basic7", 7, {1: "surprise", 7: "neutral"}),
    ("basic8", 8, {7: "contempt", 0: "neutral"})])
def test_official_numbers(name, size, numbers):
    classes = builtin_taxonomy(name)
    assert len(set(classes.classes)) == len(classes.classes) == len(classes.numbers) == size
    for number, label in numbers.items():
        assert classes.label(number) == label
    assert [canonical_label(label) for label in classes.classes] == list(classes.classes)
    assert {label_column(label) for label in classes.classes} == {classes.target}
    assert {emotion for basics in classes.basics for emotion in basics} <= set(BASIC)


def test_errors_list_what_there_is(tmp_path):
    (tmp_path / "folder.toml").mkdir()
    for ask, says in (
            (lambda: builtin_taxonomy("cexpr"), "cexpr7, rafdb11, rafce14, basic7, basic8"),
            (lambda: builtin_taxonomy("rafdb11").label(12), r"12 is not a class number of rafdb11 \(1 to 11\)"),
            (lambda: load_taxonomy("no.toml"), r"no\.toml: no such file"),
            (lambda: load_taxonomy(str(tmp_path / "folder.toml")), "not a TOML of classes"),
            (lambda: load_taxonomy("cexpr"), r"unknown classes 'cexpr'.*or a FILE\.toml"),
            (lambda: load_taxonomy("from-data"), "only `fuse` and `sweep`")):
        with pytest.raises(InputError, match=says):
            ask()


@given(st.sampled_from(sorted(ADVERBS)), st.sampled_from(sorted(NOUNS)))
def test_a_compound_is_two_different_emotions(adverb, noun):
    same = ADVERBS[adverb] == NOUNS[noun]
    assert basic_emotions(f"{adverb}_{noun}") == (() if same else (ADVERBS[adverb], NOUNS[noun]))


@pytest.mark.parametrize("text", ["happiness", "happily", "happy_surprised", "happily surprised", "", "_", "a_b_c"])
def test_what_is_no_compound(text):
    with pytest.raises(InputError, match="as happily_surprised"):
        basic_pair(text)
    assert basic_emotions(text) == (("happiness",) if text == "happiness" else ())


@pytest.mark.parametrize(("label", "name"), [
    ("happy", "happiness"), ("Sad", "sadness"), ("JOY", "happiness"), ("angry", "anger"), ("Suprise", "surprise"),
    ("Happily Surprised", "happily_surprised"), ("happily-surprised", "happily_surprised"),
    ("HappilySurprised", "happily_surprised"), ("sad angry", "sadly_angry"), ("fear+surprise", "fearfully_surprised"),
    ("surprise_happy", "surprisedly_happy"), ("happy_happy", "happy_happy"), ("neutral_happy", "neutral_happy"),
    ("4", "4"), ("", ""), (" contempt ", "contempt"), ("appalled", "appalled"), ("afraid", "fear")])
def test_labels_as_people_write_them(label, name):
    assert canonical_label(label) == name


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
    for each in (*TAXONOMIES, classes):
        assert taxonomy_from_record(json.loads(json.dumps({"taxonomy": taxonomy_record(each)}))) == each


@pytest.mark.parametrize(("names", "target"), [
    ('["happily_surprised", "sadly_angry"]', "compound"), ('["fear", "neutral"]', "basic"),
    ('["neutral", "sadly_angry"]', "label"), ('["AU1+2", "AU4"]', "label")])
def test_the_column_follows_from_the_names(toml, names, target):
    assert load_taxonomy(toml(f"classes = {names}")).target == target


JOY = 'classes = ["joy", "fun"]\n'
REFUSED = {
    "is listed twice": ['classes = ["joy", "joy"]', 'classes = ["col\u00e8re", "cole\u0300re"]'],  # Unicode's two forms
    "[01] class.*: 2 to 500 are needed": ['classes = ["joy"]', "classes = []"],
    "classes must be a list of names": ['name = "x"', "classes = [1, 2]"],
    "'' is not 1 to 100 characters long": ['classes = ["joy", ""]'],
    "has control characters": [f'classes = ["joy", "{name}"]' for name in ("a\\u0007b", "a\\nb", "\\u202eyoj")],
    "begins with '.': spreadsheets take that": [f'classes = ["joy", "{first}joy"]' for first in "=+-@"],
    "is the name of a column of our tables": [f'classes = ["joy", "{name}"]' for name in ("top3", "group")],
    "unknown colour: keys are name, target, classes, numbers, pairs": [f'{JOY}colour = "red"'],
    "the target .* is no column of labels": [f'{JOY}target = "key"', f"{JOY}target = 3", f'{JOY}target = ""'],
    "'joy' is none: put labels of your own in a column": ['classes = ["joy", "fear"]\ntarget = "basic"'],
    "'fear' is none": ['classes = ["fear", "sadly_angry"]\ntarget = "compound"'],
    "is taken by a built-in taxonomy": [f'{JOY}name = "cexpr7"'],
    "cannot stand in a table": [f'{JOY}name = "=x"', f"{JOY}name = 7"],
    "a list of 2 different whole numbers": [f"{JOY}numbers = {value}" for value in (
        "[1]", "[1, 1]", "[true, 2]", "[-1, 2]")],
    "pairs must be a table": [f"{JOY}pairs = 3"],
    "pairs has 'jo', which is not one of the classes": [f'{JOY}[pairs]\njo = ["fear", "anger"]'],
    "two different basic emotions are needed": [f"{JOY}[pairs]\njoy = {two}" for two in (
        '["joy", "anger"]', '["anger", "anger"]', '["anger"]', '[["anger"], 2]')],
    "is sadness and anger, as its name": ['classes = ["sadly_angry", "fun"]\npairs.sadly_angry = ["fear", "anger"]'],
    "not a TOML of classes": ["classes = ["]}


@pytest.mark.parametrize(("text", "message"), [(text, message) for message, texts in REFUSED.items() for text in texts])
def test_what_is_refused_says_which_file_and_what(toml, text, message):
    with pytest.raises(InputError, match=r"own\.toml: .*" + message):
        load_taxonomy(toml(text))


def test_classes_from_the_labels_as_they_stand():
    assert taxonomy_from_labels(["b", "", "a", "b"], target="mood").classes == ("a", "b")
    assert taxonomy_from_labels(["10", "2", "1"], target="mood").classes == ("1", "2", "10")
    assert taxonomy_from_labels(["1", "-1", "0", "-0.5", "nan"], target="mood").classes == ("-1", "-0.5", "0", "1")
    own = taxonomy_from_labels(["sadly_angry", "happily_surprised"], target="compound")
    assert (own.name, own.target, own.basics[0]) == ("from-data", "compound", ("happiness", "surprise"))
    for labels, message in ((["a", ""], "1 class"), ([], "0 classes"), (["=a", "b"], "formula"),
                            ([f"{k}.png" for k in range(501)], "501 classes: 2 to 500")):
        with pytest.raises(InputError, match=f"the labels in the column 'mood': .*{message}"):
            taxonomy_from_labels(labels, target="mood")


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


def test_the_verb_lists_every_class_with_its_number(toml, cli):
    out = cli("manifest", "classes").stdout
    assert all(f"{classes.name} ({classes.target}" in out for classes in TAXONOMIES)
    assert "   9  angrily_surprised      anger + surprise" in out
    record, = json.loads(cli("manifest", "classes", "rafdb11", "--json").stdout)["taxonomies"]
    assert record["numbers"] == list(range(1, 12)) and record["parts"][0] == ["happiness", "surprise"]
    own = cli("manifest", "classes", toml('classes = ["a", "b"]'))
    assert "own (label, the manifest's column of that name), 2 classes" in own.stdout
    assert cli("manifest", "classes", "nonsense").returncode == 2


def test_class_folders_in_another_language_also_as_macos_spells_them(toml, tmp_path, put, cli):
    for place in ("train/joie/0.png", "test/cole\u0300re/1.png", "train/joie/2.png"):  # the second one is decomposed
        put(tmp_path / "faces" / place)
    out, own = tmp_path / "faces.csv", toml('classes = ["joie", "col\u00e8re"]')
    words = ("manifest", "folder", tmp_path / "faces", "-o", out)
    assert "label     3 labelled: joie 2, col\u00e8re 1" in cli(*words, "--classes", own).stdout
    table = read_manifest(out).table
    assert sorted(table["label"]) == ["col\u00e8re", "joie", "joie"] and set(table["basic"]) == {""}
    assert "for classes of your own --classes FILE.toml" in cli(*words).stderr
    put(tmp_path / "faces/train/ennui/4.png")
    refused = cli(*words, "--classes", own)
    assert refused.returncode == 2
    assert "'ennui' is neither a basic nor a compound expression nor one of joie" in refused.stderr


def test_a_table_with_a_column_of_own_labels(toml, tmp_path):
    table = tmp_path / "t.csv"

    def read(text: str, own: str):
        table.write_text(text, encoding="utf-8")
        return read_csv(table, key="image", classes=toml(own)).table

    numbered, below = 'target = "au"\nclasses = ["AU1+2", "AU4"]\nnumbers = [12, 4]', 'classes = ["-1", "0", "-0.5"]'
    made = read("image,au,basic\na.png,AU4,\nb.png,12,\nc.png,,\nd.png,-1,\n", numbered)
    assert made["au"].tolist() == ["AU4", "AU1+2", "", ""]
    assert read("image,label\na.jpg,-1\nb.jpg,0\nc.jpg,-0.5\n", below)["label"].tolist() == ["-1", "0", "-0.5"]
    for text, says in (
            ("image,au\na.png,AU4\nb.png,AU9\n", r"row 3, column 'au': 'AU9' is not one of the classes of own: AU1\+2"),
            ("image,label\na.png,AU4\n", "no column 'au', the target of --classes own; it has key, label")):
        with pytest.raises(InputError, match=says):
            read(text, numbered)


def test_missing_values_among_own_labels_are_counted(tmp_path):
    (tmp_path / "x.csv").write_text("key,label\na.png,calm\nb.png,NA\nc.png,tense\n")
    faces = read_csv(tmp_path / "x.csv", classes="calm,tense")
    assert faces.table["label"].tolist() == ["calm", "", "tense"]
    assert "column label: 1 cells such as 'NA' are taken as missing" in faces.notes


def test_labels_are_mapped_in_either_unicode_form(tmp_path, put):
    composed, other = "fr\u00f6hlich", "fro\u0308hlich"
    (tmp_path / "x.csv").write_text(f"key,basic,v_{other}\na.png,{other},1\n")
    put(tmp_path / "d" / other / "a.jpg")
    for word in (composed, other):
        assert read_csv(tmp_path / "x.csv", label_map=[f"{word}=happiness"]).table["basic"].tolist() == ["happiness"]
        assert read_csv(tmp_path / "x.csv", soft="v_", basic="none",
                        label_map=[f"{word}=happiness"]).soft_classes == ("happiness",)
        assert read_folder(tmp_path / "d", label_map=[f"{word}=happiness"]).table["basic"].tolist() == ["happiness"]
