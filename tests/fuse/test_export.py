"""What `export` writes: an ONNX head that says what the run says, and a card that the hub's library reads."""

import json

import numpy as np
import pytest

import twofold


@pytest.mark.parametrize("head", ["mlp", "gated", "late", "logreg"])
def test_the_onnx_head_says_what_the_run_says(make_store, cli, tmp_path, head):
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX is optional")
    pytest.importorskip("onnxscript", reason="writing ONNX is optional")
    store = twofold.Store(make_store(rows=210))
    store.fuse(out=tmp_path / "run", head=head, seeds=2, epochs=2)
    done = cli("export", tmp_path / "run", "-o", tmp_path / "export", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["largest_difference"] < 1e-5
    features = store.features()
    session = onnxruntime.InferenceSession(str(tmp_path / "export/head.onnx"))
    probabilities = session.run(None, {"features": features.X})[0]
    np.testing.assert_allclose(probabilities, twofold.Run(tmp_path / "run").predict_proba(features.X), atol=1e-5)
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == list(features.classes) and len(json.loads(facts["streams"])) == 2


def test_the_card_is_read_by_the_hubs_library_and_has_the_runs_figures(make_store, cli, tmp_path):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    pytest.importorskip("onnxscript", reason="writing ONNX is optional")
    twofold.Store(make_store(rows=210)).fuse(out=tmp_path / "run", seeds=1, epochs=2, folds=2)
    assert cli("export", tmp_path / "run", "-o", tmp_path / "export").returncode == 0
    card = huggingface_hub.ModelCard.load(tmp_path / "export/README.md")
    assert card.data.license == "other" and card.data.license_name and card.data.pipeline_tag == "image-classification"
    assert huggingface_hub.ModelCard(str(card)).data.to_dict() == card.data.to_dict()  # as it would write it itself
    result = card.data.eval_results[0]
    assert (result.task_type, result.metric_type, result.dataset_type) == ("image-classification", "accuracy", "cexpr7")
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())["systems"][-1]
    assert [result.metric_value for result in card.data.eval_results] == [metrics["accuracy"], metrics["macro_f1"]]
    assert f"Of {metrics['n']} faces of 2 folds by group" in card.text
    assert f"| accuracy | {100 * metrics['accuracy']:.1f} |" in card.text and "| timm:a |" in card.text


def test_a_folder_that_holds_something_is_left_alone(make_store, cli, tmp_path):
    twofold.Store(make_store(rows=210)).fuse(out=tmp_path / "run", seeds=1, epochs=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    done = cli("export", tmp_path / "run", "-o", tmp_path / "mine")
    assert done.returncode == 2 and "holds something already" in done.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
