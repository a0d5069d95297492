"""What each epoch gave: a row of a CSV file, and of TensorBoard's if that is installed."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from twofold.data.utils.outputs import Output, OutputKind, read_header
from twofold.extract.finetune.scores import Score

BOARD = ".twofold-finetune"  #: ends the names of TensorBoard's files of ours
HISTORY = OutputKind("a history of `finetune`",
                     lambda path: read_header(path)[:4] == ["epoch", "loss", "rate", "val_loss"])


@dataclass(frozen=True)
class Epoch:
    """One pass over the training faces and the look at validation after it. seconds: since the training began."""

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
        figures = {f"val_{target}_{name}": round(getattr(score, name), 6) for target, score in self.scores.items()
                   for name in ("accuracy", "macro_f1")}
        return {"epoch": self.epoch, "loss": round(self.loss, 6), "rate": self.rate,
                "val_loss": round(self.val_loss, 6), **figures, "seconds": round(self.seconds, 1)}

    def record(self) -> dict:
        return {"epoch": self.epoch, "loss": self.loss, "rate": self.rate, "val_loss": self.val_loss,
                "scores": {target: [score.accuracy, score.macro_f1] for target, score in self.scores.items()},
                "seconds": self.seconds}

    @classmethod
    def from_record(cls, record: dict) -> "Epoch":
        scores = {target: Score(*figures) for target, figures in record["scores"].items()}
        return cls(**{**record, "scores": scores})


def history_path(weights: Path) -> Path:
    """Where the history of a file of weights stands: beside it, and replaced with it."""
    return weights.with_suffix(".history.csv")


def history_output(path: Path) -> Output:
    """The table of epochs, by the rule of data/utils/outputs.py."""
    return Output(path, HISTORY, overwrite=True)


def write_history(output: Output, epochs: Sequence[Epoch]) -> None:
    """A row an epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(epochs[0].row()), lineterminator="\n")
    writer.writeheader()
    writer.writerows(epoch.row() for epoch in epochs)
    output.write_text(text.getvalue())


def to_tensorboard(folder: Path, epochs: Sequence[Epoch]) -> None:
    """The same for TensorBoard, from the first epoch on, in place of an earlier one of ours.

    Raises InputError with the line that installs it.
    """
    from twofold.data.utils.errors import InputError

    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("--tensorboard needs the package tensorboard: pip install tensorboard") from None
    for old in folder.glob(f"events.out.tfevents.*{BOARD}"):
        old.unlink()
    with SummaryWriter(str(folder), filename_suffix=BOARD) as board:
        for epoch in epochs:
            for name, value in epoch.row().items():
                if name != "epoch":
                    board.add_scalar(name, value, epoch.epoch)
