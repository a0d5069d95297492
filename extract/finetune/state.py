"""All that a training has come to, so that a killed one goes on where it was and ends with the same weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from twofold.cache.atomic import published
from twofold.data.utils.errors import InputError, first_line
from twofold.extract.finetune.history import Epoch

FORMAT = "twofold-finetune-state-1"


@dataclass
class Progress:
    """Where a training is. step: steps done in the open epoch; best: the weights that did best on validation."""

    epoch: int = 0
    step: int = 0
    losses: list[float] = field(default_factory=list)  #: of the steps of the open epoch
    seconds: float = 0.0
    parts: int = 1  #: that a step is computed in: more once memory has run out
    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = -1
    best: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def best_score(self) -> float:
        return self.history[self.best_epoch].score if self.best_epoch >= 0 else float("-inf")


def weights_of(network: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of its state on the CPU."""
    return {name: value.detach().to("cpu", copy=True) for name, value in network.state_dict().items()}


def save_state(path: Path, progress: Progress, training: str, parts: Mapping[str, Any]) -> None:
    """Write the state whole or not at all. training: names the training; parts: what has a `state_dict()`."""
    record = vars(progress) | {"history": [epoch.record() for epoch in progress.history]}
    states = {name: part.state_dict() for name, part in parts.items()}
    with published(path) as temporary, temporary.open("wb") as file:  # torch would take a name with a dot in front ill
        torch.save({"format": FORMAT, "training": training, "progress": record, "states": states}, file)


def load_state(path: Path, training: str, parts: Mapping[str, Any], *, device: torch.device,
               overwrite: bool = False) -> Progress | None:
    """Go on from `path`, where there is such a file; overwrite: not from one of another training, which is replaced.

    Raises InputError if it is of another training or damaged.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        if state["format"] != FORMAT:
            raise ValueError(f"format {state['format']}")
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError) as error:
        reason = first_line(error, most=120)
        raise InputError(f"{path}: the state of an earlier training does not read back ({reason}): remove it") from None
    if state["training"] != training and overwrite:
        return None
    if state["training"] != training:
        raise InputError(f"{path} is the state of a training with other settings, faces or weights: go on with those, "
                         "remove it, or choose another --out")
    for name, part in parts.items():
        part.load_state_dict(state["states"][name])
    record = state["progress"]
    record["history"] = [Epoch.from_record(epoch) for epoch in record["history"]]
    record["best"] = {name: value.cpu() for name, value in record["best"].items()}
    return Progress(**record)
