"""What a fine-tuning writes and reports: a weights file that `extract` takes, and that says how it was made."""

import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from twofold.cache.classifier import TrainingSamples, group_digest
from twofold.data.utils.errors import InputError, first_line
from twofold.data.utils.outputs import Output, OutputKind
from twofold.extract.encoders.finetuned import PREPROCESSING, classes_metadata, classifier_tensors, preprocessing_json
from twofold.extract.finetune.data import Splits
from twofold.extract.finetune.loop import Outcome
from twofold.extract.finetune.model import InitialModel
from twofold.extract.finetune.progress import Epoch, Progress
from twofold.extract.finetune.settings import Settings, record_of
from twofold.extract.weights.read import read_checkpoint, safetensors_metadata

MARK = "twofold finetune"
WEIGHTS = OutputKind("a file of `finetune`", lambda path: safetensors_metadata(path).get("made_by") == MARK,
                     repeatable=True)


def weights_output(path: Path, *, overwrite: bool, inputs: Sequence[Path]) -> Output:
    """The weights file; one of the same training stays."""
    return Output(path, WEIGHTS, overwrite, inputs)


def collect_training_samples(sha256: Sequence[str], groups: Sequence[str], *, before: TrainingSamples | None, fold: int,
                             folds: int, training: str) -> TrainingSamples:
    """The training and validation samples, as their image files' SHA-256 and the digests of their groups, each once.

    before: those of the fine-tuning that the initial weights come from, which count for this one, too.
    """
    images = {bytes.fromhex(text) for text in sha256}
    names = {group_digest(name) for name in groups if name}
    if before is not None:
        images |= {row.tobytes() for row in before.sha256}
        names |= {row.tobytes() for row in before.groups}
    rows = [np.frombuffer(b"".join(sorted(each)), np.uint8).reshape(len(each), width).copy()
            for each, width in ((images, 32), (names, 16))]
    return TrainingSamples(*rows, fold=fold, folds=folds, training_id=training)


def write_weights(output: Output, initial: InitialModel, outcome: Outcome, settings: Settings, samples: TrainingSamples,
                  training: str) -> None:
    """Write the best epoch's weights whole or not at all: the encoder's entries under its architecture's own names, the
    linear classifiers and the digests of the training samples under names of ours; metadata: DESIGN.md, section 3."""
    progress = outcome.progress
    initial.model.load_state_dict(progress.best)
    heads = {target: cast(nn.Linear, head) for target, head in initial.model.heads.items()}
    tensors = {name: value() for name, value in initial.entries.items()} | classifier_tensors(heads, samples)
    versions = {name: sys.modules[name].__version__ for name in ("torch", "timm", "torchvision", "PIL")
                if name in sys.modules}
    metadata = {
        "made_by": MARK, "backbone": initial.name, "architecture": initial.architecture.name,
        PREPROCESSING: preprocessing_json(initial.architecture.preprocessing), "started_from": initial.weights,
        **classes_metadata(settings.taxonomies),
        "settings": json.dumps(record_of(settings), sort_keys=True),
        "validation": json.dumps(progress.history[progress.best_epoch].row(), sort_keys=True),
        "history": json.dumps([epoch.record() for epoch in progress.history]),
        "software": json.dumps({"python": sys.version.split()[0], **versions}, sort_keys=True),
        "training": training, "diverged": str(outcome.diverged),
    }
    if samples.folds:
        metadata |= {"fold": str(samples.fold), "folds": str(samples.folds), "fold_set": samples.training_id}
    with output.writing() as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the umask says; safetensors writes files that only their owner can read
        try:
            save_file({name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}, temporary,
                      metadata=metadata)
        except SafetensorError as error:
            raise InputError(f"{output.path}: cannot be written: {first_line(error, most=120)}") from None
        temporary.chmod(mode)


def read_outcome(output: Output, training: str) -> Outcome | None:
    """The outcome of the training of a weights file that is there; None if there is none, or one to be replaced.

    Raises InputError if the file is not of this training and may not be replaced.
    """
    path = output.path
    if not path.exists():
        return None
    checkpoint = read_checkpoint(path)
    if checkpoint.metadata.get("training") != training:
        if output.overwrite:
            return None
        raise InputError(f"{path} exists and is of another training: --overwrite replaces it, or choose another --out")
    history = [Epoch.from_record(record) for record in json.loads(checkpoint.metadata["history"])]
    best = max(range(len(history)), key=lambda place: (history[place].score, -place))
    progress = Progress(epoch=len(history), history=history, best_epoch=best, best=checkpoint.tensors)
    return Outcome(progress, diverged=int(checkpoint.metadata["diverged"]))


@dataclass(frozen=True, kw_only=True)
class FinetuneReport:
    """The end of `finetune`. failures: row to reason; first: of several processes, only it has something to say."""

    out: Path
    name: str
    initial_weights: str
    settings: Settings
    splits: Splits
    outcome: Outcome
    precision: str
    seconds: float
    failures: dict[int, str]
    first: bool = True

    @property
    def exit_code(self) -> int:
        if self.outcome.stopped_by:
            return 128 + self.outcome.stopped_by
        return 1 if self.outcome.diverged >= 0 or self.failures else 0

    def record(self) -> dict[str, Any]:
        progress, splits = self.outcome.progress, self.splits
        return {"out": str(self.out), "backbone": self.name, "started_from": self.initial_weights,
                "settings": record_of(self.settings), "precision": self.precision,
                "samples": {"train": len(splits.train), "val": len(splits.val), "test": len(splits.test)},
                "best_epoch": progress.best_epoch, "history": [epoch.record() for epoch in progress.history],
                "stopped_by": self.outcome.stopped_by, "diverged": self.outcome.diverged,
                "failures": len(self.failures), "notes": list(splits.notes), "seconds": self.seconds}

    def text(self) -> str:
        if not self.first:
            return ""
        untrained = ["it started from random weights"] if self.initial_weights.startswith("random:") else []
        return "\n".join([self._end(), *(f"note: {note}" for note in (*untrained, *self.splits.notes))])

    def _end(self) -> str:
        progress, settings = self.outcome.progress, self.settings
        where = f"epoch {progress.epoch + 1} of {settings.epochs}"
        if self.outcome.stopped_by:
            return f"stopped by {signal.Signals(self.outcome.stopped_by).name} in {where}; the same command goes on"
        diverged = f"in {where} the loss was not finite any more: lower --lr, or use --clip 1"
        if not progress.best:
            return f"{diverged}; nothing was written"
        best = progress.history[progress.best_epoch]
        scores = ", ".join(f"{target} macro-F1 {100 * score.macro_f1:.2f}, accuracy {100 * score.accuracy:.2f}"
                           for target, score in best.scores.items())
        return "\n".join([
            *([f"{diverged}; what follows is of the last good epoch"] if self.outcome.diverged >= 0 else []),
            f"{self.name} ({self.precision}) from {self.initial_weights[:19]}: {len(self.splits.train)} training and "
            f"{len(self.splits.val)} validation samples, epoch {best.epoch + 1} of {settings.epochs} chosen, in "
            f"{timedelta(seconds=round(self.seconds))}",
            f"on validation: {scores}",
            f"wrote {self.out}" + ("" if settings.folds else f"; use it with {_usage(self.name, self.out)}"),
        ])


@dataclass(frozen=True)
class FoldsReport:
    """One encoder a fold, by its number from 1 on, up to the one that was stopped. out: what names all of them."""

    folds: dict[int, FinetuneReport]
    out: Path

    @property
    def exit_code(self) -> int:
        return max(report.exit_code for report in self.folds.values())

    def record(self) -> dict[str, Any]:
        return {"folds": [report.record() for report in self.folds.values()]}

    def text(self) -> str:
        texts = [f"fold {number} of {report.settings.folds}: {report.text()}" for number, report in self.folds.items()]
        last = list(self.folds.values())[-1]
        if last.first and sum(report.outcome.has_weights for report in self.folds.values()) == last.settings.folds:
            texts.append(f"use all of them with {_usage(last.name, self.out)}")
        return "\n\n".join(texts)


def _usage(name: str, weights: Path) -> str:
    return f"`extract --backbones {name} --weights {name}={weights}`"
