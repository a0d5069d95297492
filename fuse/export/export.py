"""The verb `export`: a run as files for programs and people that have no Twofold."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twofold.data.errors import InputError
from twofold.data.host.outputs import Kind, Output, head_of
from twofold.fuse.export.card import MARK, model_card
from twofold.fuse.export.onnx_head import is_onnx_head, write_onnx_head
from twofold.fuse.runs.run import read_run

HEAD, CARD = "head.onnx", "README.md"
ONNX_HEAD = Kind("a head that `export` wrote", is_onnx_head)
MODEL_CARD = Kind("a card that `export` wrote", lambda path: MARK in head_of(path))


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


def export(path: Path, out: Path, *, licences: Mapping[str, str], overwrite: bool = False) -> Export:
    """Write the run's head as ONNX and its model card to a new or empty folder; see the two modules for what may fail.

    overwrite: an older export, whose two files alone are replaced. Raises InputError for a folder of anything else.
    """
    run = read_run(path)
    card = model_card(run, licences=licences)
    head, page = Output(out / HEAD, ONNX_HEAD, overwrite), Output(out / CARD, MODEL_CARD, overwrite)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not any((out / name).is_file() for name in (HEAD, CARD)):
            raise InputError(f"{out} holds something already, and is not a folder of `export`: choose another -o")
        head.check()
        page.check()
    with tempfile.TemporaryDirectory(prefix="twofold-") as folder:
        difference = write_onnx_head(run, Path(folder, HEAD))
        out.mkdir(parents=True, exist_ok=True)
        with head.writing() as temporary:
            shutil.copyfile(Path(folder, HEAD), temporary)
    page.write_text(card)
    return Export(out, difference)
