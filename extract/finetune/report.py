"""What a fine-tuning did, as a person and as a program read it."""

import signal
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from twofold.extract.finetune.loop import Outcome
from twofold.extract.finetune.settings import Settings, record_of
from twofold.extract.finetune.sides import Sides


@dataclass(frozen=True, kw_only=True)
class FinetuneReport:
    """The end of `finetune`. start: the weights it began from; failures: row to reason."""

    out: Path
    name: str
    start: str
    settings: Settings
    sides: Sides
    outcome: Outcome
    precision: str
    seconds: float
    failures: dict[int, str]
    first: bool = True  #: of several processes: the others have nothing to add

    @property
    def exit_code(self) -> int:
        if self.outcome.stopped_by:
            return 128 + self.outcome.stopped_by
        return 1 if self.outcome.diverged >= 0 or self.failures else 0

    def record(self) -> dict:
        progress = self.outcome.progress
        return {"out": str(self.out), "backbone": self.name, "started_from": self.start,
                "settings": record_of(self.settings), "precision": self.precision,
                "faces": {"train": len(self.sides.train), "val": len(self.sides.val), "test": len(self.sides.test)},
                "best_epoch": progress.best_epoch, "history": [epoch.record() for epoch in progress.history],
                "stopped_by": self.outcome.stopped_by, "diverged": self.outcome.diverged,
                "failures": len(self.failures), "notes": list(self.sides.notes), "seconds": self.seconds}

    def text(self) -> str:
        if not self.first:
            return ""
        return "\n".join([self._end(), *(f"note: {note}" for note in self._notes())])

    def _end(self) -> str:
        progress, settings = self.outcome.progress, self.settings
        where = f"epoch {progress.epoch + 1} of {settings.epochs}"
        if self.outcome.stopped_by:
            return f"stopped by {signal.Signals(self.outcome.stopped_by).name} in {where}; the same command goes on"
        lost = f"in {where} the loss was no number any more: lower --lr, or use --clip 1"
        if not progress.best:
            return f"{lost}; nothing was written"
        best = progress.history[progress.best_epoch]
        scores = ", ".join(f"{target} macro-F1 {100 * score.macro_f1:.2f}, accuracy {100 * score.accuracy:.2f}"
                           for target, score in best.scores.items())
        took = timedelta(seconds=round(self.seconds))
        ended = [f"{lost}; what follows is of the last good epoch"] if self.outcome.diverged >= 0 else []
        return "\n".join([
            *ended,
            f"{self.name} ({self.precision}) from {self.start[:19]}: {len(self.sides.train)} faces taught, "
            f"{len(self.sides.val)} chose epoch {best.epoch + 1} of {settings.epochs}, in {took}",
            f"on validation: {scores}",
            f"wrote {self.out}" + ("" if settings.folds else f"; use it with {_use(self.name, self.out)}"),
        ])

    def _notes(self) -> list[str]:
        untrained = ["it started from random weights"] if self.start.startswith("random:") else []
        return [*untrained, *self.sides.notes]


@dataclass(frozen=True)
class FoldsReport:
    """One encoder a fold, with its number from 1 on, up to the one that was stopped. out: what names all of them."""

    folds: tuple[tuple[int, FinetuneReport], ...]
    out: Path

    @property
    def exit_code(self) -> int:
        return max(report.exit_code for _, report in self.folds)

    def record(self) -> dict:
        return {"folds": [report.record() for _, report in self.folds]}

    def text(self) -> str:
        texts = [f"fold {number} of {report.settings.folds}: {report.text()}" for number, report in self.folds]
        _, last = self.folds[-1]
        whole = [report for _, report in self.folds if report.outcome.has_weights]
        if last.first and len(whole) == last.settings.folds:
            texts.append(f"use all of them with {_use(last.name, self.out)}")
        return "\n\n".join(texts)


def _use(name: str, weights: Path) -> str:
    return f"`extract --backbones {name} --weights {name}={weights}`"
