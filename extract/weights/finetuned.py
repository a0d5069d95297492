"""What `finetune` writes besides an encoder's own entries: how faces were prepared, and whom the encoder has seen.

Everything of ours in such a file has names that start with `twofold.`; the rest loads into the architecture as it is.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from twofold.data.errors import InputError
from twofold.extract.networks.preprocessing import Preprocessing
from twofold.extract.weights.read import Checkpoint

PREFIX = "twofold."
SHA256, GROUPS = f"{PREFIX}seen.sha256", f"{PREFIX}seen.groups"
PREPROCESSING = "preprocessing"


def without_ours(checkpoint: Checkpoint) -> tuple[Checkpoint, dict[str, torch.Tensor]]:
    """The checkpoint less the entries of ours, and those."""
    ours = {name: tensor for name, tensor in checkpoint.tensors.items() if name.startswith(PREFIX)}
    rest = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in ours}
    return replace(checkpoint, tensors=rest), ours


def preprocessing_of(checkpoint: Checkpoint | None) -> Preprocessing | None:
    """How the faces were prepared that this encoder learned from; None for files of others. Raises InputError."""
    if checkpoint is None or PREPROCESSING not in checkpoint.metadata:
        return None
    try:
        record: dict[str, Any] = json.loads(checkpoint.metadata[PREPROCESSING])
        record |= {name: tuple(record[name]) for name in ("mean", "std")}
        return Preprocessing(**record)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{checkpoint.path}: its preprocessing does not read back ({error})") from None


def preprocessing_text(how: Preprocessing) -> str:
    """The same as text for the file."""
    return json.dumps(asdict(how), sort_keys=True)


@dataclass(frozen=True, eq=False)
class SeenFaces:
    """Faces that an encoder learned from or was chosen by. sha256: (n, 32) uint8 of the image files; groups: (m, 32)
    uint8, SHA-256 of the names of their groups."""

    sha256: np.ndarray
    groups: np.ndarray

    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {SHA256: torch.from_numpy(self.sha256), GROUPS: torch.from_numpy(self.groups)}


def seen_in(ours: Mapping[str, torch.Tensor]) -> SeenFaces | None:
    """Whom the encoder of a file has seen, where the file says so. Raises InputError for entries of another shape."""
    if SHA256 not in ours:
        return None
    sha256, groups = ours[SHA256], ours.get(GROUPS, torch.empty((0, 32), dtype=torch.uint8))
    for values in (sha256, groups):
        if values.dtype != torch.uint8 or values.ndim != 2 or values.shape[1] != 32:
            raise InputError(f"seen faces of the weights are {tuple(values.shape)} {values.dtype}, not (n, 32) uint8")
    return SeenFaces(sha256.numpy(), groups.numpy())
