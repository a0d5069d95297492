"""What a run reads and computes again, and how often; and options that only the command line reaches."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from twofold.cache.store import Store
from twofold.data.images.sources import ImageRoots
from twofold.extract import extract as stage_one
from twofold.extract.encoders.registry import load_network
from twofold.extract.engine import task
from twofold.extract.engine.progress import RunStats

ONE = "timm:test_vit"


@pytest.fixture
def extracted(cli, drawn, extract_args, tmp_path):
    """The words of a run over eight faces that can be changed, done once; the folder of the faces, and their keys."""
    root, keys = tmp_path / "faces", list(drawn.table.keys)[:8]
    for key in keys:
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(drawn.root / key, root / key)
    (tmp_path / "faces.csv").write_text("key\n" + "".join(f"{key}\n" for key in keys))
    words = extract_args(tmp_path / "faces.csv", root, tmp_path / "s", networks=(ONE,))
    assert cli(*words).returncode == 0
    return words, root, keys


def test_recheck_reads_each_image_once_and_loads_each_encoder_once(cli, extracted, monkeypatch):
    words, root, keys = extracted
    reads, loads, tasks = [], [], []
    read, load = ImageRoots.read, task.load_encoder
    monkeypatch.setattr(ImageRoots, "read", lambda self, key: reads.append(key) or read(self, key))
    monkeypatch.setattr(task, "load_encoder", lambda *names, **how: loads.append(names) or load(*names, **how))
    monkeypatch.setattr(stage_one, "compute_on_devices", lambda task, **_: tasks.append(task) or RunStats())
    assert cli(*words, "--recheck").returncode == 0
    assert sorted(reads) == sorted(keys) and len(loads) == 1 and not tasks
    reads.clear()
    for key in keys[2:4]:
        (root / key).write_bytes((root / keys[7]).read_bytes())
    cli(*words, "--recheck")
    assert set(reads) == set(keys) and max(reads.count(key) for key in keys[1:]) == 1  # the first: is the root right?
    assert [row for task in tasks for file in task.files for row in file.rows.tolist()] == [2, 3]


@pytest.mark.parametrize("more", [[], ["--recheck"]])
def test_a_rotten_finished_file_is_computed_again(cli, extracted, tmp_path, more):
    file = Store(tmp_path / "s").find(ONE)
    before = file.read()
    content, rows = file.path.read_bytes(), file.read(dtype=np.float16).tobytes()
    file.path.write_bytes(content.replace(rows, rows[:-1] + bytes([rows[-1] ^ 1])))
    done = cli(*extracted[0], "--json", *more)
    assert done.returncode == 0 and json.loads(done.stdout)["computed_rows"] == 8
    np.testing.assert_array_equal(Store(tmp_path / "s").find(ONE).read(), before)
    assert file.path.with_name(f"{file.path.name}.damaged").exists()


def test_with_logits_through_the_command_line(cli, drawn, tmp_path):
    state = dict(load_network("torchvision:resnet18", weights="random:1").state_dict())
    (tmp_path / "faces.csv").write_text("".join(drawn.manifest.open().readlines()[:4]))
    words = ["extract", tmp_path / "faces.csv", "--root", drawn.root, "--store", tmp_path / "s", "--backbones",
             "torchvision:resnet18", "--device", "cpu", "--precision", "fp32", "--with-logits", "--weights"]
    done = cli(*words, "torchvision:resnet18=random:0")
    assert done.returncode == 2 and "bring no classifier of expressions" in done.stderr
    assert not (tmp_path / "s").exists()
    head = {"fc.weight": torch.randn(7, 512), "fc.bias": torch.randn(7)}
    save_file(state | head, tmp_path / "w.safetensors")
    done = cli(*words, f"torchvision:resnet18={tmp_path / 'w.safetensors'}")
    assert done.returncode == 2 and "in which order their 7 classes are" in done.stderr
    done = cli(*words, f"torchvision:resnet18={tmp_path / 'w.safetensors'}", "--classes-of",
               "torchvision:resnet18=basic7")
    assert done.returncode == 0, done.stderr
    classifier = Store(tmp_path / "s").find("torchvision:resnet18").classifier
    assert len(classifier.classes) == 7
    np.testing.assert_array_equal(classifier.weight, head["fc.weight"].T)
