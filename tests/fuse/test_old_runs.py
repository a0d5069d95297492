"""Small runs of format version 1, committed: whatever was readable once stays readable, and answers as it did.

`store` has features drawn by chance; `mlp`, `late` (two folds) and `paper` are runs on them as written when the format
had `seen.csv`, `earlier` (head gated) is one from before. Beside each stands what `predict` answered then.
"""

import csv
from pathlib import Path

import numpy as np
import pytest

from twofold.fuse.evaluate import evaluate
from twofold.fuse.predict import PredictOptions, predict
from twofold.fuse.runs.run import read_run

PLACE = Path(__file__).with_name("runs") / "version1"


def _numbers(path):
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    names = [name for name in rows[0] if name not in ("key", "prediction")]
    return [(row["key"], row["prediction"]) for row in rows], np.array([[float(row[name]) for name in names]
                                                                       for row in rows])


@pytest.mark.parametrize("name", ["mlp", "late", "paper", "earlier"])
def test_a_committed_run_answers_as_it_did(name, tmp_path):
    run = read_run(PLACE / name)
    predict(run, PLACE / "store", PredictOptions(), out=tmp_path / "out.csv")
    (calls, now), (calls_then, then) = _numbers(tmp_path / "out.csv"), _numbers(PLACE / f"{name}.csv")
    assert calls == calls_then and np.allclose(now, then, atol=2e-5)
    assert run.folds == (2 if name == "late" else 1) and (run.seen is None) == (name == "earlier")


def test_a_committed_run_is_evaluated_on_what_it_has_not_seen():
    assert evaluate(PLACE / "mlp", PLACE / "store", split="all").figures.scores.n.sum() == 21  # its test faces
    assert evaluate(PLACE / "late", PLACE / "store", split="all").figures.scores.n.sum() == 84  # out of fold
    assert "did not record" in " ".join(evaluate(PLACE / "earlier", PLACE / "store").notes)
