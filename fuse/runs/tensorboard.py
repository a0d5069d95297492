"""Histories of training for TensorBoard, and through it for others: a run of its own for each fold and seed."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twofold.data.utils.errors import InputError
from twofold.fuse.core.task import Task
from twofold.fuse.training.loop import Epoch

OURS = ".twofold-fuse"  #: ends the names of the event files that are written here
FURTHER = ("uar", "calibration_error")  #: figures of tasks with classes, besides the task's metrics


def check_tensorboard() -> None:
    """Raises InputError with the line that installs it, before anything is trained."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise InputError("--tensorboard needs the package tensorboard: pip install tensorboard") from None


def write_curves(folder: Path, histories: Sequence[Sequence[Epoch]]) -> None:
    """What each epoch gave, below folder/curves, in place of earlier ones of ours. histories: one per fold."""
    boards: dict[str, list[tuple[str, float, int]]] = {}
    for fold, history in enumerate(histories):
        for line in history:
            name = f"fold{fold}-seed{line.member}" if len(histories) > 1 else f"seed{line.member}"
            boards.setdefault(name, []).extend((curve, value, line.epoch) for curve, value in line.record().items()
                                               if curve not in ("member", "epoch"))
    _write(folder / "curves", boards)


def write_figures(folder: Path, systems: Sequence[Mapping[str, Any]], task: Task) -> None:
    """The figures of metrics.json, each system a run below folder/systems, in place of earlier ones of ours."""
    boards = {}
    for number, system in enumerate(systems, 1):
        name = "".join(letter if letter.isalnum() or letter in "-_+ ." else "-" for letter in system["name"])
        boards[f"{number} {name}{' UNTRAINED' if system['untrained'] else ''}"] = [
            (f"test/{figure}", system[figure], 0) for figure in (*(metric.key for metric in task.metrics), *FURTHER)
            if system.get(figure) is not None]
    _write(folder / "systems", boards)


def write_trial(folder: Path, settings: Mapping[str, Any], key: str, score: float) -> None:
    """The settings of a sweep's trial and its score on validation, for the dashboard of hyperparameters."""
    from torch.utils.tensorboard.summary import hparams

    shown = {name: value if isinstance(value, bool | int | float) else " + ".join(value) if isinstance(value, list)
             else str(value) for name, value in settings.items()}
    _write(folder / "trial", {"": [(key, score, 0)]}, summaries=hparams(shown, {key: score}))


def _write(folder: Path, boards: Mapping[str, Iterable[tuple[str, float, int]]], *, summaries: Iterable[Any] = ()
           ) -> None:
    """Write (tag, value, step) of each board into a folder of its name, in place of event files of ours."""
    from torch.utils.tensorboard import SummaryWriter

    for path in folder.rglob(f"events.out.tfevents.*{OURS}"):
        path.unlink()
    for name, scalars in boards.items():
        with SummaryWriter(str(folder / name), filename_suffix=OURS) as board:
            for summary in summaries:
                board.file_writer.add_summary(summary)  # type: ignore[union-attr]  # there is one while it is open
            for tag, value, step in scalars:
                board.add_scalar(tag, value, step)
