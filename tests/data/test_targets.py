"""Targets of each task: read from text cells, and refused by row and column."""

import numpy as np
import pandas as pd
import pytest

from twofold.data.labels import builtin_taxonomy, load_taxonomy
from twofold.data.manifest import build_manifest
from twofold.data.targets import (
    contradictions,
    default_task,
    multilabel_targets,
    numeric_targets,
    soft_targets,
    target_columns,
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
    np.testing.assert_array_equal(multilabel_targets(faces, ["au_4"], present=2), [[0], [0], [1]])


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
    assert contradictions(faces, load_taxonomy(["anger", "fear"])).tolist() == [True, False, False]
    assert not contradictions(faces, builtin_taxonomy("cexpr7")).any()
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
    with pytest.raises(InputError, match=f"y.csv: row 4, column '{column}': {says}"):
        read(faces, [column], source="y.csv")


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
