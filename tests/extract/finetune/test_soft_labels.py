"""Votes teach as they were given: the loss of a step, which label teaches, and what is said about it."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax

from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import build_manifest, write_manifest
from twofold.data.utils.errors import InputError
from twofold.extract.finetune.data import make_splits
from twofold.extract.finetune.finetune import finetune
from twofold.extract.finetune.settings import resolve
from twofold.extract.finetune.targets import make_targets
from twofold.extract.weights.read import safetensors_metadata

BASICS = builtin_taxonomy("basic7").classes
PLAIN = {"flip": 0.0, "shift": 0.0, "rotate": 0.0, "crop": 1.0, "jitter": 0.0}


@pytest.fixture
def voted(faces, tmp_path, draw):
    """The drawn faces, two thirds of them with ten votes on the seven basics, whatever their hard labels."""
    table = faces.table.table.copy()
    votes = draw.multinomial(10, draw.dirichlet(np.ones(7), len(table))) * (draw.random(len(table)) < 0.67)[:, None]
    table = table.assign(**{f"p_{name}": votes[:, place] for place, name in enumerate(BASICS)})
    write_manifest(build_manifest(table, source="drawn"), tmp_path / "voted.csv")
    return tmp_path / "voted.csv"


def table_of(**columns) -> pd.DataFrame:
    """Four samples: hard and soft labels that agree, that contradict, soft alone, hard alone."""
    return pd.DataFrame({"key": [f"{name}.png" for name in "abcd"], "basic": ["fear", "fear", "", "anger"],
                         **{f"p_{name}": "0" for name in BASICS}, "p_fear": ["6", "1", "2", ""],
                         "p_anger": ["4", "3", "6", ""]} | columns)


def targets_of(table: pd.DataFrame, **chosen):
    return make_targets(build_manifest(table, source="test"), resolve(preset="quick", chosen=chosen))


@pytest.mark.parametrize("teach", ["soft", "hard"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_loss_and_gradients_of_a_step_equal_a_plain_loop(loop_of, voted, teach, accumulate):
    loop = loop_of(manifest=voted, target="both", teach=teach, class_weights=0.5, basic_weight=0.7,
                   accumulate=accumulate, backbone="timm:test_vit", **PLAIN)
    plain, batch, basics = copy.deepcopy(loop.model).train(), loop.order(0)[:16], builtin_taxonomy("basic7").classes
    loss = loop.backward(batch)
    images = loop.images.read(batch).permute(0, 3, 1, 2).float()
    logits = plain(loop.images.preprocessing.normalize(images)).split(loop.loss.widths, 1)
    table = pd.read_csv(voted, keep_default_na=False)
    expected = torch.zeros(())
    for place, (column, names) in enumerate({"basic": basics, "compound": builtin_taxonomy("cexpr7").classes}.items()):
        rows = []  # of each sample with a label: its place in the batch, what it teaches, and whether that is soft
        for number, row in enumerate(table.iloc[loop.splits.train].to_dict("records") + table.iloc[batch].to_dict(
                "records")):
            votes = [row[f"p_{name}"] for name in basics] if column == "basic" else [0]
            hard = [float(name == row[column]) for name in names]
            if sum(votes) and not (teach == "hard" and sum(hard)):
                rows.append((number, [vote / sum(votes) for vote in votes], True))
            elif sum(hard):
                rows.append((number, hard, False))
        train = len(loop.splits.train)
        counts = np.sum([shares for number, shares, _ in rows if number < train], axis=0)
        weight = np.maximum(counts, 1) ** -0.5
        weight *= counts.sum() / (weight * counts).sum()
        total, block = 0.0, torch.zeros(())
        for number, shares, soft in rows:
            if number >= train:
                own = sum(w * share for w, share in zip(weight, shares, strict=True))
                taught = torch.tensor(shares if soft else [0.9 * share + 0.1 / 7 for share in shares])
                block = block - own * (taught * logits[place][number - train].log_softmax(0)).sum()
                total += own
        expected = expected + (0.7 if column == "basic" else 1.0) * block / total
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for (name, ours), theirs in zip(loop.model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_each_sample_teaches_what_it_has_and_contradictions_are_counted():
    fear, anger = BASICS.index("fear"), BASICS.index("anger")
    for teach, first, second in (("soft", (0.6, 0.4), (0.25, 0.75)), ("hard", (1, 0), (1, 0))):
        targets, notes = targets_of(table_of(), teach=teach)
        shares = targets["basic"].values[:, [fear, anger]]
        np.testing.assert_allclose(shares, [first, second, (0.25, 0.75), (0, 1)], rtol=1e-6)
        assert targets["basic"].labels.tolist() == [fear, fear, anger, anger]
        assert targets["basic"].soft.tolist() == [teach == "soft", teach == "soft", True, False]
        assert any("1 of 2 samples with both have a hard label that is not their largest" in note for note in notes)
    targets, notes = targets_of(table_of(), task="classification")
    assert targets["basic"].labels.tolist() == [fear, fear, -1, anger] and not notes
    assert targets["basic"].values.sum(axis=1).tolist() == [1, 1, 0, 1]


def test_votes_for_other_things_are_no_label_of_these_classes():
    other = {"p_contempt": ["0", "0", "9", ""], "p_unknown": ["1", "5", "0", ""]}
    targets, notes = targets_of(table_of(**other))
    assert targets["basic"].soft.tolist() == [True, False, False, False]
    assert targets["basic"].values[0, BASICS.index("fear")] == pytest.approx(0.6)
    assert any("1 samples have more than half of their shares in none of basic7" in note for note in notes)
    most, _ = targets_of(table_of(p_unknown=["7", "0", "0", ""]))  # more than fear's 6, less than half: as in fuse
    assert most["basic"].soft.tolist() == [False, True, True, False]
    with_all, _ = targets_of(table_of(**other), classes="basic8")
    assert with_all["basic"].soft.tolist() == [True, False, True, False]


def test_rows_of_pictures_without_a_face_are_no_samples():
    keys = [f"{row}.png{'.noface' * (row > 11)}" for row in range(16)]
    table = pd.DataFrame({"key": keys, "basic": ["fear", "anger"] * 8,
                          "split": ["train"] * 10 + ["test"] * 2 + ["train"] * 2 + ["test"] * 2})
    splits = make_splits(build_manifest(table, source="test"), resolve(preset="quick", chosen={}))
    assert sorted([*splits.train, *splits.val]) == list(range(10)) and splits.test.tolist() == [10, 11]


def test_the_task_follows_from_the_columns():
    lacking = table_of().drop(columns="p_disgust")
    assert targets_of(lacking)[0]["basic"].task == "classification"
    assert targets_of(table_of())[0]["basic"].task == "distribution"
    both, _ = targets_of(table_of(compound="sadly_angry"), target="both")
    assert [target.task for target in both.values()] == ["distribution", "classification"]
    with pytest.raises(InputError, match="no soft labels in columns p_<class> for all classes of basic7"):
        targets_of(lacking, task="distribution")


def test_scores_equal_plain_formulas(draw):
    table = pd.DataFrame({"key": [f"{row}.png" for row in range(50)],
                          **{f"p_{name}": draw.integers(0, 6, 50) for name in BASICS}})
    target = targets_of(table)[0]["basic"]
    logits = draw.normal(size=(50, 7)).astype(np.float32)
    loss, scores = target.score(np.arange(50), torch.from_numpy(logits))
    votes = table.iloc[:, 1:].to_numpy(float)
    shares, predicted = votes / votes.sum(axis=1, keepdims=True), softmax(logits, axis=1)
    assert next(iter(scores)) == "intersection"
    assert scores["kl"] == pytest.approx(rel_entr(shares, predicted).sum(axis=1).mean(), rel=1e-4)
    assert scores["intersection"] == pytest.approx(np.minimum(shares, predicted).sum(axis=1).mean(), rel=1e-5)
    assert loss == pytest.approx(-(shares * log_softmax(logits, axis=1)).sum(axis=1).mean(), rel=1e-5)
    clear = [sorted(row)[-1] > sorted(row)[-2] for row in votes.tolist()]
    assert scores["accuracy"] == pytest.approx((votes.argmax(1) == logits.argmax(1))[clear].mean())


def test_soft_labels_are_of_the_training_and_said(request_for, voted):
    chosen = {"manifest": voted, "epochs": 1, "target": "both"}
    report = finetune(request_for("soft.safetensors", **chosen))
    soft = safetensors_metadata(report.request.out)
    hard = safetensors_metadata(finetune(request_for("hard.safetensors", task="classification", **chosen)).request.out)
    assert soft["training"] != hard["training"] and "val_basic_kl" in soft["validation"] not in hard["validation"]
    assert "basic: task distribution, by the columns p_<class>:" in report.text() and "kl " in report.text()
    assert list(report.progress.history[0].scores["compound"]) == ["macro_f1", "accuracy"]
