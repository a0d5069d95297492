"""The training loop: epochs of steps, a look at validation after each, a state on disk now and then."""

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from twofold.cache.format.taught import TaughtFaces
from twofold.extract.devices import is_out_of_memory
from twofold.extract.engine.progress import progress_bar
from twofold.extract.engine.stop import Stop
from twofold.extract.finetune.augment import own_random_numbers, rand_augmented, seed_part
from twofold.extract.finetune.history import Epoch
from twofold.extract.finetune.learner import Learner, training_mode
from twofold.extract.finetune.optimizer import build_optimizer, clip_gradients, set_rate
from twofold.extract.finetune.pixels import Pictures
from twofold.extract.finetune.processes import Processes
from twofold.extract.finetune.schedule import rate
from twofold.extract.finetune.scores import Score, score
from twofold.extract.finetune.settings import Settings
from twofold.extract.finetune.sides import Sides
from twofold.extract.finetune.state import Progress, load_state, save_state, weights_of
from twofold.extract.finetune.step import Targets, autocast, loss_of, normalised, prepared

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Training:
    """All that a training is made of. name: of its content, so that it goes on from its own state only."""

    name: str
    learner: Learner
    pictures: Pictures
    sides: Sides
    taught: TaughtFaces  #: whom the encoder will know
    odds: np.ndarray | None  #: (train,) how often each training face is drawn; None: each once an epoch
    targets: Targets
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
        return max(1, len(self.sides.train) // self.settings.batch_size)


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


def run(training: Training, *, progress: bool = True) -> Outcome:
    """Train to the last epoch, or until a signal, from the state on disk if there is one."""
    with own_random_numbers(), Stop() as stop:
        loop = _Loop(training)
        return loop.run(stop, progress)


class _Loop:
    def __init__(self, training: Training) -> None:
        self.training, self.settings = training, training.settings
        self.learner = training.learner.to(training.device)
        self.learner.to(memory_format=torch.channels_last)  # pyright: ignore (torch's stubs lack it)
        self.optimizer = build_optimizer(self.learner, self.settings)
        self.ema = _average(self.learner, self.settings)
        self.scaler = torch.amp.GradScaler(training.device.type, enabled=training.precision == "fp16")
        earlier = load_state(training.state, training.name, self._parts(), device=training.device,
                             overwrite=training.overwrite)
        self.progress = earlier or Progress(parts=self.settings.accumulate * training.processes.count)
        if earlier:
            log.info("going on after %d epochs and %d steps", earlier.epoch, earlier.step)
        self.network = training.processes.wrapped(self.learner)

    def _parts(self) -> dict[str, Any]:
        parts = {"network": self.learner, "optimizer": self.optimizer, "scaler": self.scaler}
        return parts | ({"ema": self.ema.module} if self.ema else {})

    def run(self, stop: Stop, shown: bool) -> Outcome:
        training, settings, progress = self.training, self.settings, self.progress
        began, saved = time.monotonic() - progress.seconds, time.monotonic()
        with progress_bar(settings.epochs * training.steps, initial=progress.epoch * training.steps + progress.step,
                          doing="finetune", unit="step", shown=shown and training.processes.first) as bar:
            while progress.epoch < settings.epochs:
                order = self._order(progress.epoch)
                training_mode(self.learner, settings)
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

    def _order(self, epoch: int) -> np.ndarray:
        """(train,) rows in the order of an epoch, the same in every process."""
        rows, draw = self.training.sides.train, np.random.default_rng([self.settings.seed, epoch])
        if self.training.odds is None:
            return draw.permutation(rows)
        return draw.choice(rows, len(rows), p=self.training.odds)

    def _step(self, order: np.ndarray) -> float:
        """One step of the optimiser; its loss. Once memory runs out, the parts of a step become more and smaller."""
        settings, progress = self.settings, self.progress
        start = progress.step * settings.batch_size
        batch = order[start:start + settings.batch_size]
        moment = progress.epoch + progress.step / self.training.steps
        set_rate(self.optimizer, rate(settings, moment, [epoch.score for epoch in progress.history]))
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                loss = self._gradients(batch)
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
            clip_gradients(self.learner, settings.clip)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.ema:
                self.ema.update(self.learner, step=progress.epoch * self.training.steps + progress.step)
        return loss

    def _gradients(self, batch: np.ndarray) -> float:
        """Backward through this process's parts of the batch; the loss of all of it."""
        training, settings, progress = self.training, self.settings, self.progress
        labels = list(training.sides.labels.values())
        totals = training.targets.totals([label[batch] for label in labels])
        parts = np.array_split(batch, progress.parts)
        mine = range(training.processes.rank, len(parts), training.processes.count)
        sum_of_losses = torch.zeros((), device=training.device)
        for number in mine:
            rows = parts[number]
            seed_part(settings.seed, progress.epoch, progress.step, number)
            pictures = rand_augmented(training.pictures.read(rows), settings, training.pictures.preprocessing.mean)
            targets = training.targets.of([label[rows] for label in labels])
            pixels, targets = prepared(pictures, targets, settings, training.pictures.preprocessing, training.device)
            with training.processes.last_part(self.network, number == mine[-1]):
                with autocast(training.device, training.precision):
                    logits = self.network(pixels)
                loss = loss_of(logits, targets, training.targets, totals)
                self.scaler.scale(loss * training.processes.count).backward()
            sum_of_losses += loss.detach()
        return float(training.processes.summed(sum_of_losses))

    def _end_epoch(self, began: float) -> None:
        training, progress = self.training, self.progress
        network = self.ema.module if self.ema else self.learner
        val_loss, scores = validate(network, training)
        last = rate(self.settings, progress.epoch + 1, [epoch.score for epoch in progress.history])
        progress.seconds = time.monotonic() - began
        progress.history.append(Epoch(progress.epoch, float(np.mean(progress.losses)), last, val_loss, scores,
                                      progress.seconds))
        if progress.history[-1].score > progress.best_score:
            progress.best_epoch, progress.best = progress.epoch, weights_of(network)
        progress.epoch, progress.step, progress.losses = progress.epoch + 1, 0, []

    def _save(self) -> None:
        if self.training.processes.first:
            save_state(self.training.state, self.progress, self.training.name, self._parts())


def _average(learner: Learner, settings: Settings) -> Any:
    """The moving average of the weights, if asked for: timm's."""
    if not settings.ema:
        return None
    from timm.utils.model_ema import ModelEmaV3

    return ModelEmaV3(learner, decay=settings.ema, use_warmup=True)


@torch.inference_mode()
def validate(network: nn.Module, training: Training) -> tuple[float, dict[str, Score]]:
    """Loss (not smoothed, not weighted) and scores of the validation faces."""
    network.eval()
    sides, how, rows = training.sides, training.pictures.preprocessing, training.sides.val
    blocks = []
    for start in range(0, len(rows), training.settings.batch_size):
        pictures = training.pictures.read(rows[start:start + training.settings.batch_size]).to(training.device)
        pixels = normalised(pictures.permute(0, 3, 1, 2).float(), how).contiguous(memory_format=torch.channels_last)
        with autocast(training.device, training.precision):
            blocks.append(network(pixels).float().cpu())
    logits, losses, scores = torch.cat(blocks).split(training.targets.widths, 1), [], {}
    for (target, labels), block in zip(sides.labels.items(), logits, strict=True):
        truth = labels[rows]
        block, truth = block[torch.from_numpy(truth >= 0)], truth[truth >= 0]
        losses.append(float(nn.functional.cross_entropy(block, torch.from_numpy(truth))))
        scores[target] = score(truth, block.argmax(1).numpy(), block.shape[1])
    return float(np.mean(losses)), scores
