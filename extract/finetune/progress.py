"""What a training has come to: the scores of each epoch, and a state on disk from which a killed one goes on."""

import contextlib
import csv
import hashlib
import io
import os
import pickle
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch import nn

from twofold.data.utils.atomic import atomic_write, publish, remove_stale_files
from twofold.data.utils.errors import InputError, first_line
from twofold.data.utils.outputs import Output, OutputKind, read_header

STATE_FORMAT = "twofold-finetune-state-2"
TENSORBOARD_SUFFIX = ".twofold-finetune"  #: ends the names of TensorBoard's files of ours
HISTORY = OutputKind("a history of `finetune`",
                     lambda path: read_header(path)[:4] == ["epoch", "loss", "rate", "val_loss"])


@dataclass(frozen=True)
class Score:
    """Of one target on the validation samples, as fractions of 1."""

    accuracy: float
    macro_f1: float  #: unweighted mean F1 of all classes

    @classmethod
    def of(cls, truth: np.ndarray, predicted: np.ndarray, classes: int) -> "Score":
        """Of (N,) class numbers. A class without samples, or without any right prediction, counts 0."""
        confusion = np.zeros((classes, classes), np.int64)
        np.add.at(confusion, (truth, predicted), 1)
        hits, samples, predictions = np.diag(confusion), confusion.sum(1), confusion.sum(0)
        f1 = 2 * hits / np.maximum(samples + predictions, 1)
        return cls(float(hits.sum() / max(len(truth), 1)), float(f1.mean()))


@dataclass(frozen=True)
class Epoch:
    """One pass over the training samples and the validation after it. seconds: since the training began."""

    epoch: int
    loss: float
    rate: float
    val_loss: float
    scores: dict[str, Score]  #: of each target
    seconds: float

    @property
    def score(self) -> float:
        """What the best epoch is chosen by: macro-F1, the mean over the targets."""
        return sum(score.macro_f1 for score in self.scores.values()) / len(self.scores)

    def row(self) -> dict[str, float]:
        """Its line in the history."""
        figures = {f"val_{target}_{name}": round(getattr(score, name), 6) for target, score in self.scores.items()
                   for name in ("accuracy", "macro_f1")}
        return {"epoch": self.epoch, "loss": round(self.loss, 6), "rate": self.rate,
                "val_loss": round(self.val_loss, 6), **figures, "seconds": round(self.seconds, 1)}

    def record(self) -> dict[str, Any]:
        """As JSON holds it; `from_record` reads it back."""
        scores = {target: [score.accuracy, score.macro_f1] for target, score in self.scores.items()}
        return vars(self) | {"scores": scores}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Epoch":
        scores = {target: Score(*figures) for target, figures in record["scores"].items()}
        return cls(**{**record, "scores": scores})


@dataclass
class Progress:
    """Where a training is. step: steps done in the open epoch; best: the weights that did best on validation."""

    epoch: int = 0
    step: int = 0
    losses: list[float] = field(default_factory=list)  #: of the steps of the open epoch
    seconds: float = 0.0
    parts: int = 1  #: that a step is computed in: more once memory has run out
    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = -1
    best: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def best_score(self) -> float:
        return self.history[self.best_epoch].score if self.best_epoch >= 0 else float("-inf")

    def end_epoch(self, epoch: Epoch, network: nn.Module) -> None:
        """Note an epoch, and copy the weights of the network to the CPU if it is the best so far."""
        self.history.append(epoch)
        if epoch.score > self.best_score:
            self.best_epoch = self.epoch
            self.best = {name: value.detach().to("cpu", copy=True) for name, value in network.state_dict().items()}
        self.epoch, self.step, self.losses = self.epoch + 1, 0, []


def save_state(path: Path, progress: Progress, training: str, parts: Mapping[str, Any]) -> None:
    """Write the state whole or not at all, its SHA-256 behind it. training: names the training; parts: what has a
    `state_dict()`. Raises OSError for a full disk."""
    record = vars(progress) | {"history": [epoch.record() for epoch in progress.history]}
    states = {name: part.state_dict() for name, part in parts.items()}
    with _unnamed_file(path) as file:
        try:
            torch.save({"format": STATE_FORMAT, "training": training, "progress": record, "states": states}, file)
        except RuntimeError as error:  # so torch ends where the disk is full, after the error that says so
            raise error.__context__ or error from None
        file.seek(0)
        file.write(hashlib.file_digest(cast(Any, file), "sha256").digest())


@contextlib.contextmanager
def _unnamed_file(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name when it is whole: a killed process leaves nothing. Where a file system needs a name, it
    has a temporary one, which the next training there removes."""
    try:
        descriptor = os.open(path.parent, os.O_TMPFILE | os.O_RDWR, 0o666)
    except (OSError, AttributeError):
        with atomic_write(path) as temporary, temporary.open("w+b") as file:
            yield file
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            temporary = f".tmp-{uuid.uuid4().hex}"
            os.link(f"/proc/self/fd/{descriptor}", temporary, dst_dir_fd=folder)
        publish(path.with_name(temporary), path)
    finally:
        os.close(folder)


def load_state(path: Path, training: str, parts: Mapping[str, Any], *, device: torch.device,
               overwrite: bool = False) -> Progress | None:
    """Go on from `path`, where there is such a file; overwrite: not from one of another training, which is replaced.

    Raises InputError if it is of another training or damaged.
    """
    remove_stale_files(path.parent)
    if not path.exists():
        return None
    try:
        _check_hash(path)
        state = torch.load(path, map_location=device, weights_only=True)
        if state["format"] != STATE_FORMAT:
            raise ValueError(f"format {state['format']}")
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        reason = first_line(error, most=120)
        raise InputError(f"{path}: the state of an earlier training does not read back ({reason}): remove it") from None
    if state["training"] != training:
        if overwrite:
            return None
        raise InputError(f"{path} is the state of a training with other settings, samples or weights: go on with "
                         "those, remove it, or choose another --out")
    for name, part in parts.items():
        part.load_state_dict(state["states"][name])
    record = state["progress"]
    record["history"] = [Epoch.from_record(epoch) for epoch in record["history"]]
    record["best"] = {name: value.cpu() for name, value in record["best"].items()}
    return Progress(**record)


def _check_hash(path: Path) -> None:
    """Raises ValueError unless the file ends with the SHA-256 of what is before."""
    left, total = path.stat().st_size - 32, hashlib.sha256()
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            total.update(block)
            left -= len(block)
        if left or file.read() != total.digest():
            raise ValueError("its checksum does not match, so it is damaged")


def history_output(weights: Path) -> Output:
    """The table of epochs beside a weights file, replaced with it."""
    return Output(weights.with_suffix(".history.csv"), HISTORY, overwrite=True)


def write_history(output: Output, epochs: Sequence[Epoch]) -> None:
    """A row an epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(epochs[0].row()), lineterminator="\n")
    writer.writeheader()
    writer.writerows(epoch.row() for epoch in epochs)
    output.write_text(text.getvalue())


def write_tensorboard(folder: Path, epochs: Sequence[Epoch]) -> None:
    """The same for TensorBoard, from the first epoch on, in place of an earlier one of ours.

    Raises InputError with the line that installs it.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("--tensorboard needs the package tensorboard: pip install tensorboard") from None
    for old in folder.glob(f"events.out.tfevents.*{TENSORBOARD_SUFFIX}"):
        old.unlink()
    with SummaryWriter(str(folder), filename_suffix=TENSORBOARD_SUFFIX) as board:
        for epoch in epochs:
            for name, value in epoch.row().items():
                if name != "epoch":
                    board.add_scalar(name, value, epoch.epoch)
