"""Action units, valence and arousal beside classes: the loss of a step, scores, files, and wrong input."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from scipy.stats import pearsonr
from sklearn.metrics import average_precision_score, f1_score

from twofold.cache.store import Store
from twofold.data.manifest import build_manifest, write_manifest
from twofold.data.utils.errors import InputError
from twofold.extract.finetune.finetune import finetune
from twofold.extract.finetune.settings import resolve
from twofold.extract.finetune.targets import make_targets
from twofold.extract.weights.read import safetensors_metadata

PLAIN = {"flip": 0.0, "shift": 0.0, "rotate": 0.0, "crop": 1.0, "jitter": 0.0}
UNITS, AFFECT = ["au_1", "au_12"], ["valence", "arousal"]


@pytest.fixture
def rated(faces, tmp_path, draw):
    """The drawn faces with two action units and two numbers, a third of the cells of each empty."""
    table, count = faces.table.table.copy(), len(faces.table)
    cells = {name: draw.integers(0, 4, count).astype(str) for name in UNITS}
    cells |= {name: draw.uniform(-1, 1, count).round(3).astype(str) for name in AFFECT}
    table = table.assign(**{name: np.where(draw.random(count) < 0.33, "", column) for name, column in cells.items()})
    write_manifest(build_manifest(table, source="drawn"), tmp_path / "rated.csv")
    return tmp_path / "rated.csv"


def concordance(x, y):
    """Lin's, by its definition."""
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    return 2 * covariance / (((x - x.mean()) ** 2).mean() + ((y - y.mean()) ** 2).mean() + (x.mean() - y.mean()) ** 2)


@pytest.mark.parametrize("balance", [0.0, 1.0])
def test_loss_and_gradients_of_a_step_equal_a_plain_loop(loop_of, rated, balance):
    loop = loop_of(manifest=rated, task="classification,multilabel,regression", task_weights="1,0.5,0.25",
                   class_weights=balance, label_smoothing=0.0, backbone="timm:test_vit", **PLAIN)
    plain, batch = copy.deepcopy(loop.model).train(), loop.order(0)[:16]
    loss, table = loop.backward(batch), pd.read_csv(rated)
    images = loop.images.read(batch).permute(0, 3, 1, 2).float()
    logits, units, numbers = plain(loop.images.preprocessing.normalize(images)).split([7, 2, 2], 1)
    basic = loop.splits.targets["basic"]
    labels = torch.from_numpy(basic.labels[batch])
    expected = torch.nn.functional.cross_entropy(logits, labels, basic.class_weights, ignore_index=-1)
    each, total = torch.zeros(()), 0.0
    for place, name in enumerate(UNITS):
        train = table[name].iloc[loop.splits.train]
        count = {True: int((train >= 1).sum()), False: int((train < 1).sum())}
        scale = sum(count.values()) / sum(number ** (1 - balance) for number in count.values())
        for sample, cell in enumerate(table[name].iloc[batch]):
            if not np.isnan(cell):
                weight = count[bool(cell >= 1)] ** -balance * scale
                probability = units[sample, place].double().sigmoid()
                each = each - weight * (probability if cell >= 1 else 1 - probability).log()
                total += weight
    expected = expected + 0.5 * each / total
    each, total = torch.zeros(()), 0
    for place, name in enumerate(AFFECT):
        truth = torch.from_numpy(table[name].iloc[batch].to_numpy())
        known = ~truth.isnan()
        x, y = numbers[known, place].double(), truth[known]
        each = each + len(y) * (((x - y) ** 2).mean() + 1 - concordance(x, y))
        total += len(y)
    expected = expected + 0.25 * each / total
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for (name, ours), theirs in zip(loop.model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_scores_equal_independent_ones(rated, draw):
    manifest = build_manifest(pd.read_csv(rated, dtype=str, keep_default_na=False), source="test")
    targets, _ = make_targets(manifest, resolve(preset="quick", chosen={"task": "multilabel,regression"}))
    rows, table = np.arange(len(manifest)), pd.read_csv(rated)
    logits = draw.normal(size=(len(rows), 2)).round(1).astype(np.float32)  # with ties
    _, labels = targets["multilabel"].score(rows, torch.from_numpy(logits))
    _, numbers = targets["regression"].score(rows, torch.from_numpy(logits))
    precision, f1, ccc, rmse = [], [], [], []
    for place, (unit, number) in enumerate(zip(UNITS, AFFECT, strict=True)):
        known = table[unit].notna().to_numpy()
        truth, score = table[unit][known] >= 1, logits[known, place]
        precision.append(average_precision_score(truth, score))
        f1.append(f1_score(truth, score > 0))
        known = table[number].notna().to_numpy()
        x, y = logits[known, place].astype(float), table[number][known].to_numpy()
        ccc.append(2 * pearsonr(x, y)[0] * x.std() * y.std() / (x.var() + y.var() + (x.mean() - y.mean()) ** 2))
        rmse.append(np.sqrt(((x - y) ** 2).mean()))
    assert labels == pytest.approx({"mean_ap": np.mean(precision), "macro_f1": np.mean(f1)}, rel=1e-6)
    assert numbers == pytest.approx({"ccc": np.mean(ccc), "rmse": np.mean(rmse)}, rel=1e-5)


def test_a_file_without_classes_still_says_who_taught_it(cli, request_for, faces, rated, tmp_path):
    request = request_for(manifest=rated, task="multilabel,regression", labels="au_12,valence", epochs=1, mixup=0.2,
                          accumulate=2)
    report, tensors = finetune(request), load_file(request.out)
    assert "multilabel mean AP" in report.text() and "regression ccc" in report.text()
    metadata = safetensors_metadata(request.out)
    assert json.loads(metadata["multilabel_classes"]) == ["au_12"]
    assert json.loads(metadata["regression_classes"]) == ["valence"]
    assert "val_regression_rmse" in metadata["validation"] and tensors["twofold.regression.weight"].shape[0] == 1
    done = cli("extract", faces.path, "--root", faces.root, "--store", tmp_path / "store", "--backbones",
               "timm:test_resnet", "--weights", f"timm:test_resnet={request.out}", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    classifier = Store(tmp_path / "store").find("timm:test_resnet", "original").classifier
    assert classifier is not None and classifier.classes == ("au_12",)
    assert classifier.training_samples is not None
    assert len(classifier.training_samples.sha256) == len(tensors["twofold.taught.sha256"]) > 0


@pytest.mark.parametrize(("chosen", "message"), [
    ({"task": "detection"}, "task 'detection': choose from"),
    ({"task": "classification,distribution"}, "classification or distribution"),
    ({"task": "multilabel,multilabel"}, "name each once"),
    ({"task": "regression", "classes": "basic7"}, "they go with --task classification or distribution"),
    ({"labels": "au_1"}, "they are of --task multilabel or regression"),
    ({"task": "classification,regression", "task_weights": "1"}, "one for each of 2 tasks"),
    ({"task": "regression", "task_weights": "-1"}, "a number from 0 on"),
])
def test_settings_that_do_not_hold(chosen, message):
    with pytest.raises(InputError, match=message):
        resolve(preset="quick", chosen=chosen)


def test_columns_that_teach_nothing(request_for, rated, tmp_path):
    table = pd.read_csv(rated, dtype=str, keep_default_na=False)
    for name, column, message in (("valence", "0.5", "valence is the same in all training samples"),
                                  ("au_1", "0", "no training sample differs from another in au_1: nothing"),
                                  ("au_1", "6", "row 2, column 'au_1': '6' is not a number from 0 to 5")):
        write_manifest(build_manifest(table.assign(**{name: column}), source="test"), tmp_path / "changed.csv")
        request = request_for(manifest=tmp_path / "changed.csv", task="multilabel,regression", epochs=1)
        if "nothing" in message:
            assert message in finetune(request).text()
            continue
        with pytest.raises(InputError, match=message):
            finetune(request)
