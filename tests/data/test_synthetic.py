"""Drawn faces: the same by seed, different by person, and readable by what moves."""

import numpy as np
import pytest

from twofold.data.labels import BASIC, basic_pair, builtin_taxonomy
from twofold.data.manifest import read_manifest, write_manifest
from twofold.data.synthetic.dataset import BASIC_UNITS, action_units, draw_dataset, draw_face
from twofold.data.targets import numeric_targets, soft_targets, target_columns


def drawn(*emotions: str, identity: int = 3, seed: int = 0, size: int = 96) -> np.ndarray:
    return np.asarray(draw_face(identity=identity, emotions=emotions, size=size, seed=seed), int)


def test_a_face_is_coloured_deterministic_and_its_own():
    face = drawn("fear")
    assert face.shape == (96, 96, 3) and np.ptp(face, axis=2).mean() > 10 and (face == drawn("fear")).all()
    for other in (drawn("fear", seed=1), drawn("fear", identity=4), drawn("anger")):
        assert np.abs(face - other).mean() > 0.5
    cheeks = np.stack([drawn("neutral", identity=person)[60:70, 40:56].mean(axis=(0, 1)) for person in range(12)])
    assert cheeks.std(axis=0).min() > 10


def region(face: np.ndarray, rows: slice, columns: slice = slice(25, 71)) -> np.ndarray:
    return face[rows, columns].mean(axis=2)


def test_action_units_move_what_they_are_said_to():
    """Averaged over people: the mouth opens in surprise, eyes widen in fear and narrow in happiness."""
    def dark(rows: slice, *emotions: str) -> float:
        return float(np.mean([(region(drawn(*emotions, identity=person, seed=person), rows) < 70).mean()
                              for person in range(12)]))

    def white(*emotions: str) -> float:
        return float(np.mean([(drawn(*emotions, identity=person, seed=person)[38:56, 25:71].min(axis=2) > 215).mean()
                              for person in range(12)]))
    mouth = slice(62, 86)
    assert dark(mouth, "surprise") > 1.5 * dark(mouth, "neutral")
    assert white("fear") > 1.3 * white("neutral") > white("happiness")


def test_units_of_a_compound_are_the_union():
    union = action_units(basic_pair("happily_surprised"))
    assert set(union) == set(BASIC_UNITS["happiness"]) | set(BASIC_UNITS["surprise"])
    assert union[12] == BASIC_UNITS["happiness"][12] and action_units(("neutral",)) == {}
    assert set(BASIC_UNITS) == set(BASIC)


@pytest.mark.parametrize("name", ["cexpr7", "basic7"])
def test_a_dataset_with_its_manifest(tmp_path, name):
    classes = builtin_taxonomy(name)
    faces = draw_dataset(tmp_path / "faces", taxonomy=classes, per_class=10, size=32, seed=1)
    assert len(faces) == 10 * len(classes.classes)
    assert faces.table[classes.target].value_counts().to_dict() == dict.fromkeys(classes.classes, 10)
    assert faces.table.groupby("group")["split"].nunique().max() == 1
    assert set(faces.table["split"]) == {"train", "val", "test"}
    assert all((tmp_path / "faces" / key).is_file() for key in faces.keys)
    write_manifest(faces, tmp_path / "faces.csv")
    assert read_manifest(tmp_path / "faces.csv").keys == faces.keys


def test_expressions_can_be_told_apart_on_people_never_seen():
    """A ridge classifier on small grey pictures: far above chance, which is 1 of 7."""
    classes = builtin_taxonomy("cexpr7").classes

    def seen(people: range) -> tuple[np.ndarray, np.ndarray]:
        told = [(person, place) for person in people for place in range(7)]
        drawn = [draw_face(identity=person, emotions=basic_pair(classes[place]), size=64, seed=person * 7 + place)
                 for person, place in told]
        faces = np.stack([face.convert("L") for face in drawn]).astype(float)[:, 14:58, 14:50]
        small = faces.reshape(-1, 22, 2, 18, 2).mean(axis=(2, 4)).reshape(len(told), -1)
        return ((small - small.mean(axis=1, keepdims=True)) / small.std(axis=1, keepdims=True),
                np.array([place for _, place in told]))

    (train, told), (test, truth) = seen(range(36)), seen(range(36, 48))
    centre = train.mean(axis=0)
    train, test = train - centre, test - centre
    weights = np.linalg.solve(train.T @ train + 100 * np.eye(train.shape[1]), train.T @ (np.eye(7)[told] - 1 / 7))
    assert ((test @ weights).argmax(axis=1) == truth).mean() > 0.5


def test_what_was_drawn_is_known_where_it_is_asked_for(tmp_path, cli):
    words = ["manifest", "drawn", tmp_path / "faces", "--people", "6", "--size", "32", "-o", tmp_path / "faces.csv"]
    assert cli(*words, "--truth").returncode == 0
    table = read_manifest(tmp_path / "faces.csv").table
    faces = read_manifest(tmp_path / "faces.csv")
    shares = soft_targets(faces, BASIC)
    for row, label in enumerate(table["compound"]):
        first, second = (BASIC.index(name) for name in basic_pair(label))
        assert sorted(shares[row].tolist())[-2:] == sorted([shares[row, first], shares[row, second]])
    assert set(np.unique(shares.max(axis=1)).round(6)) == {0.5, np.float32(0.7).round(6)}
    units = numeric_targets(faces, target_columns(faces, "multilabel"))
    assert units.min() == 0 and 4 < units.max() <= 5
    fear = (table["compound"] == "sadly_fearful").to_numpy()
    assert (units[fear][:, [name == "au_12" for name in target_columns(faces, "multilabel")]] == 0).all()
    affect = numeric_targets(faces, ["valence", "arousal"])
    assert affect[fear, 0].max() < 0 < affect[(table["compound"] == "happily_surprised").to_numpy(), 0].min()
    done = cli(*words, "--overwrite")
    assert done.returncode == 2 and "is not a new or empty folder" in done.stderr


def test_a_larger_share_moves_more():
    equal, mostly = action_units(("happiness", "sadness")), action_units(("happiness", "sadness"), (0.7, 0.3))
    assert mostly[12] == equal[12] == 1 and mostly[15] == pytest.approx(3 / 7) and equal[15] == 1
    first = [drawn("happiness", "surprise", identity=7)] + [
        np.asarray(draw_face(identity=7, emotions=("happiness", "surprise"), size=96, seed=0, shares=shares), int)
        for shares in ((0.5, 0.5), (0.7, 0.3))]
    assert (first[0] == first[1]).all() and np.abs(first[0] - first[2]).mean() > 0.5


def test_the_faces_of_demonstrations_stay_the_same():
    means = [drawn(name, identity=9, seed=1, size=48).mean() for name in BASIC]
    assert means == pytest.approx([164.14, 153.45, 169.73, 168.7, 157.49, 146.62, 146.71, 162.86], abs=0.02)
