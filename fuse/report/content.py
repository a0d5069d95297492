"""What a report shows of a run: read from its folder, numbers only."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twofold.data.utils.csv_files import unescape_cells
from twofold.data.utils.errors import InputError, first_line
from twofold.fuse.report.calibration import Calibration, calibration_of
from twofold.fuse.runs.shown import check_shown, read_metrics
from twofold.fuse.runs.values import read_json

MARK = " * UNTRAINED"  #: as in the tables of `fuse`


@dataclass(frozen=True)
class Answers:
    """The fusion's answers for n test faces. probabilities: (n, C), under the temperature."""

    keys: tuple[str, ...]
    truth: np.ndarray
    calls: np.ndarray
    probabilities: np.ndarray

    @property
    def confidence(self) -> np.ndarray:
        """(n,) probability of the class called."""
        return self.probabilities.max(axis=1, initial=0)

    @property
    def wrong(self) -> np.ndarray:
        """(n,) bool."""
        return self.calls != self.truth


@dataclass(frozen=True)
class RunContent:
    """One run. systems: as metrics.json has them, the fusion last; curves: (epochs, loss, validation macro-F1) of each
    fold and seed; calibration: None where nothing was scored."""

    path: Path
    record: dict[str, Any]
    classes: tuple[str, ...]
    systems: list[dict[str, Any]]
    comparison: dict[str, Any] | None
    answers: Answers
    calibration: Calibration | None
    curves: list[tuple[np.ndarray, np.ndarray, np.ndarray]]

    @property
    def mark(self) -> str:
        """What stands beside all that its head says, if an encoder of it has random weights."""
        return MARK if any(stream_mark(stream) for stream in self.record["streams"]) else ""


def stream_mark(stream: dict[str, Any]) -> str:
    """What stands beside a stream of a run's record that has random weights."""
    return MARK if str(stream["recipe"]["weights"]).startswith("random:") else ""


def marked(system: dict[str, Any]) -> str:
    """The name of a system, with the mark if an encoder of it has random weights."""
    return system["name"] + (MARK if system["untrained"] else "")


def read_content(path: Path) -> RunContent:
    """Read what a report needs. Raises InputError for a folder that is no run, or whose tables do not read back."""
    try:
        source = read_json(path / "run.json")
        check_shown(source)
        record = source.table()
        metrics = read_metrics(path / "metrics.json")
        classes = tuple(metrics["classes"])
        answers = _answers(path / "predictions.csv", classes)
        calibration = calibration_of(metrics["systems"][-1], answers.probabilities, answers.truth,
                                     folds=len(record["faces"])) if metrics["systems"] else None
        return RunContent(path, record, classes, metrics["systems"], metrics.get("fusion_against_best_single"),
                          answers, calibration, list(_curves(path / "history.csv")))
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise InputError(f"{path}: not a run (no {missing}): give a folder that `fuse` made") from None
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError,
            csv.Error) as error:
        raise InputError(f"{path}: the run's figures do not read back ({first_line(error)}): train it again") from None


def _answers(path: Path, classes: tuple[str, ...]) -> Answers:
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    return Answers(tuple(unescape_cells([row["key"] for row in rows])),
                   np.array([classes.index(row["truth"]) for row in rows], int),
                   np.array([classes.index(row["prediction"]) for row in rows], int),
                   np.array([[float(row[name]) for name in classes] for row in rows]).reshape(-1, len(classes)))


def _curves(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for part in dict.fromkeys((row["fold"], row["member"]) for row in rows):
        lines = [row for row in rows if (row["fold"], row["member"]) == part]
        yield (np.array([int(row["epoch"]) for row in lines]), np.array([float(row["loss"]) for row in lines]),
               np.array([float(row["val_macro_f1"]) for row in lines]))
