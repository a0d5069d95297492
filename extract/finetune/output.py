"""What a fine-tuning writes: a weights file that `extract` takes like any other, and says how it came about."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from safetensors.torch import save_file
from torch import nn

from twofold.cache.format.taught import TaughtFaces, group_digest
from twofold.data.utils.errors import InputError
from twofold.data.utils.outputs import Output, OutputKind
from twofold.extract.finetune.history import Epoch
from twofold.extract.finetune.loop import Outcome
from twofold.extract.finetune.settings import Settings, record_of
from twofold.extract.finetune.start import Start
from twofold.extract.finetune.state import Progress
from twofold.extract.weights.finetuned import PREPROCESSING, classes_record, preprocessing_text, tensors_of
from twofold.extract.weights.read import read_checkpoint, safetensors_metadata

MARK = "twofold finetune"
WEIGHTS = OutputKind("a file of `finetune`", lambda path: safetensors_metadata(path).get("made_by") == MARK,
                     repeatable=True)


def weights_output(path: Path, *, overwrite: bool, inputs: Sequence[Path]) -> Output:
    """The file of weights, by the rule of data/utils/outputs.py: one of the same training stays."""
    return Output(path, WEIGHTS, overwrite, inputs)


def taught_faces(sha256: Sequence[str], groups: Sequence[str], *, before: TaughtFaces | None, fold: int, folds: int,
                 training: str) -> TaughtFaces:
    """The faces that taught or chose, as their image files' SHA-256 and the digests of their groups, each once.

    before: whom the encoder that this one started from was taught with, which it knows, too.
    """
    images = {bytes.fromhex(text) for text in sha256}
    names = {group_digest(name) for name in groups if name}
    if before is not None:
        images |= {row.tobytes() for row in before.sha256}
        names |= {row.tobytes() for row in before.groups}
    return TaughtFaces(_rows(sorted(images), 32), _rows(sorted(names), 16), fold=fold, folds=folds, training=training)


def write_weights(output: Output, start: Start, progress: Progress, settings: Settings, taught: TaughtFaces,
                  extra: dict[str, str]) -> None:
    """Write the best epoch's weights whole or not at all: the encoder's entries under its architecture's own names, the
    classifiers and whom they were taught with under names of ours; metadata: DESIGN.md, section 3."""
    start.learner.load_state_dict(progress.best)
    heads = {target: cast(nn.Linear, head) for target, head in start.learner.heads.items()}
    tensors = {name: value() for name, value in start.entries.items()} | tensors_of(heads, taught)
    best = progress.history[progress.best_epoch]
    metadata = {
        "made_by": MARK, "backbone": start.name, "architecture": start.architecture.name,
        PREPROCESSING: preprocessing_text(start.architecture.preprocessing), "started_from": start.weights,
        **classes_record(settings.taxonomies),
        "settings": json.dumps(record_of(settings), sort_keys=True),
        "validation": json.dumps(best.row(), sort_keys=True),
        "history": json.dumps([epoch.record() for epoch in progress.history]), "software": _software(), **extra,
    }
    if taught.folds:
        metadata |= {"fold": str(taught.fold), "folds": str(taught.folds), "fold_set": taught.training}
    with output.writing() as temporary:
        save_file({name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}, temporary,
                  metadata=metadata)


def finished(output: Output, training: str) -> Outcome | None:
    """What the training of a weights file that is there came to; None if there is none, or one to be replaced.

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


def _rows(digests: Sequence[bytes], width: int) -> np.ndarray:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), width).copy()


def _software() -> str:
    versions = {name: sys.modules[name].__version__ for name in ("torch", "timm", "torchvision", "PIL")
                if name in sys.modules}
    return json.dumps({"python": sys.version.split()[0], **versions}, sort_keys=True)
