"""A head with the standardisation of its features: trained, run on samples, stacked with others."""

import importlib
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from twofold.cache.classifier import BackboneClassifier
from twofold.cache.recipe import differences
from twofold.data.utils.errors import InputError
from twofold.fuse.core.features import Features
from twofold.fuse.core.settings import HEAD_TYPES, Settings
from twofold.fuse.core.split import Split
from twofold.fuse.core.task import Calibration, Task
from twofold.fuse.training.data import Samples, fit_scaler
from twofold.fuse.training.ensemble import Body, Output, Spec, torch_defaults
from twofold.fuse.training.loop import Epoch
from twofold.fuse.training.optimiser import parse_device

BLOCK = 2048  #: members x samples of one pass, at most
BLOCK_NUMBERS = 1 << 25  #: members x samples x columns of one pass, at most


def build(spec: Spec) -> Body:
    """The network of a head, its weights zero; its module is imported here."""
    kind = HEAD_TYPES[spec.kind]
    module, _, name = (kind.pretrained_body if spec.own or not kind.body else kind.body).partition(":")
    return getattr(importlib.import_module(f"twofold.fuse.heads.{module}"), name)(spec)


class StandardisedHead(nn.Module):
    """A head with the standardisation of its features: raw (B, D), of clips (B, T D), to the head's output, members
    first."""

    mean: torch.Tensor
    std: torch.Tensor
    body: Any  #: a Body; how it is trained depends on the head

    def __init__(self, spec: Spec):
        super().__init__()
        self.spec = spec
        with torch_defaults():
            self.register_buffer("mean", torch.zeros(spec.members, 1, sum(spec.dims)))
            self.register_buffer("std", torch.ones(spec.members, 1, sum(spec.dims)))
            self.body = build(spec.averaged)

    def forward(self, x: torch.Tensor) -> Output:
        if self.spec.frames:
            times = x.shape[-1] // self.mean.shape[-1]
            return self.body((x - self.mean.repeat(1, 1, times)) / self.std.repeat(1, 1, times))
        return self.body(mean_of_views((x - self.mean) / self.std, self.spec.views))


def mean_of_views(x: Any, views: int) -> Any:
    """(..., D) features of that many views side by side, array or tensor, to their mean (..., D / views)."""
    return x if views == 1 else x.reshape(*x.shape[:-1], views, x.shape[-1] // views).mean(-2)


def stack_heads(heads: Sequence[StandardisedHead]) -> StandardisedHead:
    """One head with the members of all; they must have the same spec but for their number."""
    members = sum(head.spec.members for head in heads)
    stacked = StandardisedHead(replace(heads[0].spec, members=members))
    states = [head.state_dict() for head in heads]
    stacked.load_state_dict({name: torch.cat([state[name] for state in states]) for name in states[0]})
    return stacked


def without_streams(head: StandardisedHead, absent: Collection[int]) -> StandardisedHead:
    """The same head, weights shared, with these streams at their mean: an infinite deviation makes it of any value."""
    with torch.device("meta"):
        part = StandardisedHead(head.spec)
    part.body, part.mean, part.std = head.body, head.mean, head.std.clone()
    for k, columns in enumerate(part.std.split(list(head.spec.dims), dim=-1)):
        if k in absent:
            columns.fill_(torch.inf)
    return part.eval()


@dataclass(frozen=True)
class HeadOutput:
    """What the M members of a head predict for n samples, as float32.

    probabilities: (M, n, C), of a regression its numbers. stream_weights: (M, n, K), of heads that weigh the streams;
    basic: (M, n, 8) probabilities of the basic emotions, of heads that predict them on the way; piece_weights:
    (M, n, P), of heads that weigh the pieces of each stream, or the spans of a clip's time; else None.
    """

    probabilities: np.ndarray
    stream_weights: np.ndarray | None
    basic: np.ndarray | None
    piece_weights: np.ndarray | None = None

    @property
    def weights(self) -> np.ndarray | None:
        """Those of the streams, or else of their pieces."""
        return self.piece_weights if self.stream_weights is None else self.stream_weights


def run_head(head: StandardisedHead, features: Features, rows: np.ndarray, streams: Sequence[int]) -> HeadOutput:
    """Run a head on these rows of the features, of which it takes the streams with these numbers, in order."""
    step = min(max(64, BLOCK // head.spec.members), max(1, BLOCK_NUMBERS // (head.spec.members * features.width)))
    return _joined((run_on_array(head, features.read(rows[start:start + step], streams))
                    for start in range(0, max(len(rows), 1), step)), len(rows))


def _joined(blocks: Iterable[HeadOutput], rows: int) -> HeadOutput:
    """The outputs of so many samples, block after block. Each goes at once into an array for all: small arrays of each
    block would lie between its large ones, and memory would grow."""
    joined, start = dict[str, Any](), 0
    for block in blocks:
        for field in fields(HeadOutput):
            values = getattr(block, field.name)
            if start == 0:
                joined[field.name] = None if values is None else np.empty(
                    (len(values), rows, *values.shape[2:]), values.dtype)
            if values is not None:
                joined[field.name][:, start:start + values.shape[1]] = values
        start += block.probabilities.shape[1]
    return HeadOutput(**joined)


@torch.inference_mode()
@torch.autocast("cpu", enabled=False)  # of the caller
def run_on_array(head: StandardisedHead, x: np.ndarray) -> HeadOutput:
    """Run a head on raw features (n, D) float32, of clips (n, T D), each by itself and without what is beyond its end:
    so its answer is the same bits whatever stands beside it."""
    if head.spec.frames and len(x) > 1:
        return _joined((run_on_array(head, row[None]) for row in x), len(x))
    if head.spec.frames and len(x):
        x = x[:, ~np.isnan(x[0])]
    output = head(torch.from_numpy(x))
    if not torch.isfinite(output.logits).all():
        raise InputError("the head's output is not finite: its features have values far outside those it was trained "
                         "on, or that are not finite")
    return HeadOutput(head.spec.link(output.logits).numpy(),
                      None if output.stream_weights is None else output.stream_weights.float().numpy(),
                      None if output.basic is None else output.basic.float().softmax(dim=-1).numpy(),
                      None if output.piece_weights is None else output.piece_weights.float().numpy())


@dataclass(frozen=True)
class TrainedHead:
    """A head and how it was trained. streams: numbers of those it reads, in the order of its columns.

    calibration: fitted on validation; none for a head that may not look at the classes. val_score: on validation.
    """

    head: StandardisedHead
    streams: tuple[int, ...]
    history: list[Epoch]
    calibration: Calibration
    val_score: float
    seconds: float

    @property
    def name(self) -> str:
        return self.head.spec.kind

    @property
    def temperature(self) -> float:
        return self.calibration.temperature

    def predict(self, features: Features, rows: np.ndarray) -> HeadOutput:
        """What its members predict for these rows."""
        return run_head(self.head, features, rows, self.streams)


@torch_defaults()
def fit(
    settings: Settings, task: Task, features: Features, split: Split, streams: Sequence[int], *,
    singles: Sequence[TrainedHead] = (), pretrained: Sequence[BackboneClassifier] = (),
) -> TrainedHead:
    """Train settings.head on the streams with these numbers.

    singles: what a head that averages singles is made of, one trained on each of the streams; pretrained: the
    classifiers of the streams, for heads that take them; for zero-shot nothing is trained then.
    """
    started = time.perf_counter()
    kind, read = HEAD_TYPES[settings.head], input_streams(settings, features, streams)
    trains = kind.learns_classes or not pretrained
    spec = Spec(kind=settings.head, dims=tuple(features.streams[k].dim for k in read),
                classes=task.outputs, members=settings.seeds if kind.seeded and trains else 1,
                hidden=settings.hidden, dropout=settings.dropout, projection=settings.projection, rule=settings.rule,
                own=bool(pretrained), pairs=features.taxonomy.pairs, task=task.layout, frames=features.most_frames > 0,
                pieces=() if "row" in kind.inputs or features.most_frames else tuple(
                    tuple(width for _, width in features.streams[k].pieces) or (features.streams[k].dim,)
                    for k in read), views=averaged_views(settings, features, streams))
    head, history, honest = StandardisedHead(spec), [], None  # honest: validation that chose no weights
    if singles:
        val = np.stack([single.predict(features, split.val).probabilities for single in singles])
        state, honest = head.body.average_singles([single.head for single in singles], val, features.label[split.val],
                                                  features.group[split.val], settings=settings)
        head.load_state_dict(state)
        history = [line for single in singles for line in single.history]
    elif trains:
        history = _train(head, settings, task, features, split, streams)
    if pretrained:
        head.body.copy_classifiers(pretrained, head.mean, head.std)
    head = head.cpu().eval()
    calibration, score = Calibration(), float("nan")
    if len(split.val):
        output = run_head(head, features, split.val, read)
        probabilities = output.probabilities.mean(axis=0) if honest is None else honest
        calibration, score = task.validate(features, split.val, probabilities,
                                            None if output.basic is None else output.basic.mean(axis=0))
    seconds = time.perf_counter() - started + sum(single.seconds for single in singles)
    return TrainedHead(head, tuple(read), history, calibration, score, seconds)


def input_streams(settings: Settings, features: Features, streams: Sequence[int]) -> list[int]:
    """The streams that prediction needs: where views are versions, those of the first view."""
    if HEAD_TYPES[settings.head].views == "streams":
        return list(streams)
    first = features.streams[streams[0]].view
    return [k for k in streams if features.streams[k].view == first]


def averaged_views(settings: Settings, features: Features, streams: Sequence[int]) -> int:
    """How many views of each backbone the head averages: 1 for none. Raises InputError where it cannot."""
    if settings.view_pooling != "mean":
        return 1
    views = len({features.streams[k].view for k in streams})
    if not HEAD_TYPES[settings.head].averages_views:
        heads = ", ".join(name for name, kind in HEAD_TYPES.items() if kind.averages_views)
        raise InputError(f"--view-pooling mean: head {settings.head} does not average views: choose from {heads}")
    if views == 1:
        raise InputError("--view-pooling mean needs several views: give --views original,flip")
    for k, other in zip(streams, streams[len(streams) // views:], strict=False):
        a, b = features.streams[k], features.streams[other]
        if a.view == b.view or any(not name.startswith("view.") for name in differences(a.recipe, b.recipe)):
            raise InputError(f"--view-pooling mean: {a.name} and {b.name} are not views by the same encoder: name each "
                             "backbone once, in --backbones")
    return views


def training_rows(settings: Settings, features: Features, split: Split) -> np.ndarray:
    """Rows to train on: those without a class, too, for heads that need basic labels and to mix basics into
    compounds."""
    if HEAD_TYPES[settings.head].needs_basic or (settings.compound_mixup and features.taxonomy.has_pairs):
        return np.union1d(split.train, split.extra)
    return split.train


def _train(head: StandardisedHead, settings: Settings, task: Task, features: Features, split: Split,
           streams: Sequence[int]) -> list[Epoch]:
    """Standardise, and train the body of the head in place."""
    read, rows = input_streams(settings, features, streams), training_rows(settings, features, split)
    views = head.spec.views
    scale = [np.tile(values, views) for values in fit_scaler(
        lambda some: mean_of_views(features.read_frames(some, read), views), rows, width=features.width)]
    for buffer, values in zip((head.mean, head.std), scale, strict=True):
        buffer.copy_(torch.from_numpy(values))
    mean, std = (np.tile(values, len(streams) // len(read)) for values in scale)  # versions stand side by side
    device = parse_device(settings.device)
    learned, targets = task.for_training(features)
    scale_shift = learned.output_scale(targets.train_target[split.train], settings)

    def samples(rows: np.ndarray, target: np.ndarray) -> Samples:
        def standardised(positions: np.ndarray) -> np.ndarray:
            x = features.read(rows[positions], streams)
            each = x.reshape(-1, len(mean))  # of clips a frame each
            each -= mean
            each /= std
            return mean_of_views(x, views)

        label = targets.label[rows] if learned.classes else np.minimum(targets.label[rows], 0)
        dataset = Samples(task=learned, target=learned.normalise(target[rows], scale_shift), label=label,
                          basic=features.basic[rows], basic_label=features.basic_label[rows], read=standardised,
                          device=device, width=features.width)
        return dataset.resident() if features.matrix is not None else dataset

    history = head.body.fit(samples(rows, targets.train_target), samples(split.val, targets.truth),
                            spec=head.spec.averaged, settings=settings)
    if learned.classes < len(learned.outputs):
        scale, shift = (torch.from_numpy(values).float().to(device) for values in scale_shift)
        with torch.no_grad():
            head.body.output_layer.weight.mul_(scale)
            head.body.output_layer.bias.mul_(scale).add_(shift)
    return history
