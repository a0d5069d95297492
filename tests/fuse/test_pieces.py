"""Files of layers in fuse: whole rows, one chosen piece, and a run on a piece elsewhere."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.fuse.conftest import quick, recipe
from twofold.cache.feature_writer import write_feature_file
from twofold.cache.store import Store
from twofold.data.utils.errors import InputError
from twofold.fuse.core.features import join
from twofold.fuse.core.kinds import Classification
from twofold.fuse.experiment import prepare
from twofold.fuse.fuse import fuse
from twofold.fuse.runs.read import read_run

PIECES = (("1.mean", 3), ("2.mean", 4), ("embedding", 5))
NAME = "timm:a?layers=all"


@pytest.fixture
def layered(make_store) -> Path:
    """A store whose one file has three pieces; the rows are those of a plain file that is no longer there."""
    folder = make_store({"a": ("ab", 12)})
    plain = Store(folder).find("timm:a")
    write_feature_file(folder / "layers.h5", recipe=recipe("a", backbone=NAME, pieces=PIECES), dim=12, keys=plain.keys,
                       sha256=plain.sha256, features=plain.read(), failures={})
    plain.path.unlink()
    return folder


def joined(folder: Path, name: str):
    experiment = prepare([folder], quick(backbones=(name,)))
    return experiment.features.streams[0], experiment.features.read(np.arange(40))


@pytest.mark.parametrize(("name", "columns", "backbone"), [
    (NAME, slice(0, 12), NAME), ("timm:a?layers=all@-2", slice(3, 7), "timm:a?layers=2.mean"),
    (f"{NAME}@2.mean", slice(3, 7), "timm:a?layers=2.mean"), (f"{NAME}@embedding", slice(7, 12), "timm:a"),
    ("timm:a?layers=2.mean", slice(3, 7), "timm:a?layers=2.mean"), ("timm:a", slice(7, 12), "timm:a")])
def test_a_name_takes_whole_rows_or_one_piece(layered, name, columns, backbone):
    rows = Store(layered).find(NAME).read()[:40]
    stream, values = joined(layered, name)
    np.testing.assert_array_equal(values, rows[:, columns])
    assert stream.backbone == stream.recipe.backbone == backbone and stream.dim == columns.stop - columns.start
    assert stream.pieces == (PIECES if columns.stop - columns.start == 12 else
                             () if backbone == "timm:a" else (("2.mean", 4),))
    again = f"{stream.backbone}@{stream.recipe.fingerprint[:8]}"  # as a run records it
    np.testing.assert_array_equal(joined(layered, again)[1], values)


@pytest.mark.parametrize(("name", "said"), [
    (f"{NAME}@-4", "choose from 1.mean, 2.mean, embedding"), (f"{NAME}@x", "no piece 'x'"),
    ("timm:a?layers=all@-0", "no piece")])
def test_a_piece_that_is_not_there_is_one_sentence(layered, name, said):
    with pytest.raises(InputError, match=said):
        joined(layered, name)


def test_a_run_on_a_piece_answers_for_stores_with_that_piece(layered, make_store, tmp_path):
    fuse([layered], quick(backbones=(f"{NAME}@embedding",)), out=tmp_path / "run")
    run = read_run(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["streams"][0]["backbone"] == "timm:a"
    features, notes = run.features(Store(layered))
    rows = Store(layered).find(NAME).read()[:, 7:]
    np.testing.assert_array_equal(features.read(np.arange(len(features))), rows)
    plain = make_store({"a": ("ab", 5)}, name="plain")  # a plain file is the piece `embedding`
    assert not notes and run.features(Store(plain))[0].dim == 5
    fuse([layered], quick(backbones=(f"{NAME}@-1",)), out=tmp_path / "run")  # the same inputs: its own folder, again


def test_pieces_of_two_stores_may_stand_elsewhere_in_their_rows(layered, make_store):
    plain = make_store({"a": ("ab", 5)}, name="plain", seed=1)
    task = Classification(prepare([layered], quick()).features.taxonomy)
    both = join([Store(layered), Store(plain)], backbones=["timm:a"], views=["original"], task=task)
    np.testing.assert_array_equal(both.read(np.array([0, len(both) - 1])), np.stack([
        Store(layered).find(NAME).read()[0, 7:], Store(plain).find("timm:a").read()[-1]]))
