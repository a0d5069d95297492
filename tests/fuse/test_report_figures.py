"""What a report draws and says beside its tables: calibration, untrained marks, licences, files for a paper."""

import io
import json
import re
import sys
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from twofold.data.utils.errors import InputError
from twofold.extract.encoders.licences import licences
from twofold.fuse.fuse import fuse
from twofold.fuse.report import drawings
from twofold.fuse.report.content import read_content
from twofold.fuse.report.report import report
from twofold.fuse.settings import resolve


@pytest.fixture
def make_run(make_store, tmp_path):
    def make(*, changes=None, **settings):
        chosen = {"epochs": 3, "lr": 3e-3, "hidden": 16, "seeds": 2, "batch_size": 64, "head": "gated"} | settings
        fuse([make_store(noise=1.0, changes=changes)], resolve(changes=chosen), out=tmp_path / "run")
        return tmp_path / "run"

    return make


def systems_of(run):
    return json.loads((run / "metrics.json").read_text())["systems"]


def without_reliability(run):
    """The run as one of before its bins were kept."""
    metrics = json.loads((run / "metrics.json").read_text())
    for system in metrics["systems"]:
        del system["reliability"], system["reliability_before_temperature"]
    (run / "metrics.json").write_text(json.dumps(metrics))


@pytest.mark.parametrize("folds", [0, 2])
def test_the_bins_are_those_of_the_predictions(make_run, folds):
    run = make_run(folds=folds)
    bins = systems_of(run)[-1]["reliability"]
    table = pd.read_csv(run / "predictions.csv").query("split == 'test'")
    confidence = table.iloc[:, 4:].to_numpy().max(axis=1)
    right = (table["truth"] == table["prediction"]).to_numpy()
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        assert bins["faces"][number] == inside.sum() and bins["right"][number] == right[inside].sum()
        assert bins["confidence"][number] == pytest.approx(confidence[inside].sum(), abs=1e-4)
    calibration = read_content(run).calibration
    assert calibration.after.error == pytest.approx(systems_of(run)[-1]["calibration_error"])
    assert calibration.before.error == pytest.approx(systems_of(run)[-1]["calibration_error_before_temperature"])
    report([run], out=run / "r.html")
    text = (run / "r.html").read_text(encoding="utf-8")
    for name, error in (("reliability_before_temperature", calibration.before.error),
                        ("reliability", calibration.after.error)):
        assert f"calibration error {error:.3f}" in text
        bins = systems_of(run)[-1][name]
        for faces, right in zip(bins["faces"], bins["right"], strict=True):
            assert not faces or f"<title>{faces} faces, {100 * right / faces:.0f} % right</title>" in text


def test_an_older_run_gives_its_bins_before_the_temperature_from_those_after(make_run, tmp_path):
    run = make_run()
    system = systems_of(run)[-1]
    assert abs(system["temperature"] - 1) > 0.05  # so that both differ
    without_reliability(run)
    calibration = read_content(run).calibration
    for bins, name in ((calibration.before, "reliability_before_temperature"), (calibration.after, "reliability")):
        np.testing.assert_array_equal(bins.faces, system[name]["faces"])
        np.testing.assert_array_equal(bins.right, system[name]["right"])


def test_an_older_run_with_a_temperature_a_fold_says_what_it_does_not_know(make_run, tmp_path):
    run = make_run(folds=2)
    without_reliability(run)
    assert read_content(run).calibration.before is None
    report([run], out=tmp_path / "r.html")
    assert "this older run kept nothing to draw that from" in (tmp_path / "r.html").read_text()


def test_bins_from_a_stranger_that_are_none_are_refused(make_run, tmp_path):
    run = make_run(epochs=1, seeds=1)
    metrics = json.loads((run / "metrics.json").read_text())
    nothing = dict.fromkeys(("faces", "right", "confidence"), [0] * 15)
    for bins in (3, {"faces": [1]}, {"faces": [1], "right": [1], "confidence": [1]}, nothing | {"right": [9] * 15},
                 nothing | {"faces": ["<b>"] * 15}):
        metrics["systems"][-1]["reliability"] = bins
        (run / "metrics.json").write_text(json.dumps(metrics))
        with pytest.raises(InputError, match="figures do not read back"):
            report([run], out=tmp_path / "r.html")


def test_every_row_of_an_untrained_encoder_says_so(make_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)  # the SVG files say it
    run = make_run(changes={"weights": "random:0"})
    reported = report([run, run], out=tmp_path / "r.html", store=tmp_path / "store", figures=tmp_path / "figures")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    rows = re.findall(r'<tr><th scope="row">([^<]*)</th>', text)
    streams = [row for row in rows if re.search(r"timm:|fusion of|^run", row)]
    assert len(streams) > 10 and all("* UNTRAINED" in row for row in streams)
    captions = re.findall(r"<caption>([^<]*)</caption>", text)
    told = [caption for caption in captions if re.search("by the fusion|faces of a row|Without a stream", caption)]
    assert told and all("* UNTRAINED" in caption for caption in told)
    for path in (path for path in reported.figures if path.suffix == ".svg"):
        assert "* UNTRAINED" in path.read_text(encoding="utf-8"), path.name
    assert "random numbers: none" in text and "says nothing" not in text


def test_licences_stand_beside_the_encoders_where_they_are_stated(make_run, tmp_path, cli):
    names = ["posterv2", "timm:vit_base_patch16_224.mae?size=112", "timm:no_such_one", "onnx:x", "torchvision:vgg11"]
    assert licences(names) == {"posterv2": "MIT", names[1]: "cc-by-nc-4.0, for timm's own weights"}
    run = make_run()
    record = json.loads((run / "run.json").read_text())
    record["streams"][0]["backbone"] = "vit_mae"
    (run / "run.json").write_text(json.dumps(record))
    done = cli("report", run, "-o", tmp_path / "r.html", "--json")
    assert json.loads(done.stdout)["licences"] == {"vit_mae": "CC-BY-NC-4.0"}, done.stderr
    text = (tmp_path / "r.html").read_text()
    assert "<td>CC-BY-NC-4.0</td>" in text and "<td>not stated</td>" in text


def test_drawings_are_files_for_a_paper(make_run, tmp_path):
    pytest.importorskip("resvg_py", reason="PNG files are optional")
    run = make_run()
    files = report([run], out=tmp_path / "r.html", figures=tmp_path / "figures").figures
    assert {path.suffix for path in files} == {".svg", ".png"} and len(files) == 2 * 9
    for path in files:
        if path.suffix == ".svg":
            text = path.read_text(encoding="utf-8")
            assert "var(" not in text and ElementTree.fromstring(text).tag.endswith("svg")
        else:
            picture = Image.open(path)
            assert min(picture.size) > 600 and round(picture.info["dpi"][0]) == 300
            assert len(picture.getcolors(1 << 20)) > 20
    matrix = ElementTree.parse(tmp_path / "figures" / "confusion-3.svg").getroot()
    texts = [text.text for text in matrix.iter("{http://www.w3.org/2000/svg}text")]
    counts = [int(text) for text in texts if text.isdecimal()]
    assert counts == np.array(systems_of(run)[-1]["confusion"]).ravel().tolist()


def test_without_the_package_for_png_there_is_svg_and_a_sentence(make_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    reported = report([make_run()], out=tmp_path / "r.html", figures=tmp_path / "figures")
    assert {path.suffix for path in reported.figures} == {".svg"}
    assert "pip install resvg-py" in reported.text()


def test_a_machine_without_fonts_is_told_before_words_are_left_out(make_run, tmp_path, monkeypatch):
    resvg = pytest.importorskip("resvg_py", reason="PNG files are optional")
    render = resvg.svg_to_bytes
    monkeypatch.setattr(resvg, "svg_to_bytes", lambda text, **options: render(text, skip_system_fonts=True, **options))
    with pytest.raises(InputError, match="no font"):
        report([make_run()], out=tmp_path / "r.html", figures=tmp_path / "figures")
    assert not (tmp_path / "figures").exists()
    assert Image.open(io.BytesIO(resvg.svg_to_bytes(drawings.LETTER))).size == (40, 40)
