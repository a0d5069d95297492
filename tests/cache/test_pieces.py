"""Rows of several pieces: layers or tokens of one backbone."""

import h5py
import numpy as np
import pytest

from tests.cache.conftest import make_recipe, put
from twofold.cache.errors import CacheError, DamagedFile
from twofold.cache.export import export_format, join_files
from twofold.cache.feature_file import FeatureFile
from twofold.cache.merge import merge
from twofold.cache.recipe import Recipe
from twofold.cache.store import Store
from twofold.cache.verify import verify

LAYERS = {"backbone": "timm:tiny?size=96&layers=all", "pieces": (("1.mean", 4), ("2.mean", 4), ("embedding", 4))}
STAGES = {"backbone": "timm:tiny?layers=all", "pieces": (("1.mean", 2), ("2.mean", 3), ("embedding", 7))}
ROWS = np.arange(600).reshape(50, 12) / 64
KEYS = [f"{row:02d}.png" for row in range(50)]


@pytest.mark.parametrize(("how", "shape"), [(LAYERS, (50, 3, 4)), (STAGES, (50, 12))])
def test_any_h5py_reads_pieces_of_one_width_as_an_array_of_three_axes(tmp_path, how, shape):
    file = FeatureFile(put(tmp_path / "a.h5", ROWS, keys=KEYS, **how))
    file.check()
    with h5py.File(file.path) as other:
        assert other["features"].shape == shape and b"2.mean" in other.attrs["pieces"]
        np.testing.assert_array_equal(other["features"][:].reshape(50, 12), ROWS)
    np.testing.assert_array_equal(file.read(), ROWS)
    taken = file.read_rows(np.array([30, 2, 30]), columns=file.recipe.columns("2.mean"))
    start = 4 if how is LAYERS else 2
    np.testing.assert_array_equal(taken, ROWS[[30, 2, 30], start:start + file.recipe.pieces[1][1]])


def test_the_recipe_of_one_piece_is_that_of_a_backbone_that_gives_it_alone():
    recipe = make_recipe(**LAYERS)
    pieces = recipe.of_pieces()
    assert pieces["embedding"] == make_recipe(backbone="timm:tiny?size=96")
    assert pieces["2.mean"] == make_recipe(backbone="timm:tiny?size=96&layers=2.mean", pieces=(("2.mean", 4),))
    assert make_recipe(**STAGES).of_pieces()["embedding"].backbone == "timm:tiny"
    assert make_recipe(backbone="timm:tiny?tokens=4", pieces=(("token1.1", 3),)).of_pieces() == {}
    assert Recipe.from_json(recipe.canonical()) == recipe and "pieces" not in make_recipe().canonical()
    for wrong in ('[["a",1],["a",2]]', '[["a",0]]', '[["A b",1]]'):
        with pytest.raises(CacheError):
            Recipe.from_json(make_recipe().canonical().replace('"precision"', f'"pieces":{wrong},"precision"'))


def test_pieces_that_are_not_as_wide_as_the_row_are_refused(tmp_path):
    path = put(tmp_path / "a.h5", ROWS, keys=KEYS, backbone="x?layers=all", pieces=(("1.mean", 5), ("embedding", 8)))
    with pytest.raises(DamagedFile, match="not 12 numbers together"):
        FeatureFile(path).check()


def test_long_rows_share_a_checksum_with_few_others(tmp_path):
    """A batch for training reads what its rows need, not 256 rows for each of them."""
    wide = np.random.default_rng(0).standard_normal((40, 4 * 30000)).astype(np.float16)
    file = FeatureFile(put(tmp_path / "a.h5", wide, keys=KEYS[:40], backbone="x?tokens=4",
                           pieces=tuple((f"token{row}.{column}", 30000) for row in (1, 2) for column in (1, 2))))
    assert file.header.checksum_rows == 2
    np.testing.assert_array_equal(file.read_rows(np.array([39, 0, 7]), dtype=np.float16), wide[[39, 0, 7]])
    np.testing.assert_array_equal(file.read(dtype=np.float16), wide)
    content = bytearray(file.path.read_bytes())
    content[content.index(wide[7].tobytes()) + 5] ^= 1
    file.path.write_bytes(content)
    file.read_rows(np.array([39, 0]))
    with pytest.raises(DamagedFile, match="rows 6 to 7"):
        file.read_rows(np.array([7]))


def test_merge_verify_and_export_keep_the_pieces(tmp_path):
    for name, part in (("a", slice(0, 30)), ("b", slice(30, 50))):
        (tmp_path / name).mkdir()
        recipe = make_recipe(**LAYERS)
        put(Store(tmp_path / name).path_of(recipe), ROWS[part], keys=KEYS[part],
            sha256=[f"{row:064x}" for row in range(50)][part], **LAYERS)
    out = Store(tmp_path / "out", new=True)
    merge([Store(tmp_path / "a"), Store(tmp_path / "b")], out, KEYS)
    assert verify(out.path, deep=True).exit_code == 0
    write = export_format(tmp_path / "x.npz")[1]
    write(tmp_path / "x.npz", join_files(out, backbones=[], view="original"))
    with np.load(tmp_path / "x.npz") as archive:
        np.testing.assert_array_equal(archive[str(archive["streams"][0])], ROWS.reshape(50, 3, 4))
