"""Training a head: one plain loop over data that lives on the device, all seeds side by side."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fuse.heads import Parameters, Shape, initial, logits
from fuse.metrics import confusion, macro_f1


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a head is trained; the defaults are the paper's (section 5.2): Adam, 5e-5, batch 128, 100 epochs, warm-up."""

    epochs: int = 100
    lr: float = 5e-5
    batch_size: int = 128
    warmup: int = 5  #: epochs over which the learning rate rises from zero
    weight_decay: float = 0.0
    hidden: int = 512
    dropout: float = 0.0


@dataclass(frozen=True)
class Trained:
    """Parameters of each seed's best epoch (by validation macro-F1), those epochs, and the course of it all."""

    parameters: Parameters
    best_epoch: np.ndarray  #: (S,), counted from 1
    history: list[dict]  #: a row for each epoch and seed: epoch, seed, loss, val_macro_f1


def train(x: Tensor, y: Tensor, x_val: Tensor, y_val: Tensor, *, classes: int, seeds: list[int],
          training: Training) -> Trained:
    """Train one head for each seed on (N, D) features and (N,) class positions; test data has no part in it."""
    torch.set_flush_denormal(True)  # Adam's second moments go denormal, several times slower on CPUs
    shape = Shape(inputs=x.shape[1], classes=classes, hidden=training.hidden, dropout=training.dropout)
    parameters = {name: value.to(x.device).requires_grad_() for name, value in initial(shape, seeds).items()}
    optimiser = torch.optim.Adam(parameters.values(), lr=training.lr, weight_decay=training.weight_decay, fused=True)
    steps = -(-len(x) // training.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, (step + 1) / max(1, training.warmup * steps)))
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    best = {name: value.detach().clone() for name, value in parameters.items()}
    best_score, best_epoch, history = np.full(len(seeds), -1.0), np.zeros(len(seeds), int), []
    for epoch in range(1, training.epochs + 1):
        order = torch.stack([torch.randperm(len(x), generator=generator) for generator in generators]).to(x.device)
        losses = torch.zeros(len(seeds), device=x.device)
        for batch in order.split(training.batch_size, dim=1):
            out = logits(parameters, x[batch], dropout=training.dropout)
            loss = torch.nn.functional.cross_entropy(out.flatten(0, 1), y[batch].flatten(), reduction="none")
            loss = loss.view(len(seeds), -1).mean(dim=1)
            optimiser.zero_grad(set_to_none=True)
            loss.sum().backward()  # the seeds share nothing, so the sum's gradient is each one's own
            optimiser.step()
            schedule.step()
            losses += loss.detach() * batch.shape[1] / len(x)
        scores = _scores(parameters, x_val, y_val, classes)
        better = scores > best_score
        best_score, best_epoch = np.where(better, scores, best_score), np.where(better, epoch, best_epoch)
        for place in np.flatnonzero(better):
            for name, value in parameters.items():
                best[name][place] = value.detach()[place]
        history += [{"epoch": epoch, "seed": seed, "loss": loss, "val_macro_f1": float(score)}
                    for seed, loss, score in zip(seeds, losses.tolist(), scores, strict=True)]
    return Trained(best, best_epoch, history)


@torch.inference_mode()
def probabilities(parameters: Parameters, x: Tensor) -> Tensor:
    """(S, N, C) class probabilities of each seed for (N, D) features."""
    seeds = next(iter(parameters.values())).shape[0]
    return logits(parameters, x.expand(seeds, *x.shape)).softmax(dim=-1)


def _scores(parameters: Parameters, x: Tensor, y: Tensor, classes: int) -> np.ndarray:
    predictions = probabilities(parameters, x).argmax(dim=-1).cpu().numpy()
    truth = y.cpu().numpy()
    return np.array([macro_f1(confusion(truth, prediction, classes)) for prediction in predictions])
