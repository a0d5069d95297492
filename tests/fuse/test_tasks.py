"""The four tasks on features whose truth is known, from `fuse` to predictions, beside scikit-learn and plain loops."""

import csv
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import pearsonr
from sklearn.metrics import average_precision_score, f1_score

import twofold
from tests.fuse.conftest import edit_manifest, quick, write_store
from twofold.cache.feature_file import FeatureFile
from twofold.cache.feature_writer import write_feature_file
from twofold.cache.store import Store
from twofold.data.utils.errors import InputError
from twofold.fuse.core.losses import binary_cross_entropy, concordance_loss
from twofold.fuse.core.predictions import compare_predictions, figures
from twofold.fuse.core.settings import resolve
from twofold.fuse.evaluate import evaluate
from twofold.fuse.experiment import cross_validate, prepare
from twofold.fuse.fuse import fuse
from twofold.fuse.metrics.scores import apply_temperature
from twofold.fuse.predict import PredictOptions, predict
from twofold.fuse.runs.read import read_run
from twofold.fuse.sweep import sweep

BASICS = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")  # basic7
UNITS = ("au_1", "au_4", "au_12")
NUMBERS = ("valence", "arousal")
ROWS = 420


def truth_of(rows=ROWS, seed=5):
    """Shares of the classes, labels and numbers that follow from the features' latent state, and that state."""
    generator = np.random.default_rng(seed)
    latent = generator.standard_normal((rows, 6))
    shares = np.exp(1.5 * np.c_[latent, -latent[:, :1]])
    shares /= shares.sum(axis=1, keepdims=True)
    present = latent[:, :3] > [0, 0.8, -0.5]
    numbers = np.tanh(latent[:, 3:5] * [1, 0.5])
    return latent, shares, present, numbers


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Faces whose embedding shows all of it; every seventh has no soft label, every fifth lacks one label and one
    number, the hard label is that of the largest share."""
    latent, shares, present, numbers = truth_of()
    folder = write_store(tmp_path_factory.mktemp("tasks"), {"a": ("", 12), "b": ("", 8)})

    def change(row, cells):
        hard = BASICS[shares[row].argmax()]
        soft = {f"p_{name}": "" if row % 7 == 0 else f"{shares[row, c]:.4f}" for c, name in enumerate(BASICS)}
        units = {name: "" if row % 11 == c else str(int(present[row, c])) for c, name in enumerate(UNITS)}
        values = {name: "" if row % 11 == 3 + c else f"{numbers[row, c]:.4f}" for c, name in enumerate(NUMBERS)}
        return cells | {"basic": hard, "compound": "", "group": f"g{row % 5}-{row // 20}"} | soft | units | values

    edit_manifest(folder, change)
    mix = np.random.default_rng(1).standard_normal((6, 20))
    noise = np.random.default_rng(2).standard_normal((ROWS, 20))
    x = (latent @ mix + 0.3 * noise).astype(np.float16)
    for name, columns in (("a", x[:, :12]), ("b", x[:, 12:])):
        path = folder / f"{name}.original.h5"
        file = FeatureFile(path)
        keys, sha256, recipe = list(file.keys), list(file.sha256), file.recipe
        path.unlink()
        write_feature_file(path, recipe=recipe, dim=columns.shape[1], keys=keys, sha256=sha256,
                           features=np.ascontiguousarray(columns), failures={})
    return folder


TASKS = {"distribution": {"classes": "basic7", "task": ("distribution",)},
         "multilabel": {"task": ("multilabel",)}, "regression": {"task": ("regression",)}}
EVERY_KIND = "distribution+multilabel+regression"
EVERY = {"classes": "basic7", "task": ("distribution", "multilabel", "regression"), "task_weights": ("1", "0.5", "0.5")}


def ccc(x, y):
    return 2 * np.cov(x, y, bias=True)[0, 1] / (np.var(x, ddof=0) + np.var(y, ddof=0) + (np.mean(x) - np.mean(y)) ** 2)


def slow_figures(kind, table):
    """The figures of a predictions.csv by scikit-learn, scipy and loops."""
    if kind == "distribution":
        p, q = table[[f"truth {name}" for name in BASICS]].to_numpy(), table[list(BASICS)].to_numpy()
        soft = p.sum(axis=1) > 0
        kl = np.mean([sum(a * np.log(a / b) for a, b in zip(*pair, strict=True) if a > 0)
                      for pair in zip(p[soft] / p[soft].sum(axis=1, keepdims=True), q[soft], strict=True)])
        return {"kl": kl, "macro_f1": f1_score(table["truth"], table["prediction"], labels=BASICS, average="macro"),
                "intersection": np.minimum(p[soft], q[soft]).sum(axis=1).mean()}
    if kind == "multilabel":
        f1, precision = [], []
        for name in UNITS:
            known = table[table[f"truth {name}"].notna()]
            calls = known["prediction"].map(lambda text, name=name: name in text.split(" + "))
            f1.append(f1_score(known[f"truth {name}"], calls))
            precision.append(average_precision_score(known[f"truth {name}"], known[name]))
        return {"macro_f1": np.mean(f1), "map": np.mean(precision)}
    columns = [(table.loc[table[f"truth {name}"].notna(), f"truth {name}"], table.loc[
        table[f"truth {name}"].notna(), name]) for name in NUMBERS]
    return {"ccc": np.mean([ccc(x, y) for x, y in columns]),
            "pearson": np.mean([pearsonr(x, y)[0] for x, y in columns]),
            "rmse": np.mean([np.sqrt(np.mean((x - y) ** 2)) for x, y in columns])}


GOOD = {"distribution": ("intersection", 0.75), "multilabel": ("macro_f1", 0.75), "regression": ("ccc", 0.6)}


@pytest.mark.parametrize("head", ["mlp", "linear", "gated", "logreg"])
@pytest.mark.parametrize("kind", TASKS)
def test_each_task_recovers_its_truth_and_its_figures_are_those_of_others(store, tmp_path, kind, head):
    rate = {"lr": 0.03} if head == "linear" else {}
    made = fuse([store], quick(head=head, epochs=20, **TASKS[kind], **rate), out=tmp_path / "run")
    table = pd.read_csv(tmp_path / "run/predictions.csv")
    system = json.loads((tmp_path / "run/metrics.json").read_text())["systems"][-1]
    expected = slow_figures(kind, table[table["split"] == "test"])
    assert {name: system[name] for name in expected} == pytest.approx(expected, abs=2e-5)
    name, least = GOOD[kind]
    assert system[name] > least and system[f"{name}_interval"][0] < system[name] < system[f"{name}_interval"][1]
    again = evaluate(tmp_path / "run", store)
    assert again.figures.record()[name] == pytest.approx(system[name], abs=1e-6)
    assert again.figures.score == pytest.approx(made.figures[-1].score, abs=1e-6)
    assert "95 %" in made.text() and "95 %" in again.text()


@pytest.mark.parametrize("kind", TASKS)
def test_by_folds_every_sample_is_predicted_and_evaluate_says_the_same(store, tmp_path, kind):
    made = fuse([store], quick(head="linear", lr=0.03, folds=3, **TASKS[kind]), out=tmp_path / "run")
    again = evaluate(tmp_path / "run", store)
    assert len(made.figures[-1].predictions) == ROWS == len(again.figures.predictions)
    assert again.figures.score == pytest.approx(made.figures[-1].score, abs=1e-6)


def test_test_samples_have_no_say_in_weights_thresholds_and_temperature(store, tmp_path):
    settings = quick(seeds=1, **EVERY)
    fuse([store], settings, out=tmp_path / "honest")
    other = shutil.copytree(store, tmp_path / "other")
    order = [row for row in range(ROWS) if row % 5 == 4]
    moved = dict(zip(order, np.random.default_rng(0).permutation(order), strict=True))
    with (store / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    own = [name for name in rows[0] if name not in ("key", "split", "group")]
    edit_manifest(other, lambda row, cells: cells | {name: rows[moved.get(row, row)][name] for name in own})
    fuse([other], settings, out=tmp_path / "moved")
    first, second = (read_run(tmp_path / name) for name in ("honest", "moved"))
    assert first.record.temperatures == second.record.temperatures
    assert first.record.thresholds == second.record.thresholds
    assert (tmp_path / "honest/head.safetensors").read_bytes() == (tmp_path / "moved/head.safetensors").read_bytes()


def test_a_run_is_repeated_by_its_own_record(store, tmp_path):
    fuse([store], quick(seeds=1, epochs=2, **EVERY), out=tmp_path / "run")
    again = resolve(config=tmp_path / "run/run.json")
    fuse([store], again, out=tmp_path / "again")
    assert (tmp_path / "again/predictions.csv").read_bytes() == (tmp_path / "run/predictions.csv").read_bytes()


def test_thresholds_are_the_best_on_validation_by_trying_all(store):
    work = prepare([store], quick(seeds=1, **TASKS["multilabel"]))
    _, (trained,) = cross_validate(work)
    val = work.splits[0].val
    outputs = trained.predict(work.features, val).probabilities.mean(axis=0)
    for c, threshold in enumerate(trained.calibration.thresholds):
        known = ~np.isnan(work.features.truth[val, c])
        truth, values = work.features.truth[val, c][known], outputs[known, c]
        best = max(f1_score(truth, values >= each) for each in np.unique(values))
        assert f1_score(truth, values >= threshold) == pytest.approx(best)


def test_the_temperature_of_distributions_is_the_best_for_the_votes_of_validation(store):
    work = prepare([store], quick(seeds=1, **TASKS["distribution"]))
    predictions, (trained,) = cross_validate(work)
    val = work.splits[0].val
    votes = work.features.truth[val]
    soft = votes.any(axis=1)
    outputs = trained.predict(work.features, val).probabilities.mean(axis=0)[soft]
    doubt = 1 / (soft.sum() + 1)

    def loss(temperature):
        q = outputs ** (1 / temperature)
        q = np.log(q / q.sum(axis=1, keepdims=True))
        return -np.mean(((1 - doubt) * votes[soft] * q).sum(axis=1) + doubt * q.mean(axis=1))

    tried = np.geomspace(0.1, 5, 400)
    assert trained.temperature == pytest.approx(tried[np.argmin([loss(each) for each in tried])], rel=0.02)
    assert trained.temperature != 1
    test = work.splits[0].test
    raw = trained.predict(work.features, test).probabilities.mean(axis=0)
    assert np.allclose(predictions.calibrated, apply_temperature(raw, trained.temperature), atol=1e-6)


def test_probabilities_of_rare_labels_stay_what_they_say(store):
    """The loss weighs a rare label more; the mean probability is its rate all the same."""
    work = prepare([store], quick(epochs=30, class_weights=0.5, **TASKS["multilabel"]))
    predictions, _ = cross_validate(work)
    for c in range(len(UNITS)):
        known = ~np.isnan(predictions.truth[:, c])
        assert predictions.calibrated[known, c].mean() == pytest.approx(predictions.truth[known, c].mean(), abs=0.08)


def test_missing_cells_count_in_no_loss():
    logits = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    target = (torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(1)) > 0).float()
    target[:, :2, 1] = torch.nan
    weight = torch.tensor([1.0, 2.0, 0.5])
    for member in range(2):
        cells = []
        for row in range(6):
            for c in range(3):
                y, z = target[member, row, c], logits[member, row, c]
                if not y.isnan():
                    p = z.sigmoid()
                    cells.append(-(weight[c] * y * p.log() + (1 - y) * (1 - p).log()))
        assert binary_cross_entropy(logits, target, weight)[member].item() == pytest.approx(
            torch.stack(cells).mean().item(), rel=1e-5)
    number = torch.where(target.isnan(), torch.nan, logits.flip(0))
    for member in range(2):
        losses = []
        for c in range(3):
            known = ~number[member, :, c].isnan()
            x, y = logits[member, known, c].double().numpy(), number[member, known, c].double().numpy()
            losses.append(1 - ccc(x, y) + np.mean((x - y) ** 2))
        assert concordance_loss(logits, number)[member].item() == pytest.approx(np.mean(losses), rel=1e-4)
    assert torch.isfinite(concordance_loss(logits, torch.full_like(logits, torch.nan))).all()


def test_soft_labels_teach_proportions_better_than_hard_ones_do(store):
    soft, hard = (cross_validate(prepare([store], quick(teach=teach, epochs=20, **TASKS["distribution"])))[0]
                  for teach in ("soft", "hard"))
    result = compare_predictions(soft, hard, seed=0)
    assert result.difference < 0 and result.interval[1] < 0  # KL: less is better


def test_the_task_follows_from_the_labels_and_contradictions_are_counted(store, tmp_path):
    assert prepare([store], quick(classes="basic7")).task.kind == "distribution"
    assert prepare([store], quick(classes="basic7", head="logreg", task=("classification",))).task.kind == (
        "classification")
    other = shutil.copytree(store, tmp_path / "other")
    edit_manifest(other, lambda row, cells: cells | ({"basic": "anger" if cells["basic"] != "anger" else "fear"}
                                                     if row in (1, 2, 3) else {}))
    notes = " ".join(prepare([other], quick(classes="basic7")).notes)
    assert "3 hard labels contradict" in notes and "360 samples with a soft label" in notes


@pytest.mark.parametrize(("given", "words"), [
    ({"task": ("multilabel",), "classes": "basic7"}, "leave them out"),
    ({"task": ("classification",), "labels": UNITS}, "goes with"),
    ({"task": ("regression",), "labels": ("pain",)}, "pain"),
    ({"task": ("multilabel",), "head": "paper"}, "head paper cannot do multilabel: linear, mlp, "),
    ({"task": ("regression",), "head": "late"}, "cannot do regression"),
    ({"task": ("distribution",), "head": "zeroshot"}, "cannot do distribution"),
    ({"task": ("multilabel",), "labels": ("au_1", "au_1")}, "twice"),
    ({"task": ("regression",), "labels": ("group",)}, "rename"),
])
def test_what_cannot_be_is_said_in_a_sentence(store, given, words):
    with pytest.raises(InputError, match=words):
        prepare([store], quick(**given))


def test_predict_has_a_column_a_label_or_number(store, tmp_path):
    for kind, columns in (("multilabel", UNITS), ("regression", NUMBERS)):
        fuse([store], quick(seeds=1, **TASKS[kind]), out=tmp_path / kind)
        bare = write_store(tmp_path, {"a": ("", 12), "b": ("", 8)}, name=f"bare-{kind}", rows=30)  # without labels
        predict(read_run(tmp_path / kind), bare, PredictOptions(), out=tmp_path / f"{kind}.csv")
        table = pd.read_csv(tmp_path / f"{kind}.csv")
        assert list(table) == ["key", "prediction", *columns] and len(table) == 30
        assert np.isfinite(table[list(columns)].to_numpy()).all()
        with pytest.raises(InputError, match="of classes"):
            predict(read_run(tmp_path / kind), bare, PredictOptions(top=1), out=tmp_path / "x.csv")


def test_a_store_with_soft_labels_of_other_classes_is_predicted_and_gives_none(store, tmp_path):
    changes = TASKS["distribution"]
    fuse([store], quick(**changes, epochs=2), out=tmp_path / "run")
    run = read_run(tmp_path / "run")
    other = tmp_path / "other"
    shutil.copytree(store, other)
    table = pd.read_csv(other / "manifest.csv", dtype=str, keep_default_na=False)
    table.drop(columns="p_neutral").to_csv(other / "manifest.csv", index=False)
    features, _ = run.features(Store(other))
    assert not features.truth.any() and any("without a column p_neutral" in note for note in features.notes)
    np.testing.assert_array_equal(*(run.scores(each, np.arange(9)).probabilities for each in
                                    (features, run.features(Store(store))[0])))


@pytest.mark.parametrize("head", ["mlp", "logreg"])
def test_several_tasks_at_once_have_the_figures_of_each(store, tmp_path, head):
    """Some faces have no class, others no numbers; each task is scored on those that have its own."""
    other = shutil.copytree(store, tmp_path / "other")
    edit_manifest(other, lambda row, cells: cells | (
        dict.fromkeys(("basic", *(f"p_{name}" for name in BASICS)), "") if row % 9 == 2 else {}))
    assert any(note.startswith("47 labelled samples are tested in no fold: they have no basic label of basic7")
               for note in prepare([other], quick(folds=3, **EVERY)).notes)
    made = fuse([other], quick(head=head, epochs=20, **EVERY), out=tmp_path / "run")
    table = pd.read_csv(tmp_path / "run/predictions.csv", keep_default_na=True)
    table = table[table["split"] == "test"]
    answers = table["prediction"].str.split(" | ", regex=False, expand=True)
    system = json.loads((tmp_path / "run/metrics.json").read_text())["systems"][-1]
    named = table.assign(prediction=answers[0])[table["truth"].notna()]
    assert 0 < len(named) < len(table) == len(made.figures[-1].predictions)
    expected = slow_figures("distribution", named)
    for kind in ("multilabel", "regression"):
        found = slow_figures(kind, table.assign(prediction=answers[1]))
        expected |= {f"{kind}_{key}": value for key, value in found.items()}
    assert {name: system[name] for name in expected} == pytest.approx(expected, abs=2e-5)
    assert system["intersection"] > 0.7 and system["multilabel_macro_f1"] > 0.7 and system["regression_ccc"] > 0.5
    again = evaluate(tmp_path / "run", other)
    assert {name: again.figures.record()[name] for name in expected} == pytest.approx(
        {name: system[name] for name in expected}, abs=1e-6)
    run = read_run(tmp_path / "run")
    assert (run.predictions.answers == table["prediction"]).all() and "multilabel macro-F1" in again.text()
    predict(run, other, PredictOptions(), out=tmp_path / "out.csv")
    assert list(pd.read_csv(tmp_path / "out.csv"))[2:] == [*BASICS, *UNITS, *NUMBERS]


def test_a_task_without_targets_of_its_own_to_choose_or_compare_by_is_refused(store, tmp_path):
    classes = ("basic", *(f"p_{name}" for name in BASICS))
    for split, columns, words in (("val", classes, "no val sample has a basic"), ("val", UNITS, "no val sample has a"),
                                  ("test", classes, "no test sample has a basic")):
        other = shutil.copytree(store, tmp_path / f"{split}-{columns[0]}")
        edit_manifest(other, lambda _, cells, split=split, columns=columns: cells | (
            dict.fromkeys(columns, "") if cells["split"] == split else {}))
        with pytest.raises(InputError, match=words):
            prepare([other], quick(**EVERY))


def test_test_samples_without_targets_of_a_task_have_no_figures_of_it_and_the_run_can_be_read(store, tmp_path):
    pytest.importorskip("matplotlib")
    from twofold.fuse.report.report import report
    shares = tuple(f"p_{name}" for name in BASICS)
    for name, given, columns, key in (("soft", TASKS["distribution"], shares, "kl"),
                                      ("every", EVERY, UNITS, "multilabel_macro_f1")):
        other = shutil.copytree(store, tmp_path / name)
        edit_manifest(other, lambda _, cells, columns=columns: cells | (
            dict.fromkeys(columns, "") if cells["split"] == "test" else {}))
        made = fuse([other], quick(seeds=1, epochs=2, **given), out=tmp_path / f"{name}-run")
        systems = json.loads((tmp_path / f"{name}-run/metrics.json").read_text(), parse_constant=pytest.fail)["systems"]
        assert made.text() and [system[key] for system in systems] == [None] * 3 and systems[0]["accuracy"] > 0
        report([tmp_path / f"{name}-run"] * 2, out=tmp_path / f"{name}.html")


def test_a_task_of_no_weight_learns_nothing_and_weights_are_checked(store):
    one, other = (cross_validate(prepare([store], quick(seeds=1, **EVERY | {"task_weights": ("1", "1", weight)})))[0]
                  for weight in ("1", "0.000001"))
    key = "regression_ccc"
    assert figures(one, seed=0).of[key].value > figures(other, seed=0).of[key].value + 0.2
    for given, words in (
            ({"task_weights": ("1", "2")}, "each of the 3"), ({"task_weights": ("1", "0", "1")}, "above 0"),
            ({"task": ("classification", "distribution")}, "or distribution"), ({"head": "paper"}, "cannot")):
        with pytest.raises(InputError, match=words):
            prepare([store], quick(**EVERY | given))


@pytest.mark.parametrize("task", [*TASKS.values(), EVERY], ids=[*TASKS, "every"])
def test_report_and_export_of_each_task(store, tmp_path, task):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    pytest.importorskip("matplotlib")
    from twofold.fuse.export.export import export
    from twofold.fuse.report.report import report
    for number in (1, 2):
        fuse([store], quick(seeds=number, epochs=4, **task), out=tmp_path / str(number))
    run = read_run(tmp_path / "1")
    report([tmp_path / "1", tmp_path / "2"], out=tmp_path / "r.html", figures=tmp_path / "drawn", store=store)
    page = (tmp_path / "r.html").read_text()
    assert all(metric.name in page for metric in run.task.metrics) and all(name in page for name in run.task.outputs)
    assert "Side by side" in page and (tmp_path / "drawn/side-by-side.svg").is_file()
    if run.task.kind == "regression":  # of numbers in the thousands float32 keeps as many digits, not as many decimals
        run.head.body.output_layer.weight.data *= 1000
    export(run, tmp_path / "export", licences={})
    x = prepare([store], quick(**task)).features.read(np.arange(40))
    session = onnxruntime.InferenceSession(str(tmp_path / "export/head.onnx"), providers=["CPUExecutionProvider"])
    assert np.allclose(session.run(None, {"features": x})[0], run.probabilities(x)[0], rtol=1e-5, atol=1e-5)
    facts = session.get_modelmeta().custom_metadata_map
    assert session.get_outputs()[0].name == {"regression": "numbers", EVERY_KIND: "outputs"}.get(
        run.task.kind, "probabilities")
    assert json.loads(facts["task"]) == run.task.kind and json.loads(facts["classes"]) == list(run.task.outputs)
    card = (tmp_path / "export/README.md").read_text()
    assert all(metric.name in card for metric in run.task.metrics)
    assert ("called from its threshold on: au" in card) == ("multilabel" in run.task.kind)  # classes have none


def test_the_python_api_knows_the_tasks(store):
    features = twofold.Store(store).features(task="multilabel", labels=UNITS[:2])
    assert features.y.shape == (ROWS, 2) and features.classes == UNITS[:2]
    assert list(features.frame())[3:] == [*UNITS[:2]]
    result = features.train("linear", seeds=1, epochs=4)
    assert result.figures["macro_f1"].iloc[0] > 0.3 and "prediction" in result.predictions
    with pytest.raises(InputError, match="no confusion"):
        _ = result.confusion
    head = twofold.Head("linear", seeds=1, epochs=4).fit(features)
    assert head.predict_proba(features).shape == (ROWS, 2)
    assert set(head.predict(features)) <= {"none", "au_1", "au_4", "au_1 + au_4"}
    from sklearn.svm import SVC
    with pytest.raises(InputError, match="classification only"):
        features.train(SVC())


def test_a_sweep_ranks_by_the_tasks_score_and_refuses_a_mixture_of_tasks(store, tmp_path):
    config = tmp_path / "a.toml"
    config.write_text('heads = ["linear"]\nbackbones = [["timm:a", "timm:b"]]\nseeds = 1\n[settings]\n'
                      'classes = "basic7"\nepochs = 3\n[grid]\nlr = [1e-7, 0.03]\n')
    made = sweep([store], config, out=tmp_path / "out", jobs=1)
    assert [trial.settings["lr"] for trial in made.trials] == [0.03, 1e-7]  # of KL less is better
    assert made.trials[0].score < made.trials[1].score and "val_kl" in (tmp_path / "out/leaderboard.csv").read_text()
    config.write_text(config.read_text().replace('["linear"]', '["linear", "zeroshot"]'))
    with pytest.raises(InputError, match=r"basic emotions|one task"):
        sweep([store], config, out=tmp_path / "other", jobs=1)


def test_without_an_output_the_answers_are_said_in_words(store, tmp_path):
    for kind, word in (("multilabel", "none|au_"), ("regression", r"valence [+-]0\.\d\d, arousal")):
        fuse([store], quick(seeds=1, epochs=3, **TASKS[kind]), out=tmp_path / kind)
        said = predict(read_run(tmp_path / kind), store, PredictOptions(), out=None).text()
        assert "ANSWER" in said and re.search(word, said)


def test_the_live_page_has_answers_in_words_and_numbers(store, tmp_path):
    from twofold.data.faces.in_memory import Picture, PictureFace
    from twofold.fuse.serve.queue import Limits
    from twofold.fuse.serve.recogniser import Recogniser
    from twofold.fuse.serve.serve import describe_run

    class Finder:
        def find(self, content, *, most):
            return Picture(8, 8, [PictureFace((0, 0, 8, 8), content, None)], 0)

    fuse([store], quick(seeds=1, epochs=3, **EVERY), out=tmp_path / "run")
    run = read_run(tmp_path / "run")
    x = prepare([store], quick(**EVERY)).features.read(np.arange(1))
    (face,) = Recogniser(run, Finder(), lambda contents: x, 1).recognise(b"").faces
    assert face.expressions == pytest.approx(run.probabilities(x)[0][0].tolist())
    assert face.answer.count(" | ") == 2 and "valence" in face.answer
    about = describe_run(run, Limits(), 0.5, 0.1, detects=False)
    assert about["numbers"] == (False,) * 10 + (True,) * 2 and about["columns"] == run.task.kind
    assert list(about["classes"]) == [*BASICS, *UNITS, *NUMBERS]
