"""The training loop: epochs of steps, validation after each, a state on disk now and then; one process or several."""

import contextlib
import ctypes
import logging
import math
import os
import platform
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed, nn

from twofold.data.utils.atomic import atomic_write, remove_stale_files
from twofold.data.utils.errors import InputError, first_line
from twofold.extract.encoders.devices import PRECISIONS, is_out_of_memory
from twofold.extract.engine.progress import Stop, progress_bar
from twofold.extract.finetune.augmentation import augment, own_random_state, seed_part
from twofold.extract.finetune.data import Images, Splits
from twofold.extract.finetune.model import Classifier, build_optimizer, learning_rate, set_training_mode
from twofold.extract.finetune.settings import Settings
from twofold.extract.finetune.targets import Loss

log = logging.getLogger(__name__)
MMAP_MAX, MMAP_THRESHOLD, TRIM_THRESHOLD, TOP_PAD = -4, -3, -1, -2  #: parameters of mallopt(3)
STATE_FORMAT = "twofold-finetune-state-4"


def set_allocator(*, keep_freed: bool) -> bool:
    """Let the C library keep freed blocks for the next allocation, or give those of 1 MB and more back at once; True if
    it does so from now on.

    glibc takes large tensors (of more than 32 MB, at first of more than 128 kB) from the kernel and gives them back, so
    that a step touches fresh pages all the time: 13 % of its CPU time. Those below stay between others, which is most
    of the memory of a step that computes its activations anew. Elsewhere nothing changes.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt, settings = ctypes.CDLL(None).mallopt, ((MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1), (TOP_PAD, 64 * 2**20))
    if not keep_freed:
        settings = ((MMAP_MAX, 2**16), (TRIM_THRESHOLD, 2**17), (TOP_PAD, 0), (MMAP_THRESHOLD, 2**20))
    return all(mallopt(*setting) for setting in settings)


# ----------------------------------------------------------------------------------------------------- processes
@dataclass(frozen=True)
class Processes:
    """This process among `count`, which compute the parts of each step in turn and add up their gradients."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """True for the process that writes and speaks."""
        return self.rank == 0

    def wrapped(self, network: nn.Module) -> nn.Module:
        """The network whose gradients are averaged over the processes."""
        if self.count == 1:
            return network
        device = next(network.parameters()).device
        return nn.parallel.DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)

    def summed(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over all processes."""
        if self.count > 1:
            distributed.all_reduce(value)
        return value

    def agreed(self, signal: int) -> int:
        """The largest of the processes' signals, so that all stop after the same step."""
        if self.count == 1:
            return signal
        value = torch.tensor(signal, device="cuda" if distributed.get_backend() == "nccl" else "cpu")
        distributed.all_reduce(value, distributed.ReduceOp.MAX)
        return int(value)


@contextlib.contextmanager
def processes(device: torch.device) -> Iterator[tuple[Processes, torch.device]]:
    """This process among those that torchrun started, and its device; or the only one."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(), device
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    own = torch.device("cuda", local) if device.type == "cuda" else device
    if own.type == "cuda":
        torch.cuda.set_device(own)
    distributed.init_process_group("nccl" if own.type == "cuda" else "gloo")
    try:
        yield Processes(rank, count), own
    finally:
        distributed.destroy_process_group()


# ------------------------------------------------------------------------------------------------------ progress
@dataclass(frozen=True)
class Epoch:
    """One pass over the training samples and the validation after it. scores: of each target, the first of which is
    what it is chosen by; seconds: since the training began."""

    epoch: int
    loss: float
    rate: float
    val_loss: float
    scores: dict[str, dict[str, float]]
    seconds: float

    @property
    def score(self) -> float:
        """What the best epoch is chosen by: the mean over the targets of the first score of each."""
        return sum(next(iter(values.values())) for values in self.scores.values()) / len(self.scores)

    def row(self) -> dict[str, float]:
        """Its line in the history."""
        figures = {f"val_{target}_{name}": round(value, 6) for target, values in self.scores.items()
                   for name, value in values.items()}
        return {"epoch": self.epoch, "loss": round(self.loss, 6), "rate": self.rate,
                "val_loss": round(self.val_loss, 6), **figures, "seconds": round(self.seconds, 1)}


@dataclass
class Progress:
    """Where a training is. step: steps done in the open epoch; best: what training changes, where it did best on
    validation.

    stopped_by: the signal that ended it early, or 0; diverged: the epoch in which the loss was no number, or -1.
    """

    epoch: int = 0
    step: int = 0
    losses: list[float] = field(default_factory=list)  #: of the steps of the open epoch
    seconds: float = 0.0
    precision: str = "fp32"  #: of the forward pass: a resumed training keeps its own
    parts: int = 1  #: that a step is computed in: more once memory has run out
    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = -1
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    stopped_by: int = 0
    diverged: int = -1

    @property
    def scores(self) -> list[float]:
        return [epoch.score for epoch in self.history]

    @property
    def has_weights(self) -> bool:
        """Whether there are weights to keep: it came to an end, with a good epoch at least."""
        return bool(self.best) and not self.stopped_by


def save_state(path: Path, progress: Progress, training: str, parts: dict[str, Any]) -> None:
    """Write the state whole or not at all. training: names the training; parts: what has a `state_dict()`. Raises
    OSError for a full disk."""
    state = {"format": STATE_FORMAT, "training": training,
             "progress": vars(progress) | {"history": list(map(vars, progress.history))},
             "states": {name: part.state_dict() for name, part in parts.items()}}
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # so torch ends where the disk is full, after the error that says so
            raise error.__context__ or error from None


def load_state(path: Path, training: str, parts: dict[str, Any], *, device: torch.device, overwrite: bool = False,
               ) -> Progress | None:
    """Go on from `path`, where there is such a file; overwrite: not from one of another training, which is replaced.

    Raises InputError if it is of another training or damaged.
    """
    remove_stale_files(path.parent)
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip():
                raise ValueError("its checksum does not match, so it is damaged")
        state = torch.load(path, map_location=device, weights_only=True)
        if state["format"] != STATE_FORMAT:
            raise ValueError(f"format {state['format']}")
    except Exception as error:  # whatever reading trips over is the file's fault
        reason = first_line(error, most=120)
        raise InputError(f"{path}: the state of an earlier training does not read back ({reason}): remove it") from None
    if state["training"] != training:
        if overwrite:
            return None
        raise InputError(f"{path} is the state of a training with other settings, samples or weights: go on with "
                         "those, remove it, or choose another --out")
    for name, part in parts.items():
        part.load_state_dict(state["states"][name])
    record = state["progress"]
    best = {name: value.cpu() for name, value in record["best"].items()}
    return Progress(**record | {"history": [Epoch(**epoch) for epoch in record["history"]], "best": best})


# ------------------------------------------------------------------------------------------------------ training
@dataclass(kw_only=True, eq=False)
class Training:
    """A training in progress. name: of its content, so that only its own state is taken up again."""

    name: str
    model: Classifier
    images: Images
    splits: Splits
    sampling_weights: np.ndarray | None  #: (train,) probability of each training sample; None: each once an epoch
    loss: Loss
    settings: Settings
    precision: str
    device: torch.device
    processes: Processes
    state: Path
    minutes: float  #: between states on disk
    overwrite: bool  #: a state of another training at the same place

    def __post_init__(self) -> None:
        self.steps = max(1, len(self.splits.train) // self.settings.batch_size)  #: an epoch; the rest is left out
        self.model.to(self.device)
        self.model.to(memory_format=torch.channels_last)  # pyright: ignore (torch's stubs lack it)
        fused = self.device.type == "cpu" and self.precision != "fp32"
        self.optimizer = build_optimizer(self.model, self.settings, fused=fused)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.parts: dict[str, Any] = {"network": self.model, "optimizer": self.optimizer, "scaler": self.scaler}
        self.ema: Any = None
        if self.settings.ema:
            from timm.utils.model_ema import ModelEmaV3

            self.ema = ModelEmaV3(self.model, decay=self.settings.ema, use_warmup=True)
            self.parts["ema"] = self.ema.module
        earlier = load_state(self.state, self.name, self.parts, device=self.device, overwrite=self.overwrite)
        if earlier:
            log.info("going on after %d epochs and %d steps", earlier.epoch, earlier.step)
        self.progress = earlier or Progress(precision=self.precision,
                                            parts=self.settings.accumulate * self.processes.count)
        self.network = self.processes.wrapped(self.model)
        self.no_sync: Any = getattr(self.network, "no_sync", contextlib.nullcontext)

    def run(self, *, shown: bool) -> Progress:
        """Train to the last epoch, or until a signal, from the state on disk if there is one."""
        progress, epochs = self.progress, self.settings.epochs
        began, saved = time.monotonic() - progress.seconds, time.monotonic()
        bar = progress_bar(epochs * self.steps, initial=progress.epoch * self.steps + progress.step, doing="finetune",
                           unit="step", shown=shown and self.processes.first)
        with own_random_state(), Stop() as stop, bar:
            while progress.epoch < epochs:
                order = self.order(progress.epoch)
                set_training_mode(self.model, self.settings)
                while progress.step < self.steps:
                    loss = self._step(order)
                    if not math.isfinite(loss):
                        progress.diverged = progress.epoch
                        return progress
                    progress.losses.append(loss)
                    progress.step += 1
                    bar.update()
                    signal = self.processes.agreed(stop.signal)
                    progress.seconds = time.monotonic() - began
                    if signal or time.monotonic() - saved > 60 * self.minutes:
                        if self.processes.first:
                            save_state(self.state, progress, self.name, self.parts)
                        saved = time.monotonic()
                    if signal:
                        progress.stopped_by = signal
                        return progress
                self._end_epoch(began)
                bar.set_postfix_str(f"val score {progress.history[-1].score:.3f}, best {max(progress.scores):.3f}")
        return progress

    def order(self, epoch: int) -> np.ndarray:
        """(train,) rows in the order of an epoch, the same in every process."""
        rows, draw = self.splits.train, np.random.default_rng([self.settings.seed, epoch])
        if self.sampling_weights is None:
            return draw.permutation(rows)
        return draw.choice(rows, len(rows), p=self.sampling_weights)

    def _step(self, order: np.ndarray) -> float:
        """One step of the optimiser; its loss. Once memory runs out, the parts of a step become more and smaller."""
        progress, start = self.progress, self.progress.step * self.settings.batch_size
        batch = order[start:start + self.settings.batch_size]
        rate = learning_rate(self.settings, progress.epoch + progress.step / self.steps, progress.scores)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                loss = self.backward(batch)
                break
            except RuntimeError as error:
                if not is_out_of_memory(error) or progress.parts >= len(batch) or self.processes.count > 1:
                    raise
                progress.parts = min(len(batch), 2 * progress.parts)
                log.warning("out of memory: a step is computed in %d parts from now on", progress.parts)
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
        if math.isfinite(loss):
            self.scaler.unscale_(self.optimizer)
            if self.settings.clip:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.ema:
                self.ema.update(self.model, step=progress.epoch * self.steps + progress.step)
        return loss

    def backward(self, batch: np.ndarray) -> float:
        """Backward through this process's parts of the batch; the loss of all of it."""
        settings, progress, how = self.settings, self.progress, self.images.preprocessing
        totals = self.loss.totals(batch)
        parts = np.array_split(np.arange(len(batch)), progress.parts)
        mine = range(self.processes.rank, len(parts), self.processes.count)
        sum_of_losses = torch.zeros((), device=self.device)
        for number in mine:
            part = parts[number]
            seed_part(settings.seed, progress.epoch, progress.step, number)
            targets = self.loss.encode(batch[part])
            pixels, targets = augment(self.images.read(batch[part]), targets, settings, how, self.device)
            with contextlib.nullcontext() if number == mine[-1] else self.no_sync():  # gradients travel after the last
                with self._autocast():
                    logits = self.network(pixels)
                loss = self.loss(logits, targets, totals)
                self.scaler.scale(loss * self.processes.count).backward()
            sum_of_losses += loss.detach()
        return float(self.processes.summed(sum_of_losses))

    def _autocast(self) -> torch.autocast:
        """The arithmetic of the forward pass; weights are not kept from one to the next, as in a caller's autocast."""
        precision = self.progress.precision
        return torch.autocast(self.device.type, dtype=PRECISIONS[precision], enabled=precision != "fp32",
                              cache_enabled=False)

    def _end_epoch(self, began: float) -> None:
        """Validate, and copy what training changes to the CPU if it is the best so far."""
        progress, network = self.progress, self.ema.module if self.ema else self.model
        val_loss, scores = self._validate(network)
        progress.seconds = time.monotonic() - began
        epoch = Epoch(progress.epoch, float(np.mean(progress.losses)),
                      learning_rate(self.settings, progress.epoch + 1, progress.scores), val_loss, scores,
                      progress.seconds)
        if epoch.score > max(progress.scores, default=-math.inf):
            progress.best_epoch = progress.epoch
            frozen = {name for name, parameter in self.model.named_parameters() if not parameter.requires_grad}
            progress.best = {name: value.detach().to("cpu", copy=True) for name, value in network.state_dict().items()
                             if name not in frozen}
        progress.history.append(epoch)
        progress.epoch, progress.step, progress.losses = progress.epoch + 1, 0, []

    @torch.inference_mode()
    def _validate(self, network: nn.Module) -> tuple[float, dict[str, dict[str, float]]]:
        """Loss (not smoothed, not weighted) and scores of the validation samples."""
        network.eval()
        rows, size, blocks = self.splits.val, self.settings.batch_size, []
        for start in range(0, len(rows), size):
            images = self.images.read(rows[start:start + size]).to(self.device)
            pixels = self.images.preprocessing.normalize(images.permute(0, 3, 1, 2).float())
            with self._autocast():
                blocks.append(network(pixels.contiguous(memory_format=torch.channels_last)).float().cpu())
        losses, scores = [], {}
        logits = torch.cat(blocks).split(self.loss.widths, 1)
        for target, block in zip(self.loss.targets, logits, strict=True):
            loss, scores[target.name] = target.score(rows, block)
            losses.append(loss)
        return float(np.mean(losses)), scores
