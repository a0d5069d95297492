"""A store holds one dataset, its keys and the images under them: what a run reads, refuses and computes again."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.extract.encoders import load_network
from tests.extract.stores import assert_equal_stores, values
from twofold.cache.store import Store
from twofold.data.images.sources import ImageRoots
from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import write_manifest
from twofold.data.synthetic.dataset import draw_dataset
from twofold.extract import extract as stage_one
from twofold.extract.engine import task
from twofold.extract.engine.progress import RunStats

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
def run(extract):
    """Run `extract` on the faces in a folder, whose manifest lies beside it."""
    return lambda root, *more, **options: extract(*more, manifest=root.with_suffix(".csv"), root=root, **options)


@pytest.mark.parametrize("how", [(), ("--recheck",), ("--dry-run",), ("--shard", "0/2")])
@pytest.mark.parametrize("networks", [ONE, OTHER])
def test_another_dataset_with_the_same_keys_is_refused(run, two, tmp_path, how, networks):
    """Also where another backbone's file is all that the store has of these keys."""
    store = tmp_path / "s"
    run(two[0])
    before, manifest = values(store), (store / "manifest.csv").read_bytes()
    sentence = run(two[1], *how, networks=networks, code=2)
    for part in ("is the store of another dataset", "14 of the 14 keys", "--replace-manifest"):
        assert part in sentence
    assert values(store).keys() == before.keys() and (store / "manifest.csv").read_bytes() == manifest
    assert not list(store.glob(".shards"))


def test_told_to_replace_it_believes_no_row_of_the_other_dataset(run, two, tmp_path):
    run(two[0])
    assert run(two[1], "--replace-manifest")["computed_rows"] == 14
    run(two[1], store=tmp_path / "fresh")
    assert_equal_stores(tmp_path / "s", tmp_path / "fresh")


def test_other_keys_are_another_dataset_too_and_its_rows_are_kept_aside_when_told(run, two, tmp_path, cli):
    root, store = tmp_path / "faces", tmp_path / "s"
    run(two[0])
    root.mkdir()
    keys = [f"{number}.png" for number in range(14)]
    for key, path in zip(keys, sorted(two[0].rglob("*.png")), strict=True):
        (root / key).write_bytes(path.read_bytes())
    root.with_suffix(".csv").write_text("key\n" + "\n".join(keys) + "\n")
    assert "none of its 14 samples is in this manifest" in run(root, code=2)
    assert Store(store).find(*ONE).rows == 14
    run(root, "--replace-manifest")
    assert Store(store).find(*ONE).keys.tolist() == keys
    assert "kept aside: 14 rows" in cli("cache", "ls", store).stdout


def test_changed_images_are_said_and_recheck_is_enough(run, two, tmp_path):
    root = tmp_path / "faces"
    shutil.copytree(two[0], root)
    shutil.copy(two[0].with_suffix(".csv"), root.with_suffix(".csv"))
    run(root)
    paths = sorted(path.relative_to(root) for path in root.rglob("*.png"))
    for path in paths[1:]:
        shutil.copy(two[1] / path, root / path)
    sentence = run(root, code=2)
    assert "13 of the 14 keys" in sentence and "say --recheck" in sentence
    assert run(root, "--recheck")["computed_rows"] == 13
    run(root)
    shutil.rmtree(root)
    root.mkdir()
    run(root)  # without images there is nothing to compare, and nothing to compute


@pytest.fixture
def extracted(run, two, tmp_path):
    """A folder of faces that can be changed, extracted once, and their keys."""
    root = tmp_path / "own"
    shutil.copytree(two[0], root)
    shutil.copy(two[0].with_suffix(".csv"), root.with_suffix(".csv"))
    run(root)
    return root, Store(tmp_path / "s").find(*ONE).keys.tolist()


def test_recheck_reads_each_image_once_and_loads_each_encoder_once(run, extracted, monkeypatch):
    root, keys = extracted
    reads, loads, tasks = [], [], []
    read, load = ImageRoots.read, task.load_encoder
    monkeypatch.setattr(ImageRoots, "read", lambda self, key: reads.append(key) or read(self, key))
    monkeypatch.setattr(task, "load_encoder", lambda *names, **how: loads.append(names) or load(*names, **how))
    monkeypatch.setattr(stage_one, "compute_on_devices", lambda task, **_: tasks.append(task) or RunStats())
    run(root, "--recheck")
    assert sorted(reads) == sorted(keys) and len(loads) == 1 and not tasks
    reads.clear()
    for key in keys[2:4]:
        (root / key).write_bytes((root / keys[7]).read_bytes())
    run(root, "--recheck")
    assert set(reads) == set(keys) and max(reads.count(key) for key in keys[1:]) == 1  # the first: is the root right?
    assert [row for task in tasks for file in task.files for row in file.rows.tolist()] == [2, 3]


@pytest.mark.parametrize("more", [[], ["--recheck"]])
def test_a_rotten_finished_file_is_computed_again(run, extracted, tmp_path, more):
    file = Store(tmp_path / "s").find(*ONE)
    before = file.read()
    content, rows = file.path.read_bytes(), file.read(dtype=np.float16).tobytes()
    file.path.write_bytes(content.replace(rows, rows[:-1] + bytes([rows[-1] ^ 1])))
    assert run(extracted[0], *more)["computed_rows"] == 14
    np.testing.assert_array_equal(Store(tmp_path / "s").find(*ONE).read(), before)
    assert file.path.with_name(f"{file.path.name}.damaged").exists()


def test_with_logits_through_the_command_line(cli, drawn, tmp_path):
    name, weights = "torchvision:resnet18", tmp_path / "w.safetensors"
    head = {"fc.weight": torch.randn(7, 512), "fc.bias": torch.randn(7)}
    save_file(dict(load_network(name, weights="random:1").state_dict()) | head, weights)
    (tmp_path / "faces.csv").write_text("".join(drawn.manifest.open().readlines()[:4]))

    def extract(weights, *more):
        return cli("extract", tmp_path / "faces.csv", "--root", drawn.root, "--store", tmp_path / "s", "--backbones",
                   name, "--device", "cpu", "--precision", "fp32", "--with-logits", "--weights", f"{name}={weights}",
                   *more)

    for words, sentence in (("random:0", "bring no classifier of expressions"), (weights, "order their 7 classes are")):
        done = extract(words)
        assert done.returncode == 2 and sentence in done.stderr and not (tmp_path / "s").exists()
    done = extract(weights, "--classes-of", f"{name}=basic7")
    assert done.returncode == 0, done.stderr
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(weights.read_bytes())
    done = extract(weights, "--weights", f"{name}={copy}", "--classes-of", f"{name}=basic7")
    assert done.returncode == 0 and done.stdout.count("3 cached, 0 computed") == 1  # the same weights: one file
    save_file(dict(load_network(name, weights="random:1").state_dict()) | {key: -value for key, value in head.items()},
              copy)
    done = extract(weights, "--weights", f"{name}={copy}", "--classes-of", f"{name}=basic7")
    assert done.returncode == 2 and "a store cannot hold both" in done.stderr
    classifier = Store(tmp_path / "s").find(name).classifier
    assert len(classifier.classes) == 7
    np.testing.assert_array_equal(classifier.weight, head["fc.weight"].T)
