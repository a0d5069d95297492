"""The page of a run: its numbers are those of metrics.json, nothing in it loads or runs, names are escaped."""

import base64
import io
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import cohen_kappa_score, f1_score
from sklearn.neighbors import NearestNeighbors

from tests.fuse.conftest import write_store
from twofold.cache.store import Store
from twofold.data.utils.errors import InputError
from twofold.fuse.fuse import fuse
from twofold.fuse.report.report import report
from twofold.fuse.runs.run import read_run
from twofold.fuse.settings import resolve

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a store, and a run of it. Read only."""
    folder = tmp_path_factory.mktemp("trained")
    settings = resolve(changes={"epochs": 4, "lr": 3e-3, "hidden": 16, "seeds": 2, "batch_size": 64, "head": "gated"})
    fuse([write_store(folder, noise=1.0)], settings, out=folder / "run")
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run, beside one of its store."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run"


class Page(HTMLParser):
    """The texts of a page, its tags with their attributes, and whether every tag is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.texts, self.tags, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "wbr", "img", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_the_numbers_are_those_of_the_run(run, tmp_path, cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)  # PNG files are looked at elsewhere
    done = cli("report", run, "-o", tmp_path / "r.html", "--figures", tmp_path / "figures", "--json")
    assert done.returncode == 0, done.stderr
    systems = json.loads((run / "metrics.json").read_text())["systems"]
    assert json.loads(done.stdout)["runs"][0]["systems"] == systems
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert not page.open
    for system in systems:
        assert f"{100 * system['macro_f1']:.2f}" in page.texts and system["name"] in page.texts
    counts = [count for row in systems[-1]["confusion"] for count in row]
    cells = [text for text in page.texts if re.fullmatch(r"\d+", text)]
    assert all(str(count) in cells for count in counts)
    labels = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    assert len(labels) == 6 and all(labels)  # two forests, two of reliability, two learning curves
    for path in (tmp_path / "figures").glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_nothing_leaves_the_page(run, tmp_path):
    report([run], out=tmp_path / "r.html")
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert not {"script", "img", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert all(value.startswith("#") for _, attributes in page.tags
               for name, value in attributes.items() if name in ("href", "src"))
    assert (tmp_path / "r.html").stat().st_size < 200_000


def test_names_from_a_stranger_are_text(run, tmp_path):
    for name in ("run.json", "metrics.json", "predictions.csv"):
        text = (run / name).read_text(encoding="utf-8").replace("timm:a", "<script>alert(1)</script>")
        (run / name).write_text(text.replace("store/00", "<b onload=x>/00"), encoding="utf-8")
    report([run], out=tmp_path / "r.html")
    tags = {tag for tag, _ in Page((tmp_path / "r.html").read_text(encoding="utf-8")).tags}
    assert "script" not in tags and "b" not in tags


def test_several_runs_stand_side_by_side(run, tmp_path, cli):
    other = _trained_again(run, tmp_path / "other")
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
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "Side by side" in page.texts and "other (cexpr7, 84 faces)" in page.texts and not page.open
    assert f"{100 * pair['difference']:+.2f}" in page.texts


def test_groups_are_those_of_the_store(run, tmp_path):
    other = _trained_again(run, tmp_path / "other")
    manifest = tmp_path / "store" / "manifest.csv"
    table = pd.read_csv(manifest, keep_default_na=False)
    table["group"] = [f"g{number % 20}" for number in range(len(table))]
    table.to_csv(manifest, index=False)
    alone = report([run, other], out=tmp_path / "r.html").compared[0]
    grouped = report([run, other], out=tmp_path / "g.html", store=tmp_path / "store").compared[0]
    assert alone.comparison.groups == 84 and grouped.comparison.groups < 20
    assert alone.comparison.difference == grouped.comparison.difference


@pytest.mark.parametrize(("file", "old", "new", "why"), [
    ("predictions.csv", "store/", "elsewhere/", "no face that both scored"),
    ("metrics.json", '"sadly_angry"', '"angrily_disgusted"', "other classes"),
])
def test_runs_that_cannot_be_compared_say_why(run, tmp_path, file, old, new, why):
    shutil.copytree(run, tmp_path / "other")
    for name in {file, "predictions.csv"}:
        path = tmp_path / "other" / name
        path.write_text(path.read_text().replace(old, new).replace(old.strip('"'), new.strip('"')))
    reported = report([run, tmp_path / "other"], out=tmp_path / "r.html")
    assert reported.compared[0].obstacle == why
    assert why in Page((tmp_path / "r.html").read_text(encoding="utf-8")).texts


def _trained_again(run, out):
    """A run of another head on the same store."""
    settings = resolve(changes={"epochs": 2, "lr": 1e-3, "hidden": 16, "batch_size": 64, "seeds": 1, "head": "mlp"})
    fuse([run.parent / "store"], settings, out=out)
    return out


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
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert not page.open and f"{100 * streams['streams'][0]['alone']:.2f}" in page.texts


def test_the_map_has_each_scored_face_and_tells_errors_by_shape(run, tmp_path):
    reported = report([run], out=tmp_path / "r.html", store=tmp_path / "store", figures=tmp_path / "figures")
    answers, embedding = reported.runs[0].answers, reported.stored[0].embedding
    assert sorted(embedding.rows) == list(range(84)) and embedding.places.min() == 0 and embedding.places.max() == 1
    nearest = NearestNeighbors(n_neighbors=2).fit(embedding.places).kneighbors(return_distance=False)[:, 0]
    label = answers.truth[embedding.rows]
    assert (label[nearest] == label).mean() > 0.6  # by chance 0.14
    faces = [group for group in ElementTree.parse(tmp_path / "figures" / "map.svg").getroot().iter(f"{SVG}g")
             if group.find(f"{SVG}title") is not None]
    assert {face.find(f"{SVG}title").text.partition(":")[0] for face in faces} == set(answers.keys)
    crosses = [face for face in faces if face.find(f"{SVG}path") is not None]
    assert len(crosses) == answers.wrong.sum() > 0
    assert all("wrong" in face.get("class").split() for face in crosses)


def test_a_store_of_other_faces_is_refused(run, tmp_path, make_store):
    with pytest.raises(InputError, match="none of the faces that it was scored on is in the store"):
        report([run], out=tmp_path / "r.html", store=make_store(name="other", seed=3))
    with pytest.raises(InputError, match=r"manifest\.csv"):
        report([run], out=tmp_path / "r.html", store=tmp_path)
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize("change", [
    {"n": "<b>84</b>"}, {"macro_f1": None}, {"name": 3}, {"confusion": [[1, 2], [3, 4]]}, {"per_class": {}},
    {"accuracy_interval": ["<b>", 1]}, {"contributions": {"a": "<b>"}}, {"uar": [1]},
])
def test_figures_that_are_none_are_refused(run, tmp_path, change):
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["systems"][-1] |= change
    (run / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(InputError, match="run does not read back"):
        report([run], out=tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_what_is_no_run_and_what_cannot_be_written(run, tmp_path):
    with pytest.raises(InputError, match=r"not a run \(no run\.json\)"):
        report([tmp_path], out=tmp_path / "r.html")
    with pytest.raises(InputError, match="it is a folder"):
        report([run], out=tmp_path)
    with pytest.raises(InputError, match="its folder is missing"):
        report([run], out=tmp_path / "none" / "r.html")
    (run / "metrics.json").write_text('{"classes": 3}')
    with pytest.raises(InputError, match="run does not read back"):
        report([run], out=tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_faces_are_shown_only_with_a_root(run, tmp_path, cli):
    keys = [line.split(",")[0] for line in (run / "predictions.csv").read_text(encoding="utf-8").splitlines()[1:]]
    for number, key in enumerate(keys):
        path = tmp_path / "root" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (300, 200), (number % 256, 80, 120)).save(path, exif=_with_a_place())
    report([run], out=tmp_path / "keys.html")
    assert "personal data" not in (tmp_path / "keys.html").read_text(encoding="utf-8")
    done = cli("report", run, "-o", tmp_path / "r.html", "--root", tmp_path / "root")
    assert done.returncode == 0, done.stderr
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert any("personal data" in text for text in page.texts)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert images and {image["alt"] for image in images} <= set(keys)
    for image in images:
        head, _, content = image["src"].partition(",")
        assert head == "data:image/jpeg;base64"
        picture = Image.open(io.BytesIO(base64.b64decode(content)))
        assert picture.size == (96, 64) and not picture.getexif()
    assert (tmp_path / "r.html").stat().st_size < 300_000


def test_a_picture_that_does_not_read_is_said_and_a_wrong_root_refused(run, tmp_path):
    rows = [line.split(",")[0] for line in (run / "predictions.csv").read_text(encoding="utf-8").splitlines()[1:]]
    for key in rows:
        path = tmp_path / "root" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no picture")
    report([run], out=tmp_path / "r.html", root=tmp_path / "root")
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "no picture" in page.texts and not any(tag == "img" for tag, _ in page.tags)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"none of .* faces tried is below"):
        report([run], out=tmp_path / "other.html", root=tmp_path / "empty")
    assert not (tmp_path / "other.html").exists()


def _with_a_place() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010E] = "at home"  # ImageDescription
    return exif
