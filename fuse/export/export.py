"""The verb `export`: a run as files for programs and people that have no Twofold."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from twofold.data.utils.errors import InputError
from twofold.data.utils.outputs import Output, OutputKind, read_head
from twofold.data.utils.terminal import Summary
from twofold.fuse.export.card import MARK, model_card
from twofold.fuse.export.onnx import Encoders, face_record, is_exported_model, write_model
from twofold.fuse.runs.read import Run

HEAD, FACE, PREPROCESSING, CARD = "head.onnx", "face.onnx", "face.json", "README.md"
MODEL = OutputKind("a model that `export` wrote", is_exported_model)
KINDS = {HEAD: MODEL, FACE: MODEL, CARD: OutputKind("a card that `export` wrote", lambda path: MARK in read_head(path)),
         PREPROCESSING: OutputKind("a file that `export` wrote", lambda path: '"inputs"' in read_head(path))}


ABOUT = {HEAD: "raw features to probabilities", FACE: f"faces, prepared as {PREPROCESSING} says, to probabilities"}


def export(run: Run, out: Path, *, licences: Mapping[str, str], encoders: Encoders | None = None,
           overwrite: bool = False) -> Summary:
    """Write the run's head as ONNX and its model card to a new or empty folder; see `onnx` and `card` for what may
    fail.

    encoders: write encoders and head as one model, too. overwrite: an older export, of which only its files are
    replaced. Raises InputError for a folder of anything else.
    """
    if encoders:
        own = zip((backbone for backbone, _, _ in run.streams), encoders.licences, strict=True)
        licences = {**licences, **dict(own)}
    how = face_record(run, encoders) if encoders else {"inputs": []}
    texts = {PREPROCESSING: json.dumps(how, indent=2) + "\n"} if encoders else {}
    texts[CARD] = model_card(run, licences=licences, inputs=how["inputs"])
    outputs = {name: Output(out / name, KINDS[name], overwrite) for name in (
        HEAD, *([FACE] if encoders else []), *texts)}
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not any((out / name).is_file() for name in (HEAD, CARD)):
            raise InputError(f"{out} holds something already, and is not a folder of `export`: choose another -o")
        for output in outputs.values():
            output.check()
    with tempfile.TemporaryDirectory(prefix="twofold-") as folder:
        differences = {HEAD: write_model(run, Path(folder, HEAD))}
        if encoders:
            differences[FACE] = write_model(run, Path(folder, FACE), encoders)
        for name, text in texts.items():
            Path(folder, name).write_text(text, encoding="utf-8")
        out.mkdir(parents=True, exist_ok=True)
        for name, output in outputs.items():
            with output.writing() as temporary:
                shutil.copyfile(Path(folder, name), temporary)
    other = [backbone for backbone, _, recipe in run.streams if encoders and recipe.precision != "fp32"]
    lines = [*(f"{out / name}: {ABOUT[name]}, at most {difference:.1g} from the run's own"
               for name, difference in differences.items()),
             f"{out / CARD}: a model card with figures, encoders, data and limits"]
    if other:
        lines.append(f"note: {FACE} computes in fp32 what the run's features were computed in bf16 or fp16 "
                     f"({', '.join(other)}): answers differ by that")
    return Summary(lines, {"folder": str(out), "files": list(outputs), "largest_difference": differences[HEAD],
                           "largest_differences": differences})
