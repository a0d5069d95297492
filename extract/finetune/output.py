"""What a fine-tuning writes: a weights file that `extract` takes like any other, and says how it came about."""

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from twofold.cache.atomic import published
from twofold.data.errors import InputError
from twofold.extract.finetune.history import Epoch
from twofold.extract.finetune.loop import Outcome
from twofold.extract.finetune.settings import Settings, record_of
from twofold.extract.finetune.start import Start
from twofold.extract.finetune.state import Progress
from twofold.extract.weights.finetuned import PREFIX, PREPROCESSING, SeenFaces, preprocessing_text
from twofold.extract.weights.read import read_checkpoint


def seen_faces(sha256: Sequence[str], groups: Sequence[str]) -> SeenFaces:
    """The faces that taught or chose, as their image files' SHA-256 and the names of their groups, each once."""
    images = sorted({bytes.fromhex(text) for text in sha256})
    names = sorted({hashlib.sha256(name.encode()).digest() for name in groups if name})
    return SeenFaces(_rows(images), _rows(names))


def write_weights(path: Path, start: Start, progress: Progress, settings: Settings, seen: SeenFaces,
                  extra: dict[str, Any]) -> None:
    """Write the best epoch's weights whole or not at all: the encoder's entries under its architecture's own names.

    The basic classifier (the compound one where no basics are learned) stands where the architecture has its own, the
    other under a name of ours; metadata: DESIGN.md, section 3.
    """
    start.learner.load_state_dict(progress.best)
    tensors = {name: value() for name, value in start.entries.items()}
    own = settings.targets[0]
    place = own_head_of(start)
    for target in settings.targets:
        prefix = place if target == own and place else f"{PREFIX}{target}."
        head = start.learner.heads[target].state_dict()
        tensors |= {f"{prefix}weight": head["weight"], f"{prefix}bias": head["bias"]}
    tensors |= dict(seen.tensors())
    best = progress.history[progress.best_epoch]
    metadata = {
        "made_by": "twofold finetune", "backbone": start.name, "architecture": start.architecture.name,
        PREPROCESSING: preprocessing_text(start.architecture.preprocessing),
        "classes": ",".join(settings.taxonomies[own].classes), "started_from": start.weights,
        **{f"{target}_classes": ",".join(settings.taxonomies[target].classes) for target in settings.targets},
        "settings": json.dumps(record_of(settings), sort_keys=True),
        "validation": json.dumps(best.row(), sort_keys=True),
        "history": json.dumps([epoch.record() for epoch in progress.history]), "software": _software(), **extra,
    }
    with published(path) as temporary:
        save_file({name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}, temporary,
                  metadata=metadata)


def finished(path: Path, training: str) -> Outcome:
    """What the training of a weights file came to. Raises InputError if the file is not of this training."""
    checkpoint = read_checkpoint(path)
    if checkpoint.metadata.get("training") != training:
        raise InputError(f"{path} exists and is not of this training: choose another --out")
    history = [Epoch.from_record(record) for record in json.loads(checkpoint.metadata["history"])]
    best = max(range(len(history)), key=lambda place: (history[place].score, -place))
    progress = Progress(epoch=len(history), history=history, best_epoch=best, best=checkpoint.tensors)
    return Outcome(progress, diverged=int(checkpoint.metadata["diverged"]))


def own_head_of(start: Start) -> str:
    """Prefix of the architecture's own classifier in a weights file, or empty where it has none."""
    return start.architecture.heads[0] if start.architecture.heads else ""


def _rows(digests: Sequence[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), 32).copy()


def _software() -> str:
    versions = {name: sys.modules[name].__version__ for name in ("torch", "timm", "torchvision", "PIL")
                if name in sys.modules}
    return json.dumps({"python": sys.version.split()[0], **versions}, sort_keys=True)
