"""The README's own commands and notebook, as they stand there, on drawn faces."""

import contextlib
import csv
import io
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import torchvision

import twofold
from twofold.data.labels import basic_pair, builtin_taxonomy
from twofold.data.manifest import write_manifest
from twofold.data.synthetic.dataset import draw_dataset, draw_face

ROOT = Path(__file__).resolve().parents[1]
CLASSES = builtin_taxonomy("cexpr7").classes


def block(mark: str) -> str:
    """The fenced block below a comment of the README."""
    return re.search(rf"<!-- {mark} -->\n```\w*\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with photos in class folders, new pictures, and the weights of two backbones."""
    draw_dataset(tmp_path / "photos", taxonomy=builtin_taxonomy("cexpr7"), per_class=6, size=64, seed=1)
    (tmp_path / "new").mkdir()
    for number, label in enumerate(CLASSES[:3]):
        face = draw_face(identity=77, emotions=basic_pair(label), size=64, seed=number)
        face.save(tmp_path / "new" / f"{number}.png")
    (tmp_path / "weights").mkdir()
    torch.manual_seed(0)
    for file, build in (("resnet18_msceleb", torchvision.models.resnet18), ("resnet50_fer2013",
                                                                             torchvision.models.resnet50)):
        torch.save(build().state_dict(), tmp_path / "weights" / f"{file}.pth")
    monkeypatch.delenv("TWOFOLD_WEIGHTS", raising=False)
    return tmp_path


@pytest.mark.slow
def test_the_commands_lead_from_a_folder_to_an_answer(cli, place):
    lines = [shlex.split(line) for line in block("commands: round trip").splitlines()]
    assert [line[1] for line in lines] == ["manifest", "extract", "fuse", "evaluate", "predict"]
    done = [cli(*line[1:], cwd=place) for line in lines]
    assert [command.returncode for command in done] == [0] * 5, [command.stderr for command in done]
    manifest, extracted, fused, evaluated, predicted = (command.stdout for command in done)
    assert "42 samples -> faces.csv" in manifest
    assert "42 samples, 42 computed, 0 failures" in extracted and "resnet50 (original, 2048-d" in extracted
    assert "42 samples" in fused and "fusion of all 2" in fused
    figures = json.loads((place / "runs/first/metrics.json").read_text())["systems"][-1]
    assert f"{100 * figures['accuracy']:.2f}" in evaluated, "out of fold it is the same figure"
    assert "3 rows -> expressions.csv" in predicted
    with (place / "expressions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 and {row["prediction"] for row in rows} <= set(CLASSES)


@pytest.mark.slow
def test_the_notebook_goes_from_a_store_to_a_confusion_matrix(tmp_path, monkeypatch):
    table = draw_dataset(tmp_path / "demo/faces", taxonomy=builtin_taxonomy("cexpr7"), per_class=20, size=48, seed=2)
    write_manifest(table, tmp_path / "demo/faces.csv")
    twofold.Dataset(tmp_path / "demo/faces.csv", root=tmp_path / "demo/faces").extract(
        tmp_path / "demo/store", backbones=["timm:test_resnet"], weights={"timm:test_resnet": "random:0"}, device="cpu")
    monkeypatch.chdir(tmp_path)
    source, printed = block("python: notebook"), io.StringIO()
    assert len([line for line in source.splitlines() if line.strip()]) < 15
    with contextlib.redirect_stdout(printed):
        exec(compile(source, "README.md", "exec"), {})
    assert "macro_f1_interval" in printed.getvalue() and "mlp against SVC: macro-F1" in printed.getvalue()
    assert all(name[:9] in printed.getvalue() for name in (CLASSES[0], CLASSES[-1]))


def test_the_taxonomies_are_listed_as_they_are():
    text = (ROOT / "README.md").read_text()
    for name in ("cexpr7", "rafdb11", "rafce14"):
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}`"))
        names = [label.replace("_", " ") for label in builtin_taxonomy(name).classes]
        assert row.split("|")[2].strip() == ", ".join(names)


def test_it_is_short_and_links_to_what_is_there():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / target).exists(), target
