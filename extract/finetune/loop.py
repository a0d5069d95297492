"""The training loop: epochs of steps, validation after each, a state on disk now and then; one process or several."""

import contextlib
import ctypes
import logging
import math
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import distributed, nn

from twofold.extract.encoders.devices import PRECISIONS, is_out_of_memory
from twofold.extract.engine.progress import Stop, progress_bar
from twofold.extract.finetune.augmentation import augment, normalize, own_random_state, rand_augment, seed_part
from twofold.extract.finetune.data import Images, Splits
from twofold.extract.finetune.model import Classifier, set_training_mode
from twofold.extract.finetune.optimization import Loss, build_optimizer, learning_rate, set_learning_rate
from twofold.extract.finetune.progress import Epoch, Progress, Score, load_state, save_state
from twofold.extract.finetune.settings import Settings

log = logging.getLogger(__name__)
MMAP_MAX, TRIM_THRESHOLD, TOP_PAD = -4, -1, -2  #: parameters of mallopt(3)


def keep_freed_memory() -> bool:
    """Let the C library keep freed blocks for the next allocation; True if it does so from now on.

    glibc takes large tensors (of more than 32 MB, at first of more than 128 kB) from the kernel and gives them back, so
    that a step touches fresh pages all the time: 13 % of its CPU time. Elsewhere nothing changes.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(MMAP_MAX, 0), mallopt(TRIM_THRESHOLD, 2**31 - 1), mallopt(TOP_PAD, 64 * 2**20)])


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

    @contextlib.contextmanager
    def last_part(self, network: nn.Module, last: bool) -> Iterator[None]:
        """Around forward and backward of a part: gradients travel after the last one only."""
        if self.count == 1 or last:
            yield
        else:
            with cast(nn.parallel.DistributedDataParallel, network).no_sync():
                yield

    def summed(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over all processes."""
        if self.count > 1:
            distributed.all_reduce(value)
        return value

    def agreed(self, signal: int) -> int:
        """The largest of the processes' signals, so that all stop after the same step."""
        if self.count == 1:
            return signal
        value = torch.tensor(signal)
        if distributed.get_backend() == "nccl":
            value = value.cuda()
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


@dataclass(frozen=True, eq=False)
class Training:
    """All that a training is made of. name: of its content, so that only its own state is taken up again."""

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
    overwrite: bool = False  #: a state of another training at the same place

    @property
    def steps(self) -> int:
        """Steps an epoch; an incomplete last batch is left out."""
        return max(1, len(self.splits.train) // self.settings.batch_size)


@dataclass(frozen=True)
class Outcome:
    """stopped_by: the signal that ended it early, or 0; diverged: the epoch in which the loss was no number, or -1."""

    progress: Progress
    stopped_by: int = 0
    diverged: int = -1

    @property
    def has_weights(self) -> bool:
        """Whether there are weights to keep: it came to an end, with a good epoch at least."""
        return bool(self.progress.best) and not self.stopped_by


def train(training: Training, *, progress: bool = True) -> Outcome:
    """Train to the last epoch, or until a signal, from the state on disk if there is one."""
    with own_random_state(), Stop() as stop:
        return TrainingLoop(training).run(stop, progress)


class TrainingLoop:
    """A training in progress."""

    def __init__(self, training: Training) -> None:
        self.training, self.settings = training, training.settings
        self.model = training.model.to(training.device)
        self.model.to(memory_format=torch.channels_last)  # pyright: ignore (torch's stubs lack it)
        self.optimizer = build_optimizer(self.model, self.settings)
        self.ema = self._moving_average()
        self.scaler = torch.amp.GradScaler(training.device.type, enabled=training.precision == "fp16")
        earlier = load_state(training.state, training.name, self._parts(), device=training.device,
                             overwrite=training.overwrite)
        self.progress = earlier or Progress(parts=self.settings.accumulate * training.processes.count)
        if earlier:
            log.info("going on after %d epochs and %d steps", earlier.epoch, earlier.step)
        self.network = training.processes.wrapped(self.model)

    def _moving_average(self) -> Any:
        """timm's moving average of the weights, if asked for."""
        if not self.settings.ema:
            return None
        from timm.utils.model_ema import ModelEmaV3

        return ModelEmaV3(self.model, decay=self.settings.ema, use_warmup=True)

    def _parts(self) -> dict[str, Any]:
        parts = {"network": self.model, "optimizer": self.optimizer, "scaler": self.scaler}
        return parts | ({"ema": self.ema.module} if self.ema else {})

    def run(self, stop: Stop, shown: bool) -> Outcome:
        training, settings, progress = self.training, self.settings, self.progress
        began, saved = time.monotonic() - progress.seconds, time.monotonic()
        with progress_bar(settings.epochs * training.steps, initial=progress.epoch * training.steps + progress.step,
                          doing="finetune", unit="step", shown=shown and training.processes.first) as bar:
            while progress.epoch < settings.epochs:
                order = self.order(progress.epoch)
                set_training_mode(self.model, settings)
                while progress.step < training.steps:
                    loss = self._step(order)
                    if not math.isfinite(loss):
                        return Outcome(progress, diverged=progress.epoch)
                    progress.losses.append(loss)
                    progress.step += 1
                    bar.update()
                    signal = training.processes.agreed(stop.signal)
                    progress.seconds = time.monotonic() - began
                    if signal or time.monotonic() - saved > 60 * training.minutes:
                        self._save()
                        saved = time.monotonic()
                    if signal:
                        return Outcome(progress, stopped_by=signal)
                self._end_epoch(began)
                bar.set_postfix_str(f"val macro-F1 {progress.history[-1].score:.3f}, best {progress.best_score:.3f}")
        return Outcome(progress)

    def order(self, epoch: int) -> np.ndarray:
        """(train,) rows in the order of an epoch, the same in every process."""
        rows, draw = self.training.splits.train, np.random.default_rng([self.settings.seed, epoch])
        if self.training.sampling_weights is None:
            return draw.permutation(rows)
        return draw.choice(rows, len(rows), p=self.training.sampling_weights)

    def _step(self, order: np.ndarray) -> float:
        """One step of the optimiser; its loss. Once memory runs out, the parts of a step become more and smaller."""
        settings, progress = self.settings, self.progress
        start = progress.step * settings.batch_size
        batch = order[start:start + settings.batch_size]
        moment = progress.epoch + progress.step / self.training.steps
        set_learning_rate(self.optimizer, self._learning_rate(moment))
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                loss = self.backward(batch)
                break
            except RuntimeError as error:
                if not is_out_of_memory(error) or progress.parts >= len(batch) or self.training.processes.count > 1:
                    raise
                progress.parts = min(len(batch), 2 * progress.parts)
                log.warning("out of memory: a step is computed in %d parts from now on", progress.parts)
                if self.training.device.type == "cuda":
                    torch.cuda.empty_cache()
        if math.isfinite(loss):
            self.scaler.unscale_(self.optimizer)
            if settings.clip:
                nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.ema:
                self.ema.update(self.model, step=progress.epoch * self.training.steps + progress.step)
        return loss

    def backward(self, batch: np.ndarray) -> float:
        """Backward through this process's parts of the batch; the loss of all of it."""
        training, settings, progress = self.training, self.settings, self.progress
        labels = [label[batch] for label in training.splits.labels.values()]
        totals = training.loss.totals(labels)
        parts = np.array_split(np.arange(len(batch)), progress.parts)
        mine = range(training.processes.rank, len(parts), training.processes.count)
        sum_of_losses = torch.zeros((), device=training.device)
        how = training.images.preprocessing
        for number in mine:
            part = parts[number]
            seed_part(settings.seed, progress.epoch, progress.step, number)
            images = rand_augment(training.images.read(batch[part]), settings, how.mean)
            targets = training.loss.encode([label[part] for label in labels])
            pixels, targets = augment(images, targets, settings, how, training.device)
            with training.processes.last_part(self.network, number == mine[-1]):
                with autocast(training):
                    logits = self.network(pixels)
                loss = training.loss(logits, targets, totals)
                self.scaler.scale(loss * training.processes.count).backward()
            sum_of_losses += loss.detach()
        return float(training.processes.summed(sum_of_losses))

    def _learning_rate(self, epoch: float) -> float:
        return learning_rate(self.settings, epoch, [each.score for each in self.progress.history])

    def _end_epoch(self, began: float) -> None:
        progress, network = self.progress, self.ema.module if self.ema else self.model
        val_loss, scores = validate(network, self.training)
        progress.seconds = time.monotonic() - began
        progress.end_epoch(Epoch(progress.epoch, float(np.mean(progress.losses)),
                                 self._learning_rate(progress.epoch + 1), val_loss, scores, progress.seconds), network)

    def _save(self) -> None:
        if self.training.processes.first:
            save_state(self.training.state, self.progress, self.training.name, self._parts())


def autocast(training: Training) -> torch.autocast:
    """The arithmetic of the forward pass."""
    return torch.autocast(training.device.type, dtype=PRECISIONS[training.precision],
                          enabled=training.precision != "fp32")


@torch.inference_mode()
def validate(network: nn.Module, training: Training) -> tuple[float, dict[str, Score]]:
    """Loss (not smoothed, not weighted) and scores of the validation samples."""
    network.eval()
    splits, how, rows = training.splits, training.images.preprocessing, training.splits.val
    blocks = []
    for start in range(0, len(rows), training.settings.batch_size):
        images = training.images.read(rows[start:start + training.settings.batch_size]).to(training.device)
        pixels = normalize(images.permute(0, 3, 1, 2).float(), how).contiguous(memory_format=torch.channels_last)
        with autocast(training):
            blocks.append(network(pixels).float().cpu())
    logits, losses, scores = torch.cat(blocks).split(training.loss.widths, 1), [], {}
    for (target, labels), block in zip(splits.labels.items(), logits, strict=True):
        truth = labels[rows]
        block, truth = block[torch.from_numpy(truth >= 0)], truth[truth >= 0]
        losses.append(float(nn.functional.cross_entropy(block, torch.from_numpy(truth))))
        scores[target] = Score.of(truth, block.argmax(1).numpy(), block.shape[1])
    return float(np.mean(losses)), scores
