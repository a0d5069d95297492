"""The verb `export`: a run as files for programs and people that have no Twofold."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twofold.data.errors import InputError
from twofold.fuse.export.card import model_card
from twofold.fuse.export.onnx_head import write_onnx_head
from twofold.fuse.runs.run import read_run

HEAD, CARD = "head.onnx", "README.md"


@dataclass(frozen=True)
class Export:
    """What was written to a folder. difference: between the ONNX head's probabilities and the run's own, at most."""

    folder: Path
    difference: float

    def record(self) -> dict[str, Any]:
        return {"folder": str(self.folder), "files": [HEAD, CARD], "largest_difference": self.difference}

    def text(self) -> str:
        return (f"{self.folder / HEAD}: raw features to probabilities, {self.difference:.1g} from the run's at most\n"
                f"{self.folder / CARD}: a model card with figures, encoders, data and limits")


def export(path: Path, out: Path, *, licences: Mapping[str, str]) -> Export:
    """Write the run's head as ONNX and its model card to a new or empty folder; see the two modules for what may fail.

    Raises InputError for a folder that holds anything, too.
    """
    run = read_run(path)
    card = model_card(run, licences=licences)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} holds something already: choose another -o")
    out.mkdir(parents=True, exist_ok=True)
    try:
        difference = write_onnx_head(run, out / HEAD)
    except BaseException:
        (out / HEAD).unlink(missing_ok=True)
        out.rmdir()
        raise
    (out / CARD).write_text(card, encoding="utf-8")
    return Export(out, difference)
