"""Answers for the terminal: a line for each face of a photograph, and for each person of a video."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from twofold.data.labels import BASIC
from twofold.data.utils.keys import NO_FACE

MOST_LINES = 100  #: what is more belongs into a file
NAMED = 2  #: likeliest classes of an answer


def answers(table: pd.DataFrame, classes: Sequence[str], basic: np.ndarray) -> list[dict[str, Any]]:
    """What `predict` found, a record a face: source, where it is, expressions and basics with their probabilities.

    table: N rows as `predict` writes them; basic: (N, 8), or without columns. The frames of a person of a video are one
    record, with the mean of their probabilities; frames without a face are one more.
    """
    records = []
    footage = {"source", "frame", "time", "track", "box"} <= set(table)
    source = table["source"] if footage else table["key"]
    person = source + "\0" + table["track"] if footage else source
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
            record["expressions"] = rows[list(classes)].mean().to_dict()
            if basic.size:
                record["basics"] = dict(zip(BASIC, basic[places].mean(axis=0).tolist(), strict=True))
        records.append(record)
    return records


def answer_rows(records: Sequence[dict[str, Any]], say: Callable[[dict[str, float]], str] | None = None
                ) -> list[tuple[str, ...]]:
    """The records as a table's rows, the first its head. say: the answer of outputs that are no shares of classes."""
    kinds = [kind for kind in ("basics", "expressions") if any(kind in record for record in records)]
    head = ("SOURCE", "FACE", *({"basics": "BASIC", "expressions": "ANSWER" if say else "EXPRESSION"}[kind]
                              for kind in kinds))
    return [head, *((record["source"], ", ".join(record[name] for name in ("where", "note") if name in record), *(
        (say if say and kind == "expressions" else _likeliest)(record[kind]) if kind in record else ""
        for kind in kinds)) for record in records[:MOST_LINES])]


def _likeliest(probabilities: dict[str, float]) -> str:
    best = sorted(probabilities, key=lambda name: -probabilities[name])[:NAMED]
    return ", ".join(f"{name} {100 * probabilities[name]:.0f} %" for name in best)


def _box(text: str) -> str:
    """`x y width height` in whole pixels, as a person reads it."""
    if not text:
        return "whole picture"
    x, y, width, height = (round(float(number)) for number in text.split())
    return f"{width} x {height} at {x}, {y}"


def _span(rows: pd.DataFrame) -> str:
    times = rows["time"].astype(float)
    who = f"person {rows['track'].iloc[0]}, " if rows["track"].iloc[0] else ""
    return f"{who}{len(rows)} frames, {times.min():.1f} to {times.max():.1f} s"
