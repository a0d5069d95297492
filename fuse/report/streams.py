"""What each stream does in a trained head: without it, with it alone, and how far the streams agree. No training."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from twofold.data.utils.errors import InputError
from twofold.fuse.evaluate import Question, answer, ask
from twofold.fuse.heads.head import without_streams
from twofold.fuse.metrics.statistics import Comparison
from twofold.fuse.predictions import ScoredHead, against
from twofold.fuse.report.content import RunContent, stream_mark
from twofold.fuse.report.markup import table
from twofold.fuse.report.pairs import kappa
from twofold.fuse.runs.run import read_run
from twofold.fuse.tables import percent, span


@dataclass(frozen=True)
class StreamPart:
    """One stream of a head. without: the head without it against the whole head; alone: macro-F1 with it alone."""

    name: str
    without: Comparison
    alone: float


@dataclass(frozen=True, eq=False)
class StreamParts:
    """The streams of a run on n of its scored faces. agreement: (K, K) Cohen's kappa of the calls from one stream
    each; differing: faces that the head now calls otherwise than the run's predictions.csv has it."""

    faces: int
    whole: float
    parts: tuple[StreamPart, ...]
    agreement: np.ndarray
    differing: int

    def record(self) -> dict[str, Any]:
        return {"faces": self.faces, "macro_f1": self.whole, "differing_calls": self.differing, "streams": [
            {"name": part.name, "without": part.without.difference, "without_interval": part.without.interval,
             "alone": part.alone} for part in self.parts], "agreement": self.agreement.tolist()}


def question_of(run: RunContent, store: Path) -> Question:
    """The run, and the store's labelled faces with who may answer for each."""
    return ask(read_run(run.path), store, split="all", allow_seen=False)


def scored_rows(run: RunContent, question: Question) -> np.ndarray:
    """(n,) bool of the question's faces: those that the run scored. Raises InputError for none."""
    scored = np.isin(question.keys.astype(str), run.answers.keys) & question.use.any(axis=1)
    if not scored.any():
        raise InputError(f"{run.path}: none of the faces that it was scored on is in the store (--store)")
    return scored


def stream_parts(run: RunContent, question: Question, scorable: np.ndarray) -> StreamParts:
    """Run the head with streams left out: an absent stream stands at its mean over the training faces."""
    names = question.run.stream_names
    every = set(range(len(names)))
    head, macro_f1 = _answered(question, scorable, absent=())
    alone = [_answered(question, scorable, absent=every - {k}) for k in every] if len(names) > 1 else [(head, macro_f1)]
    without = [_answered(question, scorable, absent={k})[0] for k in every]
    parts = tuple(StreamPart(name, against(less, head, classes=len(run.classes), seed=0), single[1])
                  for name, less, single in zip(names, without, alone, strict=True))
    agreement = np.array([[kappa(a.prediction, b.prediction) for a, _ in alone] for b, _ in alone])
    calls = dict(zip(run.answers.keys, run.answers.calls, strict=True))
    now = zip(question.keys[scorable], head.calibrated.argmax(axis=1), strict=True)
    return StreamParts(int(scorable.sum()), macro_f1, parts, agreement,
                       sum(int(calls[str(key)] != call) for key, call in now))


def _answered(question: Question, scorable: np.ndarray, *, absent: Collection[int]) -> tuple[ScoredHead, float]:
    run = replace(question.run, head=without_streams(question.run.head, absent))
    figures = answer(replace(question, run=run), scorable).figures
    return figures.head, figures.scores.macro_f1


def streams_section(run: RunContent, streams: StreamParts) -> list[str]:
    """Tables of leave-one-out and of agreement."""
    if len(streams.parts) < 2:
        return []
    names = [part.name + stream_mark(stream)
                 for part, stream in zip(streams.parts, run.record["streams"], strict=True)]
    caption = f"Without a stream, and with it alone: macro-F1{run.mark}"
    lines = table(caption, ("stream", "without it", "95 %", "alone"), [
        (name, f"{100 * part.without.difference:+.2f}",
         span(part.without.interval, sign="+") if part.without.interval else "", percent(part.alone))
        for name, part in zip(names, streams.parts, strict=True)])
    numbers = [str(number) for number in range(1, len(names) + 1)]
    agreement = table("Agreement of the streams, each alone: Cohen's kappa", ("", *numbers), [
        (f"{number} {name}", *(f"{value:.2f}" for value in row))
        for number, name, row in zip(numbers, names, streams.agreement, strict=True)])
    differ = (f" <span class=\"warn\">{streams.differing} of the faces are called otherwise than in predictions.csv."
              "</span>" if streams.differing else "")
    return ["<h3>What each stream does</h3>", lines, agreement,
            f"<p>The trained head on {streams.faces} faces, nothing trained again: a stream that is left out stands at "
            f"its mean, so that a head which never learned to do without it may suffer more than one trained without."
            f"{differ}</p>"]
