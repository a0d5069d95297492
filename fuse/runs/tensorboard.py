"""Histories of training for TensorBoard, and through it for others: a run of its own for each fold and seed."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twofold.data.utils.errors import InputError
from twofold.fuse.training.loop import Epoch

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

OURS = ".twofold-fuse"  #: ends the names of the event files that are written here
FIGURES = ("accuracy", "macro_f1", "uar", "calibration_error")


def check_tensorboard() -> None:
    """Raises InputError with the line that installs it, before anything is trained."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise InputError("--tensorboard needs the package tensorboard: pip install tensorboard") from None


def write_curves(folder: Path, histories: Sequence[Sequence[Epoch]]) -> None:
    """What each epoch gave, below folder/curves, in place of earlier ones of ours. histories: one a fold."""
    _clear(folder / "curves")
    for fold, history in enumerate(histories):
        for member in sorted({line.member for line in history}):
            name = f"fold{fold}-seed{member}" if len(histories) > 1 else f"seed{member}"
            with _board(folder / "curves" / name) as board:
                for line in (line for line in history if line.member == member):
                    for quantity, value in asdict(line).items():
                        if quantity not in ("member", "epoch"):
                            board.add_scalar(quantity, value, line.epoch)


def write_figures(folder: Path, systems: Sequence[Mapping[str, Any]]) -> None:
    """The figures of metrics.json, each system a run below folder/systems, in place of earlier ones of ours."""
    _clear(folder / "systems")
    for number, system in enumerate(systems, 1):
        mark = " UNTRAINED" if system["untrained"] else ""
        name = "".join(letter if letter.isalnum() or letter in "-_+ ." else "-" for letter in system["name"])
        with _board(folder / "systems" / f"{number} {name}{mark}") as board:
            for figure in FIGURES:
                board.add_scalar(f"test/{figure}", system[figure], 0)


def write_trial(folder: Path, settings: Mapping[str, Any], score: float) -> None:
    """The settings of a sweep's trial and its macro-F1 on validation, for the dashboard of hyperparameters."""
    from torch.utils.tensorboard.summary import hparams

    _clear(folder / "trial")
    shown = {name: value if isinstance(value, bool | int | float) else " + ".join(value) if isinstance(value, list)
             else str(value) for name, value in settings.items()}
    with _board(folder / "trial") as board:
        for summary in hparams(shown, {"val_macro_f1": score}):
            board.file_writer.add_summary(summary)  # type: ignore[union-attr]  # there is one while it is open
        board.add_scalar("val_macro_f1", score, 0)


@contextmanager
def _board(folder: Path) -> "Iterator[SummaryWriter]":
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder), filename_suffix=OURS) as board:
        yield board


def _clear(folder: Path) -> None:
    """Remove event files of ours, whatever else is there."""
    for path in folder.rglob(f"events.out.tfevents.*{OURS}"):
        path.unlink()
