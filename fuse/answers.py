"""What a run answers for a face; lines for the terminal: one a face of a photograph, and one a person of a video."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from twofold.data.labels import BASIC
from twofold.data.utils.errors import InputError
from twofold.data.utils.keys import NO_FACE
from twofold.fuse.runs.read import Run

MOST_LINES = 100  #: what is more belongs into a file
NAMED = 2  #: likeliest classes of an answer
UNCERTAIN = "uncertain"
NONE = "none"  #: the answer where no compound is shown
SECOND = 0.08  #: of the basic probabilities: chosen on FER2013's validation faces, for as few errors of both kinds


def decide(run: Run, outputs: np.ndarray, basic: np.ndarray, *, second: float = SECOND) -> np.ndarray:
    """(n,) answers in words, of calibrated outputs (n, C) and basic probabilities (n, 8), or without columns.

    Classes that are compounds leave no choice but one of them, also for a neutral face. So the answer is `none` where
    one of the two emotions of the likeliest class has less than `second` of the basic probabilities.
    """
    answers = run.task.decide(outputs, run.calibration.rows(len(outputs)))
    if basic.size and run.taxonomy.has_pairs:
        pairs = np.array([[name in parts and len(parts) == 2 for name in BASIC] for parts in run.taxonomy.basics])
        weaker = np.where(pairs[outputs.argmax(axis=1)], basic, np.inf).min(axis=1)
        answers = np.where(weaker < second, NONE, answers)
    return answers


def check_second(run: Run, second: float | None) -> float:
    """The least share of `decide`, the usual one for None. Raises InputError for one that cannot be."""
    if second is None:
        return SECOND
    if not 0 <= second <= 1:
        raise InputError(f"--second {second:g} is not a share (0 to 1)")
    if not run.basics or not run.taxonomy.has_pairs:
        raise InputError(f"--second is of compounds with basic expressions beside them: {run.path} has no "
                         f"{'basic expressions' if run.taxonomy.has_pairs else 'compounds'}")
    return second


def output_columns(run: Run, outputs: np.ndarray, basic: np.ndarray) -> pd.DataFrame:
    """Outputs (n, C) and basic probabilities (n, 8), or without columns, by name; classes that are basic only once."""
    further = pd.DataFrame(basic.astype(float), columns=list(run.basics)).drop(columns=list(run.task.outputs),
                                                                               errors="ignore")
    return pd.concat([pd.DataFrame(outputs.astype(float), columns=list(run.task.outputs)), further], axis=1)


def answers(table: pd.DataFrame, run: Run, basic: np.ndarray, *, second: float) -> list[dict[str, Any]]:
    """What `predict` found, a record a face: source, where it is, answer, probabilities of expressions and basics.

    table: N rows as `predict` writes them; basic: (N, 8), or without columns; second: of `decide`. The frames of a
    person of a video are one record, with the mean of their probabilities; frames without a face are one more.
    """
    records = []
    footage = {"source", "frame", "time", "track", "box"} <= set(table)
    source = table["source"] if footage else table["key"]
    person = source + "\0" + table["person" if "person" in table else "track"] if footage else source
    single = (table["frame"] == "").to_numpy() if footage else np.ones(len(table), bool)
    together = person.where(~single, pd.Series([f"\0{row}" for row in range(len(table))], table.index))
    for _, rows in table.groupby(together, sort=False):
        places, first = table.index.get_indexer(rows.index), rows.iloc[0]
        record: dict[str, Any] = {"source": source[rows.index[0]], "frames": len(rows)}
        if footage and first["frame"] != "":
            record["where"] = _span(rows)
        elif footage and first["prediction"] != NO_FACE:
            record["where"] = _box(first["box"])
        if first["prediction"] == NO_FACE:
            record["note"] = first["note"] if footage and first["note"] else NO_FACE
        else:
            outputs, basics = (each[places].mean(axis=0) for each in (table[list(run.task.outputs)].to_numpy(), basic))
            record["answer"] = str(decide(run, outputs[None], basics[None], second=second)[0])
            record["expressions"] = dict(zip(run.task.outputs, outputs.tolist(), strict=True))
            if basic.size:
                record["basics"] = dict(zip(BASIC, basics.tolist(), strict=True))
        records.append(record)
    return records


def answer_rows(records: Sequence[dict[str, Any]], *, shares: bool = True) -> list[tuple[str, ...]]:
    """The records as a table's rows, the first its head. shares: of classes, which are the outputs."""
    kinds = [kind for kind in ("basics", "expressions") if any(kind in record for record in records)]
    head = ("SOURCE", "FACE", *({"basics": "BASIC", "expressions": "EXPRESSION" if shares else "ANSWER"}[kind]
                                for kind in kinds))

    def text(record: dict[str, Any], kind: str) -> str:
        if kind not in record:
            return ""
        if kind == "basics" or (shares and record["answer"] != NONE):
            return _likeliest(record[kind])
        return f"{NONE} (nearest: {_likeliest(record[kind], 1)})" if shares else record["answer"]

    return [head, *((record["source"], ", ".join(record[name] for name in ("where", "note") if name in record),
                     *(text(record, kind) for kind in kinds)) for record in records[:MOST_LINES])]


def _likeliest(probabilities: dict[str, float], most: int = NAMED) -> str:
    best = sorted(probabilities, key=lambda name: -probabilities[name])[:most]
    return ", ".join(f"{name} {100 * probabilities[name]:.0f} %" for name in best)


def _box(text: str) -> str:
    """`x y width height` in whole pixels, as a person reads it."""
    if not text:
        return "whole picture"
    x, y, width, height = (round(float(number)) for number in text.split())
    return f"{width} x {height} at {x}, {y}"


def _span(rows: pd.DataFrame) -> str:
    times = rows["time"].astype(float)
    number = rows["person" if "person" in rows else "track"].iloc[0]
    who = f"person {number}, " if number else ""
    return f"{who}{len(rows)} frames, {times.min():.1f} to {times.max():.1f} s"
