"""What a report shows of a run: read from its folder, numbers only."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twofold.data.errors import InputError
from twofold.data.host.csv_files import from_cells
from twofold.fuse.report.calibration import Calibration, calibration_of
from twofold.fuse.runs.received import read_record

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
        record = read_record(path / "run.json")
        metrics = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
        classes = tuple(metrics["classes"])
        for stream in record["streams"]:
            stream_mark(stream)
        for system in metrics["systems"]:
            _check(system, classes)
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
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path}: the run's figures do not read back ({error}): train it again") from None


def _check(system: dict[str, Any], classes: tuple[str, ...]) -> None:
    """Refuse figures that are none: a run may come from a stranger. Raises ValueError or KeyError."""
    numbers = [system["n"], system["accuracy"], system["macro_f1"], system["uar"], system["temperature"],
               *(system["accuracy_interval"] or (0, 0)), *(system["macro_f1_interval"] or (0, 0)),
               *(system["contributions"] or {}).values(), *(row["n"] for row in system["per_class"].values())]
    shares = [row[kind] for row in system["per_class"].values() for kind in ("precision", "recall", "f1")]
    if not isinstance(system["name"], str) or not all(isinstance(number, int | float) for number in numbers) or not all(
            share is None or isinstance(share, int | float) for share in shares):
        raise ValueError("a figure is no number")
    if tuple(system["per_class"]) != classes or np.array(system["confusion"], int).shape != (len(classes),) * 2:
        raise ValueError("the figures are of other classes")


def _answers(path: Path, classes: tuple[str, ...]) -> Answers:
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    return Answers(tuple(from_cells([row["key"] for row in rows])),
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
