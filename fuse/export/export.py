"""The verb `export`: a run as files for programs and people that have no Twofold."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twofold.data.utils.errors import InputError
from twofold.data.utils.outputs import Output, OutputKind, read_head
from twofold.fuse.export.card import MARK, model_card
from twofold.fuse.export.onnx_face import FaceEncoders, write_onnx_face
from twofold.fuse.export.onnx_head import is_onnx_head, write_onnx_head
from twofold.fuse.runs.run import Run

HEAD, FACE, CARD = "head.onnx", "face.onnx", "README.md"
ONNX_HEAD = OutputKind("a head that `export` wrote", is_onnx_head)
ONNX_FACE = OutputKind("a model that `export` wrote", is_onnx_head)
MODEL_CARD = OutputKind("a card that `export` wrote", lambda path: MARK in read_head(path))


@dataclass(frozen=True)
class Export:
    """What was written to a folder. differences: between each model's probabilities and the run's own, at most."""

    folder: Path
    differences: dict[str, float]
    note: str

    def record(self) -> dict[str, Any]:
        return {"folder": str(self.folder), "files": [*self.differences, CARD],
                "largest_difference": self.differences[HEAD], "largest_differences": self.differences}

    def text(self) -> str:
        about = {HEAD: "raw features to probabilities", FACE: "faces to probabilities"}
        lines = [f"{self.folder / name}: {about[name]}, {difference:.1g} from the run's at most"
                 for name, difference in self.differences.items()]
        note = [f"note: {self.note}"] if self.note else []
        return "\n".join([*lines, f"{self.folder / CARD}: a model card with figures, encoders, data and limits", *note])


def export(run: Run, out: Path, *, licences: Mapping[str, str], encoders: FaceEncoders | None = None,
           overwrite: bool = False) -> Export:
    """Write the run's head as ONNX and its model card to a new or empty folder; see the modules for what may fail.

    encoders: write the whole model from a face on, too. overwrite: an older export, whose files alone are replaced.
    Raises InputError for a folder of anything else.
    """
    if encoders:
        licences = {**licences, **dict(zip((backbone for backbone, _, _ in run.streams), encoders.licences,
                                           strict=True))}
    card = model_card(run, licences=licences, side=encoders.side if encoders else 0)
    models = {HEAD: Output(out / HEAD, ONNX_HEAD, overwrite)}
    models |= {FACE: Output(out / FACE, ONNX_FACE, overwrite)} if encoders else {}
    page = Output(out / CARD, MODEL_CARD, overwrite)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not any((out / name).is_file() for name in (HEAD, CARD)):
            raise InputError(f"{out} holds something already, and is not a folder of `export`: choose another -o")
        for output in (*models.values(), page):
            output.check()
    with tempfile.TemporaryDirectory(prefix="twofold-") as folder:
        differences = {HEAD: write_onnx_head(run, Path(folder, HEAD))}
        if encoders:
            differences[FACE] = write_onnx_face(run, encoders, Path(folder, FACE))
        out.mkdir(parents=True, exist_ok=True)
        for name, output in models.items():
            with output.writing() as temporary:
                shutil.copyfile(Path(folder, name), temporary)
    page.write_text(card)
    return Export(out, differences, _precision_note(run) if encoders else "")


def _precision_note(run: Run) -> str:
    other = [backbone for backbone, _, recipe in run.streams if recipe.precision != "fp32"]
    return (f"{FACE} computes in fp32 what the run's features were computed in bf16 or fp16 ({', '.join(other)}): "
            "answers differ by that") if other else ""
