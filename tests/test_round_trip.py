"""A stranger's way from a dataset to an answer: the README's own commands, on drawn faces in RAF-DB's layout."""

import csv
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import torchvision

from twofold.data.drawn.dataset import draw_face
from twofold.data.labels import pair, taxonomy

ROOT = Path(__file__).resolve().parents[1]
FACES = {"train": 5, "test": 2}  #: of each of the eleven classes


def commands() -> list[str]:
    block = re.search(r"<!-- commands: round trip -->\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return block[1].splitlines()


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with RAF-DB's compound part, two weights files and some photos."""
    classes, lines = taxonomy("rafdb11"), []
    aligned = tmp_path / "RAF-DB/compound/Image/aligned"
    aligned.mkdir(parents=True)
    for split, count in FACES.items():
        for number in range(count * len(classes.classes)):
            label = number % len(classes.classes)
            stem = f"{split}_{number + 1:05d}"
            face = draw_face(identity=number + 1000 * (split == "test"), emotions=pair(classes.classes[label]),
                             size=100, seed=number)
            face.save(aligned / f"{stem}_aligned.jpg", quality=95)
            lines.append(f"{stem}.jpg {classes.numbers[label]}\n")
    (tmp_path / "RAF-DB/compound/EmoLabel").mkdir()
    (tmp_path / "RAF-DB/compound/EmoLabel/list_patition_label.txt").write_text("".join(lines))
    (tmp_path / "photos").mkdir()
    for path in sorted(aligned.glob("test_*"))[:5]:
        (tmp_path / "photos" / path.name.replace("_aligned", "")).write_bytes(path.read_bytes())
    (tmp_path / "weights").mkdir()
    torch.manual_seed(0)
    for file, build in (("resnet18_msceleb", torchvision.models.resnet18), ("resnet50_fer2013",
                                                                             torchvision.models.resnet50)):
        torch.save(build().state_dict(), tmp_path / "weights" / f"{file}.pth")
    monkeypatch.delenv("TWOFOLD_WEIGHTS", raising=False)
    return tmp_path


@pytest.mark.slow
def test_the_commands_of_the_readme_lead_from_a_dataset_to_an_answer(cli, place):
    lines = commands()
    assert [line.split()[2] for line in lines] == ["manifest", "extract", "fuse", "evaluate", "predict"]
    done = [cli(*shlex.split(line)[2:], cwd=place) for line in lines]
    assert [one.returncode for one in done] == [0] * 5, [one.stderr for one in done]
    manifest, extracted, fused, evaluated, predicted = (one.stdout for one in done)
    assert "77 faces -> rafdb.csv" in manifest and "77 faces here, 3,954 as published" in done[0].stderr
    assert "77 faces, 77 computed, 0 failures" in extracted and "resnet50 (original, 2048-d" in extracted
    assert "14 faces of the test split" in fused and "28 faces with a compound label outside cexpr7" in fused
    figures = json.loads((place / "runs/rafdb/metrics.json").read_text())
    accuracy = re.search(r"^acc\s+(\S+)$", evaluated, re.MULTILINE)[1]
    assert accuracy == f"{100 * figures['systems'][-1]['accuracy']:.2f}" and "Happily Surprised" in evaluated
    assert "5 rows -> expressions.csv" in predicted
    with (place / "expressions.csv").open() as file:
        answers = {row["key"]: row for row in csv.DictReader(file)}
    with (place / "runs/rafdb/predictions.csv").open() as file:
        known = {Path(row["key"]).name.replace("_aligned", ""): row for row in csv.DictReader(file)}
    assert len(answers) == 5
    for key, row in answers.items():  # the photos are faces of the test split: what fuse said of them is said again
        if key in known:
            assert row["prediction"] == known[key]["prediction"]
            assert float(row[row["prediction"]]) == pytest.approx(float(known[key][row["prediction"]]), abs=2e-3)
    assert any(key in known for key in answers)
