"""What a training will need: the report of `finetune --dry-run`."""

import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from twofold.extract.encoders.devices import PRECISIONS
from twofold.extract.encoders.preprocessing import Preprocessing
from twofold.extract.finetune.data import Splits
from twofold.extract.finetune.model import Classifier, InitialModel
from twofold.extract.finetune.settings import Settings

PARAMETER_BYTES, ADAM_BYTES = 4, 8  #: of a parameter or its gradient, and of the two moments of one that is trained


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """train, val: samples; parameters, trained: numbers, those of the classifiers too; memory: bytes at the peak of a
    step on the device, without the images; whole: of it, what does not grow with the batch."""

    backbone: str
    precision: str
    train: int
    val: int
    steps: int
    parameters: int
    trained: int
    part: int
    memory: int
    whole: int
    notes: tuple[str, ...]
    exit_code: int = 0

    def record(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        return "\n".join([
            f"{self.backbone} ({self.precision}): {self.train:,} training and {self.val:,} validation samples, "
            f"{self.steps:,} steps",
            f"{self.parameters:,} parameters, {self.trained:,} of them trained",
            f"about {self.memory / 1e9:.2f} GB at the peak of a step of {self.part} samples at once, "
            f"{self.whole / 1e9:.2f} GB of it weights, gradients and Adam's moments; besides decoded images",
            *(f"note: {note}" for note in self.notes), "nothing was read, trained or written"])


def estimate(initial: InitialModel, settings: Settings, splits: Splits, *, backbone: str, precision: str) -> Estimate:
    """Memory is measured all along a forward and a backward pass of two and of six images on the CPU; each moment of
    them is extended in proportion to the samples that are computed at once."""
    model, part = initial.model, -(-settings.batch_size // settings.accumulate)
    few, more = (_held(model, count, initial.architecture.preprocessing, precision) for count in (2, 6))
    moments = np.linspace(0, 1, max(len(few), len(more)))
    few, more = (np.interp(moments, np.linspace(0, 1, len(held)), held) for held in (few, more))
    peak = (few + (more - few) / 4 * (part - 2)).max()
    parameters, trained = (sum(each.numel() for each in model.parameters() if each.requires_grad or not only)
                           for only in (False, True))
    whole = PARAMETER_BYTES * (parameters + trained) + ADAM_BYTES * trained
    return Estimate(
        backbone=backbone, precision=precision, train=len(splits.train), val=len(splits.val),
        steps=settings.epochs * max(1, len(splits.train) // settings.batch_size), parameters=parameters,
        trained=trained, part=part, memory=max(whole, whole - PARAMETER_BYTES * trained + int(peak)), whole=whole,
        notes=tuple(splits.notes))


def _held(model: Classifier, count: int, how: Preprocessing, precision: str) -> np.ndarray:
    """Bytes that a forward and a backward pass of some images hold from moment to moment, gradients included."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or torch's profiler says on stderr that there is no GPU
    images = torch.zeros(count, 3, how.size, how.size)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        with torch.autocast("cpu", dtype=PRECISIONS[precision], enabled=precision != "fp32"):
            loss = model(images).float().square().sum()
        loss.backward()
    model.zero_grad(set_to_none=True)
    assert recorded.profiler is not None and recorded.profiler.kineto_results is not None
    events: list[Any] = [each for each in recorded.profiler.kineto_results.events() if each.name() == "[memory]"]
    return np.cumsum([event.nbytes() for event in sorted(events, key=lambda each: each.start_ns())])
