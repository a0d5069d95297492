"""The page of a run: its numbers are those of metrics.json, nothing in it loads or runs, names are escaped."""

import base64
import io
import json
import re
import shutil
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import cohen_kappa_score, f1_score
from sklearn.neighbors import NearestNeighbors

from tests.fuse.conftest import edit_record, write_store
from tests.fuse.serve.browser import CHROMIUM, Browser
from twofold.cache.errors import CacheError
from twofold.cache.store import Store
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.presets import licences
from twofold.fuse.core.settings import resolve
from twofold.fuse.fuse import fuse
from twofold.fuse.report.analysis import analyse_on_store
from twofold.fuse.report.report import _listed, drawings_of, report
from twofold.fuse.runs.read import read_run

SVG = "{http://www.w3.org/2000/svg}"
QUICK = {"epochs": 4, "lr": 3e-3, "hidden": 16, "seeds": 2, "batch_size": 64, "head": "gated"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a store, a run of it and one of another head. Read only."""
    folder = tmp_path_factory.mktemp("trained")
    store = write_store(folder, noise=1.0)
    fuse([store], resolve(changes=QUICK), out=folder / "run")
    fuse([store], resolve(changes=QUICK | {"epochs": 2, "seeds": 1, "head": "mlp"}), out=folder / "other")
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run, beside one of its store and of the other run."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run"


class Page(HTMLParser):
    """The texts of a page, its tags with their attributes, its tables by caption; every tag must be closed."""

    def __init__(self, text: str):
        super().__init__()
        self.texts, self.tags, self.open, self.tables = [], [], [], {}
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self._rows = []
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")
        if tag not in ("meta", "br", "img", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if self.open and self.open[-1] == "caption":
            self.tables[data] = self._rows
        if self.open and self.open[-1] in ("td", "th"):
            self._rows[-1][-1] = self._rows[-1][-1] or data


def page_of(path) -> Page:
    page = Page(path.read_text(encoding="utf-8"))
    page.tables = {caption: rows[1:] for caption, rows in page.tables.items()}
    return page


def percent(value) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def test_the_numbers_are_those_of_the_run(run, tmp_path, cli):
    done = cli("report", run, "-o", tmp_path / "r.html", "--json")
    assert done.returncode == 0, done.stderr
    systems = json.loads((run / "metrics.json").read_text())["systems"]
    assert json.loads(done.stdout)["runs"][0]["systems"] == systems
    page = page_of(tmp_path / "r.html")
    for row, system in zip(page.tables["All systems"], systems, strict=True):
        spans = ["[{:.1f}, {:.1f}]".format(*(100 * end for end in system[f"{kind}_interval"]))
                 for kind in ("accuracy", "macro_f1")]
        assert row == [system["name"], percent(system["accuracy"]), spans[0], percent(system["macro_f1"]), spans[1],
                       percent(system["uar"])]
        confusion = page.tables[f"{system['name']}: samples by target (rows) and prediction (columns)"]
        assert [[int(cell) for cell in row[1:]] for row in confusion] == system["confusion"]
    fused = systems[-1]
    assert page.tables["Each class, by the fusion"] == [
        [name, str(of["n"]), *(percent(of[kind]) for kind in ("precision", "recall", "f1"))]
        for name, of in fused["per_class"].items()]
    assert page.tables["Mean weight of each stream, piece or span of time"] == [
        [name, f"{weight:.2f}"] for name, weight in fused["contributions"].items()]
    labels = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    assert len(labels) == 6 and all(labels)  # two forests, two of reliability, two learning curves
    for name in ("calibration_error", "calibration_error_before_temperature"):
        assert any(f"calibration error {fused[name]:.3f}" in text for text in page.texts)
    assert not {"script", "img", "link", "iframe", "object"} & {tag for tag, _ in page.tags}  # nothing leaves the page
    assert all(value.startswith("#") for _, attributes in page.tags
               for name, value in attributes.items() if name in ("href", "src", "xlink:href"))
    assert (tmp_path / "r.html").stat().st_size < 200_000


def test_names_from_a_stranger_are_text(run, tmp_path):
    evil = "<script>alert(1)</script>$x_{"
    for name in ("metrics.json", "predictions.csv"):
        text = (run / name).read_text(encoding="utf-8").replace("timm:a", evil)
        (run / name).write_text(text.replace("store/00", "<b onload=x>/00"), encoding="utf-8")

    def change(record):
        record["notes"] = [evil]
        record["streams"][0]["backbone"] = record["streams"][0]["recipe"]["backbone"] = evil

    edit_record(run, change)
    report([run], out=tmp_path / "r.html")
    page = page_of(tmp_path / "r.html")
    tags = {tag for tag, _ in page.tags}
    assert "script" not in tags and "b" not in tags and evil in page.texts


def test_several_runs_stand_side_by_side(run, tmp_path, cli):
    other = tmp_path / "other"
    done = cli("report", run, other, "-o", tmp_path / "r.html", "--store", tmp_path / "store", "--json")
    assert done.returncode == 0, done.stderr
    (pair,) = json.loads(done.stdout)["against_the_first"]
    macro_f1 = [json.loads((path / "metrics.json").read_text())["systems"][-1]["macro_f1"] for path in (other, run)]
    calls = [pd.read_csv(path / "predictions.csv").query("split == 'test'").set_index("key") for path in (other, run)]
    right = [each["prediction"] == each["truth"] for each in calls]
    assert pair["difference"] == pytest.approx(macro_f1[0] - macro_f1[1]) and pair["difference"] != 0
    assert pair["interval"][0] < pair["difference"] < pair["interval"][1]
    assert pair["only_this"] == (right[0] & ~right[1]).sum() and pair["only_first"] == (right[1] & ~right[0]).sum()
    assert pair["kappa"] == pytest.approx(cohen_kappa_score(*(each["prediction"] for each in calls)))
    assert pair["faces"] == pair["groups"] == 84
    page = page_of(tmp_path / "r.html")
    table = page.tables["Differences in macro-F1 from run, in points, on the same samples"]
    assert table[0][-2] == f"{pair['p_value']:.2g}" and float(table[0][-2]) > 0
    assert "Side by side" in page.texts and f"{100 * pair['difference']:+.2f}" in page.texts
    assert any("other (cexpr7, 84 samples)" in text for text in page.texts)


def test_runs_that_cannot_be_compared_say_why(run, tmp_path):
    path = tmp_path / "other" / "predictions.csv"
    path.write_text(path.read_text().replace("store/", "elsewhere/"))
    reported = report([run, tmp_path / "other"], out=tmp_path / "r.html")
    obstacle = reported.values["against_the_first"][0]["obstacle"]
    assert obstacle == "no sample that both were tested on" and obstacle in page_of(tmp_path / "r.html").texts


def test_streams_are_left_out_of_the_trained_head(run, tmp_path, cli):
    done = cli("report", run, "-o", tmp_path / "r.html", "--store", tmp_path / "store", "--json")
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)["runs"]
    streams = record["streams"]
    assert streams["macro_f1"] == record["systems"][-1]["macro_f1"] and streams["differing_calls"] == 0
    trained, store = read_run(run), Store(tmp_path / "store")
    features, _ = trained.features(store)
    rows = np.flatnonzero(features.split == "test")
    raw, calls = features.read(rows, [0, 1]), {}
    for name, columns in (("a", slice(12, 20)), ("b", slice(0, 12))):  # at the mean: the other's
        members = []
        for member in range(trained.head.spec.members):
            matrix = raw.copy()
            matrix[:, columns] = trained.head.mean[member, 0, columns].numpy()
            logits = trained.head(torch.from_numpy(matrix)).logits[member]
            members.append(logits.softmax(dim=-1).detach().numpy())
        calls[name] = np.mean(members, axis=0).argmax(axis=1)
    truth = features.label[rows]
    for part, alone, other in zip(streams["streams"], "ab", "ba", strict=True):
        assert part["alone"] == pytest.approx(f1_score(truth, calls[alone], average="macro"))
        without = f1_score(truth, calls[other], average="macro") - streams["macro_f1"]
        assert part["without"] == pytest.approx(without)
    assert streams["agreement"][0][1] == pytest.approx(cohen_kappa_score(calls["a"], calls["b"]))
    assert percent(streams["streams"][0]["alone"]) in page_of(tmp_path / "r.html").texts


def test_the_map_has_each_scored_sample_and_tells_errors_by_shape(run, tmp_path):
    report([run], out=tmp_path / "r.html", store=tmp_path / "store")
    predictions, analysis = read_run(run).predictions, analyse_on_store(read_run(run), tmp_path / "store")
    assert sorted(analysis.rows) == list(range(84)) and (analysis.positions.min(), analysis.positions.max()) == (0, 1)
    nearest = NearestNeighbors(n_neighbors=2).fit(analysis.positions).kneighbors(return_distance=False)[:, 0]
    target, wrong = predictions.target[analysis.rows], predictions.target != predictions.predicted
    assert (target[nearest] == target).mean() > 0.6  # by chance 0.14
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    for name in ("target", "prediction"):  # the map is drawn twice, and one of them is shown
        start = text.index(f'<div class="wide {name}"')
        drawing = text[start:text.index("</svg>", start)]
        groups = re.findall(r'<g class="(right|wrong)">(.*?)</g>', drawing, re.DOTALL)
        titles = {kind: {title.partition(":")[0] for found, group in groups if found == kind
                         for title in re.findall("<title>(.*?)</title>", group)} for kind in ("right", "wrong")}
        assert titles["wrong"] == set(predictions.key[wrong])
        assert titles["right"] == set(predictions.key[~wrong])


def test_an_image_is_listed_once_whatever_its_keys(run, tmp_path):
    path = run / "predictions.csv"
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    copies = [line.replace("store/", f"copy{number}/") for number in range(3) for line in lines]
    path.write_text("\n".join([header, *lines, *copies]) + "\n", encoding="utf-8")
    report([run], out=tmp_path / "r.html")
    tables = page_of(tmp_path / "r.html").tables
    listed = [row for name in ("The most confident errors", "The least confident predictions") for row in tables[name]]
    names = [row[0].partition("/")[2] for row in listed]
    assert len(names) == len(set(names)) == 30
    every = read_run(run).predictions.select(np.arange(3))  # a right one hides no errors that are as sure
    sure = replace(every, target=np.array([0, 1, 2]), truth=np.eye(7)[:3], calibrated=np.eye(7)[[0, 0, 0]],
                   outputs=np.eye(7)[None, [0, 0, 0]])
    assert _listed(sure) == [("The most confident errors", [1, 2]), ("The least confident predictions", [0])]


def test_what_cannot_be_is_a_sentence_and_no_page(run, tmp_path, make_store):
    elsewhere = make_store(name="elsewhere", seed=3)
    for error, reason, options in (
            (InputError, "none of the samples that it was scored on is in the store", {"store": elsewhere}),
            (CacheError, "has no features of", {"store": tmp_path}),
            (InputError, "it is a folder", {"out": tmp_path}),
            (InputError, "its folder is missing", {"out": tmp_path / "none" / "r.html"}),
            (InputError, "a report is an HTML page", {"out": tmp_path / "r.pdf"}),
            (InputError, "not a folder", {"figures": run / "run.json"})):
        with pytest.raises(error, match=reason):
            report([run], **({"out": tmp_path / "r.html"} | options))
    with pytest.raises(InputError, match=r"not a run \(no run\.json"):
        report([tmp_path], out=tmp_path / "r.html")
    assert not list(tmp_path.glob("r.*"))


def test_images_are_shown_only_with_a_root_and_a_missing_one_is_said(run, tmp_path, cli):
    keys = pd.read_csv(run / "predictions.csv")["key"].tolist()
    exif = Image.Exif()
    exif[0x010E] = "at home"  # ImageDescription
    for number, key in enumerate(keys):
        path = tmp_path / "root" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (300, 200), (number % 256, 80, 120)).save(path, exif=exif)
    report([run], out=tmp_path / "keys.html")
    assert "personal data" not in (tmp_path / "keys.html").read_text(encoding="utf-8")
    done = cli("report", run, "-o", tmp_path / "r.html", "--root", tmp_path / "root")
    assert done.returncode == 0, done.stderr
    page = page_of(tmp_path / "r.html")
    assert any("personal data" in text for text in page.texts)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert images and {image["alt"] for image in images} <= set(keys)
    for image in images:
        head, _, content = image["src"].partition(",")
        assert head == "data:image/jpeg;base64"
        picture = Image.open(io.BytesIO(base64.b64decode(content)))
        assert picture.size == (96, 64) and not picture.getexif()
    for key in keys:
        (tmp_path / "root" / key).write_bytes(b"not an image")
    report([run], out=tmp_path / "r.html", root=tmp_path / "root", overwrite=True)
    page = page_of(tmp_path / "r.html")
    assert "no picture: not an image" in page.texts and not any(tag == "img" for tag, _ in page.tags)
    (tmp_path / "elsewhere").mkdir()
    for key in keys:  # as DVC and git-annex keep images
        Image.new("RGB", (60, 60)).save(tmp_path / "elsewhere" / key.replace("/", "-"))
        (tmp_path / "root" / key).unlink()
        (tmp_path / "root" / key).symlink_to(tmp_path / "elsewhere" / key.replace("/", "-"))
    for option, pictures in (((), 0), (("--follow-links",), len(images))):
        done = cli("report", run, "-o", tmp_path / "r.html", "--root", tmp_path / "root", "--overwrite", *option)
        page = page_of(tmp_path / "r.html")
        assert done.returncode == 0 and sum(tag == "img" for tag, _ in page.tags) == pictures, done.stderr
        assert any("--follow-links reads it" in text for text in page.texts) == (not pictures)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"none of .* images tried is below"):
        report([run], out=tmp_path / "other.html", root=tmp_path / "empty")


def test_the_bins_are_those_of_the_predictions(trained):
    bins = read_run(trained / "run").metrics.systems[-1].reliability
    table = pd.read_csv(trained / "run" / "predictions.csv").query("split == 'test'")
    confidence = table.iloc[:, 5:].to_numpy().max(axis=1)
    right = (table["truth"] == table["prediction"]).to_numpy()
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        assert bins.faces[number] == inside.sum() and bins.right[number] == right[inside].sum()
        assert bins.confidence[number] == pytest.approx(confidence[inside].sum(), abs=1e-4)


def test_every_row_of_an_untrained_encoder_says_so(make_store, tmp_path):
    store = make_store(noise=1.0, changes={"weights": "random:0"})
    fuse([store], resolve(changes=QUICK | {"epochs": 1}), out=tmp_path / "run")
    report([tmp_path / "run"] * 2, out=tmp_path / "r.html", store=store)
    page = page_of(tmp_path / "r.html")
    rows = [row[0] for table in page.tables.values() for row in table]
    streams = [row for row in rows if re.search(r"timm:|fusion of|^run", row)]
    assert len(streams) > 10 and all("* UNTRAINED" in row for row in streams)
    told = [caption for caption in page.tables
            if re.search("by the fusion|samples by target|Without a stream", caption)]
    assert told and all("* UNTRAINED" in caption for caption in told)
    assert "random numbers: none" in page.texts
    run = read_run(tmp_path / "run")
    for name, drawing in drawings_of(run, analyse_on_store(run, store)).items():
        assert "* UNTRAINED" in drawing.inline(), name


def test_licences_stand_beside_the_encoders_where_they_are_stated(run, tmp_path, cli):
    names = ["posterv2", "timm:vit_base_patch16_224.mae?size=112", "timm:no_such_one", "onnx:x", "torchvision:vgg11"]
    assert licences(names) == {"posterv2": "MIT", names[1]: "cc-by-nc-4.0, for timm's own weights"}

    def change(record):
        record["streams"][0]["backbone"] = record["streams"][0]["recipe"]["backbone"] = "vit_mae"

    edit_record(run, change)
    done = cli("report", run, "-o", tmp_path / "r.html", "--json")
    assert json.loads(done.stdout)["licences"] == {"vit_mae": "CC-BY-NC-4.0"}, done.stderr
    assert [row[-1] for row in page_of(tmp_path / "r.html").tables["Encoders"]] == ["CC-BY-NC-4.0", "not stated"]


def test_drawings_are_files_for_a_paper(run, tmp_path):
    for overwrite in (False, True):  # the same bytes again, whatever the time
        done = report([run], out=tmp_path / "r.html", figures=tmp_path / "figures", overwrite=overwrite)
    files = list(map(Path, done.values["figures"]))
    assert len(files) == 3 * 9 and {path.suffix for path in files} == {".svg", ".pdf", ".png"}
    for path in files:
        if path.suffix == ".svg":
            text = path.read_text(encoding="utf-8")
            assert "var(" not in text and ElementTree.fromstring(text).tag == f"{SVG}svg"
        elif path.suffix == ".png":
            picture = Image.open(path)
            assert min(picture.size) > 400 and round(picture.info["dpi"][0]) == 300
            assert len(picture.getcolors(1 << 22)) > 20
        else:
            assert path.read_bytes().startswith(b"%PDF")
    matrix = ElementTree.parse(tmp_path / "figures" / "confusion-3.svg").getroot()
    counts = [int(text.text) for text in matrix.iter(f"{SVG}text") if text.text.isdecimal()]
    assert counts == np.array(read_run(run).metrics.systems[-1].confusion).ravel().tolist()
    (tmp_path / "figures" / "map-target.png").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"map-target\.png is there already and is not a drawing of `report`"):
        report([run], out=tmp_path / "r.html", figures=tmp_path / "figures", store=tmp_path / "store", overwrite=True)


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_package_is_one_sentence(run, tmp_path, cli, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    for module in ("figures", "report"):
        monkeypatch.delitem(sys.modules, f"twofold.fuse.report.{module}")
    done = cli("report", run, "-o", tmp_path / "r.html")
    assert done.returncode == 2 and "pip install 'twofold[report]'" in done.stderr and package in done.stderr


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine (Debian: apt install chromium)")
def test_a_browser_shows_it_and_asks_nobody(run, tmp_path):
    report([run, tmp_path / "other"], out=tmp_path / "r.html", store=tmp_path / "store")
    browser = Browser(tmp_path / "profile")
    try:
        for width in (1280, 400):
            browser.look(width=width, height=900)
            browser.open((tmp_path / "r.html").as_uri())
            assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
        shown = "[...document.querySelectorAll('#run0 .map .wide')].map(each => each.getClientRects().length)"
        assert browser.run(shown) == [1, 0]
        browser.run("document.querySelector('#run0 .by-prediction').click()")
        assert browser.run(shown) == [0, 1]
        wrong = "document.querySelectorAll('#run0 .prediction .right')[0].getBoundingClientRect().width"
        assert browser.run(wrong) > 0
        browser.run("document.querySelector('#run0 .errors').click()")
        assert browser.run(wrong) == 0
        ink = "getComputedStyle(document.querySelector('svg text')).fill"
        light = browser.run(ink)
        browser.look(width=400, height=900, dark=True)
        assert browser.run(ink) != light
        assert not [url for url in browser.requests if urlsplit(url).scheme not in ("file", "about", "data")]
        assert not browser.messages
    finally:
        browser.close()
