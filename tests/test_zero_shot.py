"""`predict --zero-shot`: compounds from the classifiers that saved models of transformers bring, without training."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from twofold.data.labels import builtin_taxonomy
from twofold.data.synthetic.dataset import draw_face

transformers = pytest.importorskip("transformers")

VIT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32,
       "patch_size": 8}
HOW = {"size": {"height": 32, "width": 32}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
SEVEN = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
EIGHT = ["Neutral", "Happiness", "Sadness", "Surprise", "Fear", "Disgust", "Anger", "Contempt"]
WORDS = {"angry": "anger", "happy": "happiness", "sad": "sadness"}


def saved(folder, labels, seed=0):
    """A ViT of random weights, strong enough a classifier that answers differ, as `save_pretrained` writes it."""
    torch.manual_seed(seed)
    names = {"id2label": dict(enumerate(labels))} if labels else {"num_labels": 7}
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**VIT, **names)).eval()
    torch.nn.init.normal_(model.classifier.weight, std=1)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(HOW))
    return model


def basics(model, labels, face):
    """Probabilities by transformers itself, by canonical name."""
    pixels = torch.tensor(np.array(face)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        shares = model(pixel_values=(pixels - 0.5) / 0.25).logits.softmax(-1)[0].tolist()
    return {WORDS.get(name.lower(), name.lower()): share for name, share in zip(labels, shares, strict=True)}


def test_compounds_of_one_and_of_two_encoders_are_those_of_the_rule(cli, tmp_path):
    face = draw_face(identity=3, emotions=("happiness", "surprise"), size=32, seed=1).convert("RGB")
    face.save(tmp_path / "face.png")
    models = [(saved(tmp_path / "seven", SEVEN), SEVEN), (saved(tmp_path / "eight", EIGHT, 1), EIGHT)]
    for count in (1, 2):
        names = ",".join(f"hf:{tmp_path / name}" for name in ("seven", "eight")[:count])
        done = cli("predict", "--zero-shot", names, tmp_path / "face.png", "--cropped", "--json")
        assert done.returncode == 0, done.stderr
        answer, = json.loads(done.stdout)["answers"]
        each = [basics(model, labels, face) for model, labels in models[:count]]
        mean = {name: sum(one.get(name, 0) for one in each) / count for name in answer["basics"]}
        assert answer["basics"] == pytest.approx(mean, abs=0.02)  # computed in bfloat16 where that is native
        mean, scores = answer["basics"], {}
        for name, (first, second) in zip(builtin_taxonomy("cexpr7").classes, builtin_taxonomy("cexpr7").basics,
                                         strict=True):
            scores[name] = (mean[first] * mean[second]) ** 0.5
        total = sum(scores.values())
        assert answer["expressions"] == pytest.approx({name: one / total for name, one in scores.items()}, abs=1e-4)


def test_the_order_of_classes_can_be_said(cli, tmp_path):
    Image.new("RGB", (32, 32), (90, 50, 20)).save(tmp_path / "face.png")
    model = saved(tmp_path / "unnamed", None)
    name = f"hf:{tmp_path / 'unnamed'}"
    words = ("predict", "--zero-shot", name, tmp_path / "face.png", "--cropped", "--json")
    refused = cli(*words)
    assert refused.returncode == 2 and f"say it with --classes-of {name}=ORDER" in refused.stderr
    answer, = json.loads(cli(*words, "--classes-of", f"{name}={','.join(SEVEN)}").stdout)["answers"]
    expected = basics(model, SEVEN, Image.open(tmp_path / "face.png"))
    assert {basic: answer["basics"][basic] for basic in expected} == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("labels, said", [
    (["cat", "dog", "bird"], "classifier of cat, dog, bird, which are no basic expressions"),
    (["angry", "sad", "surprise", "happy"], "knows no fear and no disgust, which classes of cexpr7 are made of")])
def test_a_classifier_of_other_classes_is_a_sentence(cli, tmp_path, labels, said):
    saved(tmp_path / "other", labels)
    Image.new("RGB", (32, 32)).save(tmp_path / "face.png")
    done = cli("predict", "--zero-shot", f"hf:{tmp_path / 'other'}", tmp_path / "face.png", "--cropped")
    assert done.returncode == 2 and said in done.stderr, done.stderr


def test_options_that_do_not_go_together(cli, tmp_path):
    face = tmp_path / "face.png"
    Image.new("RGB", (32, 32)).save(face)
    for words, said in ((["starter", face, "--zero-shot", "hf:x"], "leave out starter"),
                        ([face, "--classes-of", "hf:x=rafdb"], "goes with --zero-shot"),
                        ([face, "--zero-shot", "timm:test_resnet", "--weights", "timm:test_resnet=random:0"],
                         "brings no classifier of expressions")):
        done = cli("predict", *words, "--cropped")
        assert done.returncode == 2 and said in done.stderr, done.stderr
