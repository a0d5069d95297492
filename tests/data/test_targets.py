"""Targets of each task: read from text cells, and refused by row and column."""

import numpy as np
import pandas as pd
import pytest

from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import build_manifest
from twofold.data.targets import (
    contradictions,
    default_task,
    derive_compounds,
    largest_shares,
    multilabel_targets,
    numeric_targets,
    soft_targets,
    summary_lines,
    target_columns,
    with_derived_compounds,
)
from twofold.data.utils.errors import InputError


def made(**columns):
    return build_manifest(pd.DataFrame({"key": ["a.png", "b.png", "c.png"], **columns}), source="x")


def test_several_labels_at_once_and_intensities():
    faces = made(au_1=["0", "1", ""], au_12=["0.5", "5", "nan"], au_4=["1", "0", " 2 "])
    assert target_columns(faces, "multilabel") == ("au_1", "au_12", "au_4")
    targets = multilabel_targets(faces, ("au_12", "au_1", "au_4"))
    assert targets.dtype == np.float32
    np.testing.assert_array_equal(targets, [[0, 0, 1], [1, 1, 0], [np.nan, np.nan, 1]])


def test_numbers():
    faces = made(valence=["-1", "0.25", ""], age=["30", "", "1e2"])
    assert target_columns(faces, "regression") == ("valence",) and target_columns(faces, "classification") == ()
    targets = numeric_targets(faces, ["age", "valence"])
    assert targets.dtype == np.float32
    np.testing.assert_array_equal(targets, [[30, -1], [np.nan, 0.25], [100, np.nan]])


def test_distributions_and_hard_labels_that_contradict_them():
    faces = made(p_fear=["3", "1", ""], p_anger=["1", "1", "0"], basic=["anger", "fear", "fear"])
    assert target_columns(faces, "distribution") == ("p_fear", "p_anger")
    assert soft_targets(faces, ["anger", "fear"]).tolist() == [[0.25, 0.75], [0.5, 0.5], [0, 0]]
    assert soft_targets(faces, ["sadness", "surprise"]).tolist() == [[0, 0]] * 3
    assert default_task(faces, ["anger", "fear"]) == "distribution"
    assert default_task(faces, ["anger", "sadness"]) == "classification" == default_task(faces, [])
    assert contradictions(faces, "basic", ["anger", "fear"]).tolist() == [True, False, False]
    assert not contradictions(faces, "compound", builtin_taxonomy("cexpr7").classes).any()
    with pytest.raises(InputError, match="no column p_sadness; it has key"):
        soft_targets(faces, ["fear", "sadness"])  # a distribution over other classes


@pytest.mark.parametrize(("read", "column", "cell", "says"), [
    (multilabel_targets, "au_1", "6", "'6' is not a number from 0 to 5"),
    (multilabel_targets, "au_1", "-1", "'-1' is not a number from 0 to 5"),
    (multilabel_targets, "smiles", "yes", "'yes' is not a number from 0 to 5"),
    (numeric_targets, "valence", "-2", "'-2' is not a number from -1 to 1"),
    (numeric_targets, "arousal", "inf", "'inf' is not a number from -1 to 1"),
    (numeric_targets, "age", "1e99", "'1e99' is not a number from"),
    (numeric_targets, "age", "old", "'old' is not a number from")])
def test_a_wrong_cell_is_named_by_row_and_column(read, column, cell, says):
    faces = made(**{column: ["0", "", cell]})
    with pytest.raises(InputError, match=f"the manifest: row 4, column '{column}': {says}"):
        read(faces, [column])


def test_columns_that_are_not_there():
    faces = made()
    for task, says in (("multilabel", "no column au_<number>"), ("regression", "no column valence or arousal"),
                       ("ranking", "unknown task 'ranking': choose from classification, distribution")):
        with pytest.raises(InputError, match=says):
            target_columns(faces, task)
    with pytest.raises(InputError, match="no column au_9; it has key"):
        multilabel_targets(faces, ["au_9"])
    with pytest.raises(InputError, match="no columns of labels"):
        numeric_targets(faces, [])


def test_a_face_of_other_expressions_has_no_soft_label_of_these():
    faces = made(p_neutral=["6", "5", "0"], p_fear=["4", "4", "1"], p_anger=["0", "1", ""],
                 p_happily_surprised=["9"] * 3)
    assert soft_targets(faces, ["fear", "anger"]).tolist() == [[0, 0], pytest.approx([0.8, 0.2]), [1, 0]]
    assert soft_targets(faces, ["neutral", "fear", "anger"]).any(axis=1).all()


def test_faces_of_which_unknown_or_no_face_wins_have_no_soft_label():
    """As FER+'s authors leave them out."""
    faces = made(p_fear=["3", "2", "5"], p_anger=["4", "1", "0"], p_unknown=["4", "3", "1"], p_NF=["0", "0", "6"])
    assert soft_targets(faces, ["anger"]).tolist() == [[1], [0], [0]]
    np.testing.assert_allclose(soft_targets(faces, ["anger", "fear"]), [[4 / 7, 3 / 7], [0, 0], [0, 0]])
    assert soft_targets(faces, ["fear", "anger", "unknown", "NF"])[1].tolist() == [np.float32(2 / 6), np.float32(1 / 6),
                                                                                   0.5, 0]
    assert largest_shares(faces, ["fear", "anger"]).tolist() == ["anger", "", ""]
    assert largest_shares(faces, []).tolist() == ["", "", ""]


def test_compounds_contradict_shares_of_other_emotions():
    soft = {"p_fear": ["4", "4", "0"], "p_surprise": ["3", "3", "0"], "p_sadness": ["0", "3", "6"],
            "p_neutral": ["9", "0", "0"], "p_contempt": ["5", "0", "0"]}
    faces = made(**soft, compound=["fearfully_surprised", "fearfully_surprised", "sadly_surprised"])
    assert contradictions(faces, "compound", faces.soft_classes).tolist() == [False, False, False]
    wrong = made(**soft, compound=["sadly_fearful", "", "fearfully_surprised"])
    assert contradictions(wrong, "compound", faces.soft_classes).tolist() == [True, False, True]
    assert "          2 of them contradict the label in column compound" in summary_lines(wrong)


def test_compounds_are_derived_from_any_shares_by_a_rule_that_can_be_changed(tmp_path, cli):
    shares = np.array([[0.3, 0.2, 0.25, 0.25], [0.5, 0.18, 0.1, 0.22], [0.35, 0.35, 0.3, 0.0]])
    classes = ("happiness", "surprise", "neutral", "anger")
    assert derive_compounds(shares, classes).tolist() == ["happily_angry", "happily_angry", "happily_surprised"]
    assert derive_compounds(shares, classes, second=0.23).tolist() == ["happily_angry", "", "happily_surprised"]
    assert derive_compounds(shares, classes, over_neutral=0.1).tolist() == ["", "happily_angry", ""]
    assert derive_compounds(shares, classes, both=0.71).tolist() == ["", "happily_angry", ""]
    assert not derive_compounds(shares[:, :1], classes[:1], second=0, both=0).any()  # one emotion is no pair
    faces = made(p_happiness=["6", "2", ""], p_surprise=["14", "2", ""], compound=["", "sadly_angry", ""])
    faces.table.to_csv(tmp_path / "soft.csv", index=False)
    done = cli("manifest", "derive", tmp_path / "soft.csv", "-o", tmp_path / "hard.csv", "--second", "0.3")
    table = pd.read_csv(tmp_path / "hard.csv", keep_default_na=False)
    assert table["compound"].tolist() == ["happily_surprised", "sadly_angry", ""] and done.returncode == 0
    assert table["compound_rule"].tolist() == ["derived: 0.3, 0.5, 0", "", ""]
    assert "1 samples keep a compound label that differs from the derived one" in done.stderr
    with pytest.raises(InputError, match="no soft labels of basic emotions"):
        with_derived_compounds(made(), second=0.2, both=0.5, over_neutral=0)


def test_the_summary_counts_numbers_and_names_what_is_none():
    faces = made(au_1=["1", "0", ""], au_2=["3", "", ""], valence=["-0.5", "", "0"], label=["x", "", "x"])
    lines = summary_lines(faces, ("label",))
    assert "label     2 labelled: x 2" in lines
    assert ("numbers   2 samples have action units, share of samples that show each: au_1 0.50, au_2 1.00" in lines
            and "numbers   2 samples have mean: valence -0.25" in lines)
    assert ("numbers   the manifest: row 2, column 'au_1': '9' is not a number from 0 to 5"
            in summary_lines(made(au_1=["9", "0", ""])))
