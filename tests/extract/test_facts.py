"""What is remembered of encoders, and that a run with nothing to do builds none."""

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from twofold.cache.classifier import BackboneClassifier
from twofold.cache.store import Store
from twofold.data.utils.errors import InputError
from twofold.data.utils.machine import is_cpu_only
from twofold.extract.again.reproduce import reproduce
from twofold.extract.assignment import Assignment, MissingRows
from twofold.extract.encoders import registry
from twofold.extract.encoders.facts import EncoderFacts, Origin, RememberedFacts, _from_record, _record
from twofold.extract.encoders.libraries import build
from twofold.extract.encoders.registry import load_encoder
from twofold.extract.engine.processes import shared_out
from twofold.extract.plan import ExtractOptions
from twofold.extract.streams import EncoderSource

NAME = "timm:test_resnet"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(3)
    torch.save(build(NAME, checkpoint=None).network.state_dict(), tmp_path / "mine.pth")
    return tmp_path / "mine.pth"


def facts_of(encoder):
    return {field.name: getattr(encoder, field.name) for field in fields(EncoderFacts)}


def test_facts_come_back_as_they_were_and_go_with_their_weights(weights, tmp_path):
    memory, origin = RememberedFacts(tmp_path / "memory"), Origin(NAME, str(weights), (), tmp_path)
    assert memory.recall(origin, precision="fp32") is None
    encoder = load_encoder(NAME, weights=str(weights), device="cpu", precision="fp32")
    memory.remember(encoder, origin)
    assert vars(memory.recall(origin, precision="fp32")) == facts_of(encoder)
    assert memory.recall(origin, precision="bf16").precision == "bf16"
    assert memory.recall(Origin(NAME, str(weights), ("anger",), tmp_path), precision="fp32") is None
    content = weights.read_bytes()
    weights.write_bytes(content[::-1])  # as long as before, and as old
    os.utime(weights, (1, 1))
    assert memory.recall(origin, precision="fp32") is None
    weights.unlink()
    with pytest.raises(InputError, match="is not a file"):
        memory.recall(origin, precision="fp32")


def test_a_classifier_comes_back_bit_by_bit():
    facts = facts_of(load_encoder(NAME, weights="random:0", device="cpu", precision="fp32"))
    weight = np.random.default_rng(0).standard_normal((facts["dim"], 2)).astype(np.float32)
    layer = BackboneClassifier(("anger", "fear"), weight, np.array([1e-30, np.pi], np.float32))
    back = _from_record(_record(EncoderFacts(**facts | {"classifier": layer})), "fp32")
    assert layer.equals(back.classifier)


def test_damaged_memory_is_forgotten(tmp_path):
    memory, origin = RememberedFacts(tmp_path), Origin(NAME, "random:0", (), tmp_path)
    memory.remember(load_encoder(NAME, weights="random:0", device="cpu", precision="fp32"), origin)
    (path,) = tmp_path.glob("*.json")
    for text in ("", "{}", "[1]", path.read_text()[:-9]):
        path.write_text(text)
        assert memory.recall(origin, precision="fp32") is None


def test_nothing_to_do_builds_no_network(cli, drawn, extract_args, tmp_path, monkeypatch):
    args = extract_args(drawn.manifest, drawn.root, tmp_path / "s")
    assert cli(*args).returncode == 0

    def refused(*_, **__):
        raise AssertionError("a network was built")

    monkeypatch.setattr(registry, "load_encoder", refused)
    done = cli(*args)
    assert done.returncode == 0 and "nothing to compute" in done.stdout


def test_what_is_cached_is_reproduced_without_its_weights(cli, drawn, weights, tmp_path, monkeypatch):
    """As `predict MANIFEST --store S` wants it; a changed image asks for the weights."""
    root = tmp_path / "faces"
    root.mkdir()
    for row, path in enumerate(sorted(drawn.root.rglob("*.png"))[:4]):
        (root / f"{row}.png").write_bytes(path.read_bytes())
    table = tmp_path / "faces.csv"
    table.write_text("key\n" + "".join(f"{row}.png\n" for row in range(4)))
    assert cli("extract", table, "--root", root, "--store", tmp_path / "s", "--backbones", NAME, "--weights",
               f"{NAME}={weights}", "--device", "cpu", "--precision", "fp32").returncode == 0
    (file,) = Store(tmp_path / "s").files()
    weights.unlink()
    monkeypatch.setenv("TWOFOLD_WEIGHTS", str(tmp_path / "none"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def again():
        return reproduce([file.recipe], manifest=table, roots=[str(root)], store=tmp_path / "s", device="cpu",
                         reused=True)

    done = again()
    assert (done.files[0].cached, done.files[0].computed, done.files[0].left) == (4, 0, 0)
    (root / "2.png").write_bytes((root / "3.png").read_bytes())
    with pytest.raises(InputError, match="no weights for timm:test_resnet"):
        again()


def test_devices_get_every_face_once_whatever_each_file_lacks(tmp_path):
    draw = np.random.default_rng(0)
    lacking = [np.flatnonzero(draw.random(101) < share) for share in (1.0, 0.5, 0.02)]
    files = [MissingRows(source=EncoderSource(backbone=str(number)), recipe=None, rows=rows)
             for number, rows in enumerate(lacking)]
    whole = Assignment(files=files, keys=[], faces=None, store=tmp_path, device="", options=ExtractOptions())
    shares = shared_out(whole, ["a", "b", "c"])
    assert [share.device for share in shares] == ["a", "b", "c"]
    for number, rows in enumerate(lacking):
        together = np.concatenate([share.files[number].rows for share in shares])
        assert sorted(together.tolist()) == rows.tolist()


def test_a_rerun_with_nothing_to_do_never_waits_for_torch(cli, drawn, extract_args, tmp_path):
    args = extract_args(drawn.manifest, drawn.root, tmp_path / "s")
    assert cli(*args).returncode == 0
    code = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); from twofold import pipeline; code = pipeline.main(); "
            "sys.exit(code or 'torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code, *args], text=True, capture_output=True, timeout=120)
    assert "nothing to compute" in done.stdout, done.stderr
    assert done.returncode == 0 or not is_cpu_only(), done.stderr  # which card there is, torch has to say
