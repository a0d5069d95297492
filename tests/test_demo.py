"""The demonstration with far fewer people, too few to learn much from: every step runs, and not twice."""

import json
import re
import sys

import pytest

from twofold.data.synthetic import demo
from twofold.extract import cli as extract_cli


@pytest.mark.slow
def test_every_step_of_the_demonstration_runs(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "BASICS_PER_CLASS", 10)
    monkeypatch.setattr(demo, "COMPOUNDS_PER_CLASS", 10)
    monkeypatch.setattr(extract_cli, "PRESETS", "timm:test_vit")
    done = cli("demo", "--out", tmp_path / "demo", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^\$ twofold (?:finetune|extract|fuse) ", done.stdout, re.MULTILINE)) == 4
    assert "zero-shot from the backbones' own classifiers: nothing is trained" in done.stdout
    assert "timm:test_vit * UNTRAINED" in done.stdout
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert "fusion of all 2 * UNTRAINED" in page
    assert f"{tmp_path / 'demo' / 'report.html'}\n$ twofold report" in done.stdout
    systems = json.loads((tmp_path / "demo" / "run" / "metrics.json").read_text())["systems"]
    assert [system["backbones"] for system in systems][-1] == [demo.LEARNER, "timm:test_vit"]
    (tmp_path / "demo" / "report.html").unlink()
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as where only requirements.txt is installed
    again = cli("demo", "--out", tmp_path / "demo", "--device", "cpu")
    assert again.returncode == 0 and "(done before)" in again.stdout
    assert "(left out: pip install matplotlib jinja2, then run it)\n$ twofold report" in again.stdout
    assert not (tmp_path / "demo" / "report.html").exists()


def test_a_folder_with_somebodys_faces_is_left_alone(cli, tmp_path):
    (tmp_path / "faces.csv").write_text("key\na.png\n")
    done = cli("demo", "--out", tmp_path)
    assert done.returncode == 2 and "has other things in it" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["faces.csv"]
    assert (tmp_path / "faces.csv").read_text() == "key\na.png\n"
