"""Classes of one's own go the whole way: fused, evaluated, predicted, swept, repeated."""

import csv
import json

import pytest

from tests.fuse.conftest import edit_manifest, quick
from twofold.cache.store import Store
from twofold.data.labels import BASIC, builtin_taxonomy
from twofold.data.utils.errors import InputError
from twofold.fuse.core.settings import resolve
from twofold.fuse.evaluate import evaluate
from twofold.fuse.fuse import fuse
from twofold.fuse.predict import PredictOptions, predict
from twofold.fuse.runs.read import read_run
from twofold.fuse.sweep import sweep

FRENCH = dict(zip(builtin_taxonomy("cexpr7").classes,
                  ("effroi", "joie", "peine", "dégoût", "colère", "crainte", "rancœur"), strict=True))


@pytest.fixture
def french(make_store, tmp_path):
    """A store whose faces have labels in French, in a column of their own, and no others; and the file of them."""
    store = make_store()
    edit_manifest(store, lambda _, row: row | {"label": FRENCH[row["compound"]], "compound": "", "basic": ""})
    (tmp_path / "fr.toml").write_text(f"classes = {json.dumps(list(FRENCH.values()))}", encoding="utf-8")
    return store, str(tmp_path / "fr.toml")


def test_emotions_in_another_language_go_the_whole_way(french, tmp_path, cli):
    store, own = french
    done = cli("fuse", store, "--classes", own, "--out", tmp_path / "run", "--epochs", "12", "--lr", "0.003",
               "--hidden", "32", "--seeds", "2", "--batch-size", "64")
    assert done.returncode == 0, done.stderr
    assert "fr (label), head mlp, ensemble of 2 seeds" in done.stdout and "dégoût" in done.stdout
    run = read_run(tmp_path / "run")
    assert run.taxonomy.classes == tuple(FRENCH.values()) and run.taxonomy.target == "label"
    evaluation = evaluate(tmp_path / "run", store)
    figures = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))["systems"][-1]
    assert evaluation.figures.score == pytest.approx(figures["macro_f1"]) and figures["macro_f1"] > 0.9
    predict(run, store, PredictOptions(top=2), out=tmp_path / "out.csv")
    table = list(csv.DictReader((tmp_path / "out.csv").open(encoding="utf-8")))
    assert {row["prediction"] for row in table} == set(FRENCH.values()) and "rancœur" in table[0]
    edit_manifest(store, lambda _, row: {name: text for name, text in row.items() if name != "label"})
    again = predict(run, store, PredictOptions(), out=tmp_path / "again.csv")  # needs no labels
    assert again.values["rows"] == 420
    with pytest.raises(InputError, match="no labelled samples of fr"):
        evaluate(tmp_path / "run", store)


def test_a_run_of_own_classes_is_repeated_without_the_file(french, tmp_path):
    store, own = french
    first = fuse([store], quick(**{"seeds": 1} | {"classes": own}), out=tmp_path / "a")
    (tmp_path / "fr.toml").unlink()
    second = fuse([store], resolve(config=tmp_path / "a" / "run.json"), out=tmp_path / "b")
    assert second.task == first.task
    assert (tmp_path / "b" / "predictions.csv").read_bytes() == (tmp_path / "a" / "predictions.csv").read_bytes()
    assert read_run(tmp_path / "b").taxonomy == read_run(tmp_path / "a").taxonomy
    text = (tmp_path / "a" / "run.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in text  # no path


def test_labels_as_they_stand(french, tmp_path):
    store, _ = french
    settings = quick(**{"seeds": 1} | {"classes": "from-data", "target": "label"})
    fusion = fuse([store], settings, out=tmp_path / "run")
    assert fusion.task.outputs == tuple(sorted(FRENCH.values())) and fusion.figures[-1].score > 0.9
    assert evaluate(tmp_path / "run", store).figures.score == fusion.figures[-1].score
    implied = fuse([store], quick(**{"seeds": 1} | {"target": "label"}), out=None)
    assert implied.task == fusion.task


@pytest.fixture
def blends(make_store, tmp_path):
    """Compounds under names that say nothing of their parts, with the parts in the file; basics in the manifest."""
    store = make_store({"a": ("ab", 16)})
    names = {name: f"blend {number}" for number, name in enumerate(builtin_taxonomy("cexpr7").classes)}
    pairs = zip(names.values(), builtin_taxonomy("cexpr7").basics, strict=True)
    edit_manifest(store, lambda _, row: row | {"blend": names[row["compound"]], "compound": ""})
    (tmp_path / "blends.toml").write_text(
        f"target = 'blend'\nclasses = {json.dumps(list(names.values()))}\n[pairs]\n"
        + "".join(f"{json.dumps(name)} = {json.dumps(list(pair))}\n" for name, pair in pairs), encoding="utf-8")
    return store, str(tmp_path / "blends.toml")


@pytest.mark.parametrize("head", ["zeroshot", "paper", "mlp"])
def test_pairs_do_for_own_names_what_names_do_for_the_built_in(make_store, blends, tmp_path, head):
    """Zero-shot, the paper's pair map and compound-mixup know the parts: the same figures as under canonical names."""
    store, own = blends
    ours = fuse([store], quick(**{"seeds": 1} | {"classes": own, "head": head}), out=tmp_path / "run")
    theirs = fuse([make_store({"a": ("ab", 16)}, name="canonical")], quick(**{"seeds": 1} | {"head": head}), out=None)
    assert not any("compound-mixup left out" in note for note in ours.notes)
    assert (ours.figures[-1].scores.confusion == theirs.figures[-1].scores.confusion).all()
    run = read_run(tmp_path / "run")
    assert run.head.spec.parts == builtin_taxonomy("cexpr7").basics
    assert evaluate(tmp_path / "run", store).figures.score == ours.figures[-1].score


def test_a_sweep_over_other_classes_is_another_sweep(french, tmp_path):
    store, own = french
    config = tmp_path / "sweep.toml"
    config.write_text(f'backbones = [["timm:a", "timm:b"]]\n[settings]\nclasses = "{own}"\nepochs = 2\nseeds = 1\n',
                      encoding="utf-8")
    first = sweep([store], config, out=tmp_path / "out", jobs=1)
    assert not any(trial.error for trial in first.trials) and first.best.task.taxonomy.name == "fr"
    assert sweep([store], config, out=tmp_path / "out", jobs=1).reused == 1
    (tmp_path / "fr.toml").write_text(f"classes = {json.dumps(list(FRENCH.values())[::-1])}", encoding="utf-8")
    with pytest.raises(InputError, match="1 trials of another sweep"):
        sweep([store], config, out=tmp_path / "out", jobs=1)


@pytest.mark.parametrize(("changes", "message"), [
    ({"classes": "FILE", "target": "compound"}, "stand in the column 'label': leave out --target compound"),
    ({"classes": "FILE", "head": "zeroshot"}, "nothing says which two make effroi, joie"),
    ({"classes": "from-data", "target": "mood"}, "no column 'mood' of labels; it has key, split, basic"),
    ({"classes": "from-data", "target": "split"}, "'split' is no column of labels"),
    ({"classes": "from-data"}, "labels in the column 'compound': 0 classes"),
    ({"classes": "none.toml"}, "none.toml: no such file"),
    ({"classes": "none.json"}, "none.json: no record of a run's classes")])
def test_bad_wishes_are_one_sentence(french, tmp_path, changes, message):
    store, own = french
    changes = {name: own if value == "FILE" else value for name, value in changes.items()}
    with pytest.raises(InputError, match=message):
        fuse([store], quick(**changes), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_labels_outside_the_own_classes_are_counted(french, tmp_path):
    store, _ = french
    (tmp_path / "few.toml").write_text('classes = ["joie", "peine"]', encoding="utf-8")
    fusion = fuse([store], quick(**{"seeds": 1} | {"classes": str(tmp_path / "few.toml")}), out=None)
    assert any("300 samples with a label in the column 'label' outside few" in note for note in fusion.notes)
    assert len(Store(store).readable()[0]) == 2 and len(BASIC) == 8
