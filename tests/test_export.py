"""What `export` writes: ONNX models that say what the run says, and a card that the hub's library reads."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

import twofold
from tests.extract.encoders import load_network
from tests.fuse.conftest import edit_record, write_store
from twofold.cache.recipe import Recipe
from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import write_manifest
from twofold.data.synthetic.dataset import draw_dataset
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.preprocessing import Preprocessing
from twofold.extract.encoders.registry import load_encoder
from twofold.extract.engine.task import recipe_of
from twofold.extract.portable import PortableEncoder, export_encoders

pytest.importorskip("onnxscript", reason="writing ONNX is optional")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX is optional")
NAME = "timm:test_vit?size=64"


@pytest.fixture
def make_run(tmp_path):
    """Train a run on planted features: its store and folder."""
    def make(**settings):
        store = twofold.Store(write_store(tmp_path, rows=210))
        store.fuse(out=tmp_path / "run", **({"seeds": 2, "epochs": 2} | settings))
        return store, tmp_path / "run"

    return make


@pytest.mark.parametrize("head", ["mlp", "gated", "late", "logreg"])
def test_the_onnx_head_says_what_the_run_says(make_run, cli, tmp_path, head):
    store, run = make_run(head=head)
    done = cli("export", run, "-o", tmp_path / "export", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["largest_difference"] < 1e-5
    features = store.features()
    session = onnxruntime.InferenceSession(str(tmp_path / "export/head.onnx"))
    probabilities = session.run(None, {"features": features.X})[0]
    np.testing.assert_allclose(probabilities, twofold.Run(run).predict_proba(features.X), atol=1e-5)
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == list(features.classes) and len(json.loads(facts["streams"])) == 2


def test_the_card_is_read_by_the_hubs_library_and_has_the_runs_figures(make_run, cli, tmp_path):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    _, run = make_run(seeds=1, folds=2)
    assert cli("export", run, "-o", tmp_path / "export").returncode == 0
    card = huggingface_hub.ModelCard.load(tmp_path / "export/README.md")
    assert card.data.license == "other" and card.data.license_name and card.data.pipeline_tag == "image-classification"
    assert huggingface_hub.ModelCard(str(card)).data.to_dict() == card.data.to_dict()  # as it would write it itself
    result = card.data.eval_results[0]
    assert (result.task_type, result.metric_type, result.dataset_type) == ("image-classification", "accuracy", "cexpr7")
    metrics = json.loads((run / "metrics.json").read_text())["systems"][-1]
    assert [result.metric_value for result in card.data.eval_results] == [metrics["accuracy"], metrics["macro_f1"]]
    assert f"Of {metrics['n']} samples of 2 folds by group" in card.text
    assert f"| accuracy | {100 * metrics['accuracy']:.2f} |" in card.text and "| timm:a |" in card.text


def test_texts_of_a_received_run_are_text_on_its_card_and_odd_figures_are_refused(make_run, cli, tmp_path):
    _, run = make_run(seeds=1, epochs=1)
    evil = "x\n\n# Trust me\n<script>alert(1)</script> ![p](http://evil.test/p.png) www.evil.test `code` | cell"
    edit_record(run, lambda record: record.update(notes=[evil], crops=[f"crop {evil}"]))
    assert cli("export", run, "-o", tmp_path / "export").returncode == 0
    card = (tmp_path / "export/README.md").read_text(encoding="utf-8")
    assert "\n# Trust" not in card and "\n<script" not in card and "* x # Trust me &lt;script" in card
    assert "`crop x # Trust me <script>" in card and "\n* timm:a: `{\"size\": 32}`" in card
    notes = card[card.index("## Data"):]
    assert not any(bad in notes for bad in ("<script", "![", "://evil", "www.evil", " `code`"))
    for change in ({"macro_f1": None}, {"confusion": [[1]]}, {"per_class": {}}, {"accuracy": "<b>1</b>"}):
        bad = shutil.copytree(run, tmp_path / f"bad-{next(iter(change))}")
        metrics = json.loads((bad / "metrics.json").read_text())
        metrics["systems"][-1] |= change
        (bad / "metrics.json").write_text(json.dumps(metrics))
        for verb in (("export", bad, "-o", tmp_path / "bad"), ("report", bad, "-o", tmp_path / "bad.html")):
            done = cli(*verb)
            assert done.returncode == 2 and "the run cannot be read" in done.stderr and "Traceback" not in done.stderr
    (bad / "metrics.json").write_text((bad / "metrics.json").read_text().replace("0.", "NaN, 0."))
    assert cli("export", bad, "-o", tmp_path / "bad").returncode == 2 and not (tmp_path / "bad").exists()
    metrics |= {"systems": []}  # a run without a labelled test sample
    (bad / "metrics.json").write_text(json.dumps(metrics))
    assert cli("export", bad, "-o", tmp_path / "bad").returncode == 0


def test_a_folder_that_holds_something_is_left_alone(make_run, cli, tmp_path):
    _, run = make_run(seeds=1, epochs=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    done = cli("export", run, "-o", tmp_path / "mine")
    assert done.returncode == 2 and "holds something already" in done.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cli):
    """Drawn faces, a store of the smallest encoder that sees them and their mirror images, a run."""
    folder = tmp_path_factory.mktemp("face")
    faces = draw_dataset(folder / "faces", taxonomy=builtin_taxonomy("cexpr7"), per_class=12, size=48, seed=0,
                         per_identity=1)
    write_manifest(faces, folder / "faces.csv")
    for words in (
            ("extract", folder / "faces.csv", "--root", folder / "faces", "--store", folder / "store", "--backbones",
             NAME, "--weights", f"{NAME}=random:1", "--views", "original,flip", "--precision", "fp32", "--device",
             "cpu"),
            ("fuse", folder / "store", "--views", "original,flip", "--epochs", 60, "--lr", 0.02, "--seeds", 2,
             "--hidden", 16, "--out", folder / "run")):
        done = cli(*words)
        assert done.returncode == 0, done.stderr
    # the fitted temperature leaves all answers of random weights alike
    edit_record(folder / "run", lambda record: record.update(temperature=1.0, temperatures=[1.0]))
    return folder


@pytest.mark.slow
def test_the_model_with_encoders_says_what_predict_says(folder, cli, tmp_path):
    done = cli("export", folder / "run", "-o", tmp_path / "out", "--face", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["largest_differences"]["face.onnx"] < 1e-4
    done = cli("predict", folder / "run", folder / "faces.csv", "--root", folder / "faces", "-o", tmp_path / "p.csv")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "p.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    how = json.loads((tmp_path / "out/face.json").read_text())
    (entry,) = how["inputs"]  # both views have one input
    assert entry["shape"] == ["N", 3, 64, 64] and (entry["name"], entry["dtype"]) == ("faces", "uint8")
    recipe = entry["preprocessing"]
    prepare = Preprocessing(size=recipe["size"][0], resize=recipe["resize"], rule=recipe["resize_rule"],
                            interpolation=recipe["interpolation"]).prepare
    pixels = np.stack([prepare(Image.open(folder / "faces" / row["key"]).convert("RGB")) for row in rows])
    session = onnxruntime.InferenceSession(str(tmp_path / "out/face.onnx"), providers=["CPUExecutionProvider"])
    probabilities = session.run(None, {"faces": pixels.transpose(0, 3, 1, 2)})[0]
    expected = [[float(row[name]) for name in how["output"]["classes"]] for row in rows]
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)
    assert np.ptp(probabilities[:, 0]) > 0.01 and len(rows) == 84
    single = session.run(None, {"faces": pixels[:1].transpose(0, 3, 1, 2)})[0]
    np.testing.assert_allclose(single, probabilities[:1], atol=1e-5)
    assert [stream["licence"] for stream in how["streams"]] == ["random numbers: none"] * 2
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert f"| {NAME} * UNTRAINED |" in card and "`faces` (N, 3, 64, 64) uint8" in card


def test_weights_of_which_nobody_states_a_licence_are_not_passed_on(tmp_path):
    tensors = load_network("timm:test_vit", weights="random:3").state_dict()
    for name, metadata in (("silent", {}), ("written", {"license": "BSD-2"})):
        save_file(tensors, tmp_path / f"{name}.safetensors", metadata=metadata)
        weights = [f"timm:test_vit={tmp_path / name}.safetensors"]
        encoder = load_encoder("timm:test_vit", weights=str(tmp_path / f"{name}.safetensors"), device="cpu")
        recipe = recipe_of(replace(encoder, precision="fp32"), "original", dtype="float16")
        if metadata:
            assert export_encoders([recipe], weights=weights, stated=[]).licences == ["BSD-2"]
        else:
            with pytest.raises(InputError, match="--licence timm:test_vit=LICENCE"):
                export_encoders([recipe], weights=weights, stated=[])
        assert export_encoders([recipe], weights=weights, stated=["timm:test_vit=MIT"]).licences == ["MIT"]


@pytest.mark.slow
def test_what_cannot_be_exported_is_refused(folder, cli, tmp_path):
    recipe = Recipe(**json.loads((folder / "run/run.json").read_text())["streams"][0]["recipe"])
    with pytest.raises(InputError, match="onnx:net: an ONNX model already"):
        export_encoders([replace(recipe, backbone="onnx:net")], weights=[], stated=[])
    with pytest.raises(InputError, match="the view enhanced1 is made before a face is resized"):
        PortableEncoder(load_encoder(NAME, weights="random:1"), replace(recipe, view={"name": "enhanced1"}))
    done = cli("export", folder / "run", "-o", tmp_path / "out", "--face", "--licence", "MIT")
    assert done.returncode == 2 and "NAME=LICENCE" in done.stderr
    run = shutil.copytree(folder / "run", tmp_path / "run")
    edit_record(run, lambda record: record["streams"][0]["recipe"]["preprocessing"].update(interpolation="lanczos"))
    done = cli("export", run, "-o", tmp_path / "out", "--face")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
