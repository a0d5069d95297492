"""A store holds one dataset: its keys, and the images under them."""

import json

import pytest

from tests.extract.stores import assert_equal_stores, values
from twofold.cache.store import Store
from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import write_manifest
from twofold.data.synthetic.dataset import draw_dataset

ONE, OTHER = ("timm:test_vit",), ("timm:test_resnet",)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two datasets of 14 faces with the same keys and, but for what seed they are drawn from, the same everything."""
    folders = []
    for seed in (1, 2):
        root = tmp_path_factory.mktemp(f"seed{seed}") / "faces"
        table = draw_dataset(root, taxonomy=builtin_taxonomy("cexpr7"), per_class=2, size=64, seed=seed)
        write_manifest(table, root.with_suffix(".csv"))
        folders.append(root)
    return folders


@pytest.fixture
def run(cli, extract_args):
    def extract(root, store, *more, networks=ONE):
        return cli(*extract_args(root.with_suffix(".csv"), root, store, "--json", *more, networks=networks))

    return extract


@pytest.mark.parametrize("how", [(), ("--recheck",), ("--dry-run",), ("--shard", "0/2")])
@pytest.mark.parametrize("networks", [ONE, OTHER])
def test_another_dataset_with_the_same_keys_is_refused(run, two, tmp_path, how, networks):
    """Also where another backbone's file is all that the store has of these keys."""
    store = tmp_path / "s"
    assert run(two[0], store).returncode == 0
    before, manifest = values(store), (store / "manifest.csv").read_bytes()
    done = run(two[1], store, *how, networks=networks)
    assert done.returncode == 2 and "is the store of another dataset" in done.stderr, done.stderr
    assert "14 of the 14 keys" in done.stderr and "--replace-manifest" in done.stderr
    assert values(store).keys() == before.keys() and (store / "manifest.csv").read_bytes() == manifest
    assert not list(store.glob(".shards"))


def test_told_to_replace_it_believes_no_row_of_the_other_dataset(run, two, tmp_path):
    assert run(two[0], tmp_path / "s").returncode == 0
    done = run(two[1], tmp_path / "s", "--replace-manifest")
    assert done.returncode == 0 and json.loads(done.stdout)["computed_rows"] == 14
    assert run(two[1], tmp_path / "fresh").returncode == 0
    assert_equal_stores(tmp_path / "s", tmp_path / "fresh")


def test_other_keys_are_another_dataset_too_and_its_rows_are_kept_aside_when_told(run, two, tmp_path, cli):
    root, store = tmp_path / "faces", tmp_path / "s"
    assert run(two[0], store).returncode == 0
    root.mkdir()
    keys = [f"{number}.png" for number in range(14)]
    for key, path in zip(keys, sorted(two[0].rglob("*.png")), strict=True):
        (root / key).write_bytes(path.read_bytes())
    root.with_suffix(".csv").write_text("key\n" + "\n".join(keys) + "\n")
    done = run(root, store)
    assert done.returncode == 2 and "none of its 14 samples is in this manifest" in done.stderr
    assert Store(store).find(*ONE).rows == 14
    assert run(root, store, "--replace-manifest").returncode == 0
    assert Store(store).find(*ONE).keys.tolist() == keys
    assert "kept aside: 14 rows" in cli("cache", "ls", store).stdout


def test_changed_images_are_said_and_recheck_is_enough(run, two, tmp_path):
    root, store = tmp_path / "faces", tmp_path / "s"
    paths = sorted(path.relative_to(two[0]) for path in two[0].rglob("*.png"))
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes((two[0] / path).read_bytes())
    root.with_suffix(".csv").write_bytes(two[0].with_suffix(".csv").read_bytes())
    assert run(root, store).returncode == 0
    for path in paths[1:]:
        (root / path).write_bytes((two[1] / path).read_bytes())
    done = run(root, store)
    assert done.returncode == 2 and "13 of the 14 keys" in done.stderr and "say --recheck" in done.stderr
    done = run(root, store, "--recheck")
    assert done.returncode == 0 and json.loads(done.stdout)["computed_rows"] == 13
    assert run(root, store).returncode == 0
    for path in paths:  # without images there is nothing to compare, and nothing to compute
        (root / path).unlink()
    assert run(root, store).returncode == 0
