"""The one training loop: all members (seeds) of a head at once, data on the device, nothing done sample by sample."""

import contextlib
import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from twofold.fuse.core.settings import HEAD_TYPES, Settings
from twofold.fuse.training.data import Batch, Samples, block_samples, drop_streams, mix_compounds, mixup, pools
from twofold.fuse.training.ensemble import Body, MemberRandom, Spec
from twofold.fuse.training.optimiser import AdamW, BestWeights, Plateau


def contrastive_loss(z: torch.Tensor, positive: torch.Tensor, temperature: float) -> torch.Tensor:
    """Supervised contrastive loss (Khosla et al., arXiv 2004.11362, equation 2), mean over anchors with a positive.

    z: (M, V, P) of unit length; positive: (M, V, V) bool, which vectors belong together (the diagonal is ignored).
    """
    if z.shape[1] == 1:  # nothing to compare with
        return 0 * z.sum(dim=(1, 2))
    itself = torch.eye(z.shape[1], dtype=torch.bool, device=z.device)
    positive = (positive & ~itself).float()
    similarity = (z @ z.transpose(1, 2)).float() / temperature
    log_softmax = similarity - similarity.masked_fill(itself, float("-inf")).logsumexp(dim=-1, keepdim=True)
    count = positive.sum(dim=-1)
    each = -(positive * log_softmax).sum(dim=-1) / count.clamp_min(1)
    anchors = (count > 0).float()
    return (each * anchors).sum(dim=-1) / anchors.sum(dim=-1).clamp_min(1)


def positive_pairs(label: torch.Tensor, views: int) -> torch.Tensor:
    """(M, V B, V B) True where two of V versions of B samples, version after version, show one class or one sample."""
    times = views // label.shape[1]
    label = label.repeat(1, times)
    sample = torch.arange(views // times, device=label.device).repeat(times)
    return ((label[:, :, None] == label[:, None]) & (label[:, :, None] >= 0)) | (sample[:, None] == sample)


#: Largest tensor on a CPU. glibc maps what is larger than 32 MiB afresh each time: with eight members of 2816 x 512,
#: the page faults of each step's gradient took a fifth of the time. Below it, more members at once are no faster.
TENSOR = 28 << 20


@dataclass(frozen=True)
class Epoch:
    """One line of history.csv."""

    member: int
    epoch: int
    loss: float
    val: dict[str, float]  #: figures on validation by key, the score first
    lr: float

    @property
    def score(self) -> float:
        return next(iter(self.val.values()))

    def record(self) -> dict[str, float]:
        return {"member": self.member, "epoch": self.epoch, "loss": self.loss,
                **{f"val_{key}": value for key, value in self.val.items()}, "lr": self.lr}


def train(
    head: Body, data: Samples, val: Samples, *, spec: Spec, settings: Settings, seeds: Sequence[int],
    precision: str = "fp32", together: int = 0,
) -> list[Epoch]:
    """Train the members of `head` in place, each from its seed; leave each at its best epoch by the task's score on
    validation.

    together: how many members share a batched product at most; 0 = the fastest. Returns the history, ordered by
    epoch, then member. A member's numbers do not depend on the others, up to the rounding of the product.
    """
    size = together or _members_at_once(head, data, settings)
    history: list[Epoch] = []
    with flushed_denormals():
        for members in np.array_split(np.arange(len(seeds)), -(-len(seeds) // size)):
            first, end = int(members[0]), int(members[-1]) + 1
            part = copy.deepcopy(head)
            for shared, p in zip(part.parameters(), head.parameters(), strict=True):
                shared.data = p.data[first:end]  # training the part trains the head
            lines = _train(part, data, val, spec, settings, seeds[first:end], precision)
            history += [replace(line, member=line.member + first) for line in lines]
    return sorted(history, key=lambda line: (line.epoch, line.member))


@contextlib.contextmanager
def flushed_denormals() -> Iterator[None]:
    """Flush denormals to zero within, where the processor can: Adam's decaying moments become denormal, which cost
    about a hundred cycles each. Other code of this process keeps its numbers."""
    before = bool(torch.tensor(1e-40) * 1 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def lower_precision(device: torch.device, precision: str) -> torch.autocast:
    """The arithmetic of the forward pass. Without autocast's cache of weights, which is emptied where the outermost
    autocast ends: within a caller's (`torch_defaults` has one) each step would see the weights of the first."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)


def _members_at_once(head: Body, data: Samples, settings: Settings) -> int:
    """How many members to train at once: all on an accelerator, or where features are read from disk for all.

    On a CPU as many as keep every tensor of a step below TENSOR bytes: `bench fuse` has the reason. One where the rate
    follows its own validation.
    """
    if settings.schedule == "plateau":
        return 1
    if data.device.type != "cpu" or data.x is None:
        return len(next(head.parameters()))
    widest = max(p[0].numel() for p in head.parameters())
    # a batch counts twice: of long rows, heads keep several tensors of its size, which are mapped afresh together
    return max(1, TENSOR // (4 * max(widest, 2 * settings.batch_size * data.x.shape[1])))


def _train(head: Body, data: Samples, val: Samples, spec: Spec, settings: Settings, seeds: Sequence[int],
           precision: str) -> list[Epoch]:
    """The loop: all members of `head` at once."""
    random = MemberRandom(seeds, data.device)
    shuffle = np.random.default_rng((0, 2))  # of blocks, for all members: a seed's numbers are its own
    parameters = list(head.parameters())
    optimiser = AdamW(parameters, weight_decay=settings.weight_decay)
    average = [p.detach().clone() for p in parameters] if settings.ema else []
    best, plateau, history = BestWeights(parameters, len(seeds)), Plateau(), []
    task = data.task
    labels, class_weight, rates = _labels(data, settings, spec)
    with_basic = HEAD_TYPES[spec.kind].needs_basic
    samples = len(data) if with_basic else int((data.label >= 0).sum())  # that an epoch draws
    step, rate = 0, 0.0
    for epoch in range(settings.epochs):
        losses, total = torch.zeros(len(seeds), device=data.device), 0
        for positions, x in data.blocks(shuffle):
            order = _order(data.label[positions], settings, random, with_basic=with_basic)
            basics = pools(data.basic_label[positions], spec.parts, data.device) if settings.compound_mixup else None
            place = torch.from_numpy(positions).to(data.device)
            room = x.new_empty(len(seeds) * min(settings.batch_size, order.shape[1]), x.shape[1])  # for every batch
            for start in range(0, order.shape[1], settings.batch_size):
                here = order[:, start:start + settings.batch_size]
                rate = settings.lr * plateau.factor * rate_factor(epoch + min(total / samples, 1), settings)
                rows = torch.index_select(x, 0, here.reshape(-1), out=room[:here.numel()])
                batch = Batch(rows.view(*here.shape, -1), *(values[place[here]] for values in labels))
                if basics:
                    batch = mix_compounds(batch, x, basics, settings.compound_mixup, class_weight, random)
                if settings.mixup:
                    batch = mixup(batch, settings.mixup, random, classes=task.classes)
                if settings.stream_dropout and len(spec.dims) > 1:
                    batch = drop_streams(batch, spec.dims, settings.stream_dropout, random, frames=spec.frames)
                with lower_precision(data.device, precision):
                    output = head(batch.x, random)
                    loss = task.loss(output.logits, batch.target, batch.weight, rates, settings)
                    loss = head.add_losses(loss, output, batch, settings)
                loss.sum().backward()
                optimiser.step(rate)
                step, total = step + 1, total + here.shape[1]
                losses += loss.detach() * here.shape[1]
                for mean, p in zip(average, parameters, strict=False):
                    mean.lerp_(p.detach(), 1 - min(settings.ema, (1 + step) / (10 + step)))
        _exchange(parameters, average)
        figures = _validate(head, val, precision)
        ranks = [task.score.rank(next(iter(each.values()))) for each in figures]
        best.update(parameters, ranks, settings.patience)
        _exchange(parameters, average)
        if settings.schedule == "plateau":
            plateau = plateau.after(ranks[0])
        history += [Epoch(member, epoch, loss, val, rate)
                    for member, (loss, val) in enumerate(zip((losses / total).tolist(), figures, strict=True))]
        if best.done.all():
            break
    with torch.no_grad():
        for kept, p in zip(best.weights, parameters, strict=True):
            p.copy_(kept)
    return history


def _exchange(parameters: Sequence[torch.Tensor], average: Sequence[torch.Tensor]) -> None:
    """Parameters and their average, if there is one, take each other's values."""
    for p, other in zip(parameters, average, strict=False):
        p.data, other.data = other.data, p.data


def rate_factor(progress: float, settings: Settings) -> float:
    """Share of the learning rate after `progress` epochs: linear warm-up, then constant or half a cosine to zero."""
    if progress < settings.warmup:
        return max(progress / settings.warmup, 1e-3)
    if settings.schedule != "cosine":
        return 1.0
    share = (progress - settings.warmup) / max(settings.epochs - settings.warmup, 1e-9)
    return 0.5 * (1 + math.cos(math.pi * min(share, 1)))


def training_distribution(data: Samples, settings: Settings, spec: Spec) -> np.ndarray:
    """(C,) the share of each class among what training sees: after balanced sampling and compound mixup; after the
    classes, the share of the samples that each further label has.

    Corrections for rare classes start from it, so that they do not correct twice.
    """
    classes = data.target[:, :data.task.classes]
    count = np.maximum(classes.sum(axis=0, dtype=np.float64), 1)
    share = count ** (1 - settings.balanced_sampling)
    share = share / share.sum()
    basics = pools(data.basic_label, spec.parts, data.device) if settings.compound_mixup else None
    if basics:
        mixed_share = np.bincount(basics.classes.cpu().numpy(), minlength=len(share)) / len(basics.classes)
        share = (1 - settings.compound_mixup) * share + settings.compound_mixup * mixed_share
    return np.concatenate([share, np.nanmean(data.target[:, data.task.classes:], axis=0, dtype=np.float64)])


def _labels(data: Samples, settings: Settings, spec: Spec) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Target, weight, basic and label of all samples, as `Batch` has them; class weights and rates (C,)."""
    rates, classes = training_distribution(data, settings, spec), data.task.classes
    weight = (1 / max(classes, 1) / rates[:classes]) ** settings.class_weights
    weights = data.target[:, :classes] @ weight if classes else np.ones(len(data))
    arrays = (data.target, weights.astype(np.float32), data.basic, data.label, weight.astype(np.float32),
              rates.astype(np.float32))
    *labels, class_weight, class_rates = (torch.from_numpy(values).to(data.device) for values in arrays)
    return labels, class_weight, class_rates


def _order(label: np.ndarray, settings: Settings, random: MemberRandom, *, with_basic: bool) -> torch.Tensor:
    """(M, n) places among the labels of a block, shuffled; with balanced sampling drawn anew. with_basic: samples
    without a class, too."""
    drawn = np.arange(len(label)) if with_basic else np.flatnonzero(label >= 0)
    count = np.bincount(label[label >= 0], minlength=1)
    if settings.balanced_sampling and np.count_nonzero(count) > 1:
        count = np.maximum(count, 1)
        weight = np.where(label >= 0, (1 / count[np.maximum(label, 0)]) ** settings.balanced_sampling, 0)
        weight[label < 0] = weight[label >= 0].mean()
        picked = random.sample(weight[drawn], len(drawn))
    else:
        picked = random.order(len(drawn))
    return torch.from_numpy(drawn).to(picked.device)[picked]


@torch.inference_mode()
def _validate(head: nn.Module, val: Samples, precision: str) -> list[dict[str, float]]:
    """The task's figures of each member; the first is the score by which the best epoch is chosen."""
    members = len(next(head.parameters()))
    logits = torch.zeros(members, len(val), len(val.task.outputs))  # for all, as in `run_head`
    for positions, x in val.blocks():
        step = block_samples(members * x.shape[1])
        with lower_precision(val.device, precision):
            for rows, part in zip(torch.from_numpy(positions).split(step), x.split(step), strict=True):
                logits[:, rows] = head(part).logits.float().cpu()
    return [val.task.epoch_figures(each, val.target, val.label) for each in logits]
