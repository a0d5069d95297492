"""A head with the standardisation of its features: trained, run on samples, put side by side with others."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from twofold.cache.classifier import BackboneClassifier
from twofold.data.labels import BASIC
from twofold.data.utils.errors import InputError
from twofold.fuse.features import FusedFeatures
from twofold.fuse.heads.fusion import Concat, Gated, Late, Linear, Paper, fill_late
from twofold.fuse.heads.sklearn import fill_logreg
from twofold.fuse.heads.zeroshot import OwnLogits, ZeroShot
from twofold.fuse.metrics import scores as metrics
from twofold.fuse.settings import Settings
from twofold.fuse.split import Partition
from twofold.fuse.training.augment import membership
from twofold.fuse.training.data import Examples, Scale, measure
from twofold.fuse.training.ensemble import Body, Output, Spec, initialise
from twofold.fuse.training.loop import Epoch, train
from twofold.fuse.training.optimiser import parse_device, resolve_precision


def build(spec: Spec) -> Body:
    """The head of a spec, its weights zero. kind `logreg` is a Linear that scikit-learn fills."""
    kinds = {"linear": Linear, "logreg": Linear, "mlp": Concat, "gated": Gated, "paper": Paper,
             "zeroshot": OwnLogits if spec.own else ZeroShot, "late": Late}
    return kinds[spec.kind](spec)


class StandardisedHead(nn.Module):
    """A head with the standardisation of its features: raw (B, D) to the head's output, members first."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, spec: Spec):
        super().__init__()
        self.spec = spec
        self.register_buffer("mean", torch.zeros(spec.members, 1, sum(spec.dims)))
        self.register_buffer("std", torch.ones(spec.members, 1, sum(spec.dims)))
        self.body = build(spec)

    def forward(self, x: torch.Tensor) -> Output:
        return self.body((x - self.mean) / self.std)


def side_by_side(heads: Sequence[StandardisedHead]) -> StandardisedHead:
    """One head with the members of all; they must have the same spec but for their number."""
    spec = heads[0].spec
    members = sum(head.spec.members for head in heads)
    joined = StandardisedHead(replace(spec, members=members))
    states = [head.state_dict() for head in heads]
    joined.load_state_dict({name: torch.cat([state[name] for state in states]) for name in states[0]})
    return joined


def without_streams(head: StandardisedHead, absent: Collection[int]) -> StandardisedHead:
    """The same head, weights shared, with these streams at their mean, which an infinite spread makes of any value."""
    with torch.device("meta"):
        part = StandardisedHead(head.spec)
    part.body, part.mean, part.std = head.body, head.mean, head.std.clone()
    for k, columns in enumerate(part.std.split(list(head.spec.dims), dim=-1)):
        if k in absent:
            columns.fill_(torch.inf)
    return part.eval()


STEP = 2048  #: members x faces of one pass, at most


@dataclass(frozen=True)
class MemberScores:
    """What the M members of a head say of n faces, as float32.

    probabilities: (M, n, C). shares: (M, n, K) of the streams in the decision, of heads that weigh them; basic:
    (M, n, 8) probabilities of the basic emotions, of heads that predict them on the way; else None.
    """

    probabilities: np.ndarray
    shares: np.ndarray | None
    basic: np.ndarray | None


@torch.inference_mode()
def member_scores(
    head: StandardisedHead, features: FusedFeatures, rows: np.ndarray, streams: Sequence[int],
) -> MemberScores:
    """Run a head on these rows of the features, of which it takes the streams with these numbers, in order."""
    step = max(64, STEP // head.spec.members)
    blocks = [scores_of(head, features.read(rows[start:start + step], streams))
              for start in range(0, max(len(rows), 1), step)]
    shares = [block.shares for block in blocks if block.shares is not None]
    basic = [block.basic for block in blocks if block.basic is not None]
    return MemberScores(np.concatenate([block.probabilities for block in blocks], axis=1),
                        np.concatenate(shares, axis=1) if shares else None,
                        np.concatenate(basic, axis=1) if basic else None)


@torch.inference_mode()
def scores_of(head: StandardisedHead, features: np.ndarray) -> MemberScores:
    """The same of raw features (n, D) float32."""
    output = head(torch.from_numpy(features))
    return MemberScores(output.logits.float().softmax(dim=-1).numpy(),
                        None if output.gates is None else output.gates.float().numpy(),
                        None if output.basic is None else output.basic.float().softmax(dim=-1).numpy())


@dataclass(frozen=True)
class TrainedHead:
    """A head and how it came to be. streams: numbers of those it reads, in the order of its columns."""

    head: StandardisedHead
    streams: tuple[int, ...]
    history: list[Epoch]
    temperature: float  #: fitted on validation; 1 for zero-shot, which may not look at compound labels
    val_macro_f1: float
    seconds: float


def fit(
    settings: Settings, features: FusedFeatures, partition: Partition, streams: Sequence[int], *,
    singles: Sequence[TrainedHead] = (), own: Sequence[BackboneClassifier] = (),
) -> TrainedHead:
    """Train settings.head on the streams with these numbers.

    For the paper's head with several views the streams of the first view predict and those of the others only take
    part in the contrastive loss. singles: what `late` averages, an mlp trained on each of the streams alone; own: for
    zero-shot, the classifiers of the streams, where nothing is to be trained.
    """
    started = time.perf_counter()
    device = parse_device(settings.device)
    read = read_streams(settings, features, streams)
    head = StandardisedHead(_spec(settings, features, read, own=bool(own)))
    if settings.head == "late":
        val = np.stack([member_scores(single.head, features, partition.val, single.streams).probabilities
                        for single in singles])
        fill_late(head, [single.head for single in singles], val, features.label[partition.val], how=settings.late,
                  seed=settings.seed)
        history = [line for single in singles for line in single.history]
    elif own:
        _fill_own(head.body, own)
        history = []
    else:
        history = _learn(head, settings, features, partition, streams, device)
    temperature, score = _validated(settings, head.cpu().eval(), features, partition, read)
    seconds = time.perf_counter() - started + sum(single.seconds for single in singles)
    return TrainedHead(head, tuple(read), history, temperature, score, seconds)


def fit_single(settings: Settings, features: FusedFeatures, partition: Partition, stream: int) -> TrainedHead:
    """What `late` averages: an mlp on one stream alone."""
    return fit(replace(settings, head="mlp"), features, partition, (stream,))


def _spec(settings: Settings, features: FusedFeatures, streams: Sequence[int], *, own: bool) -> Spec:
    return Spec(kind=settings.head, dims=tuple(features.streams[k].dim for k in streams),
                classes=features.taxonomy.classes, members=1 if settings.head == "logreg" or own else settings.seeds,
                hidden=settings.hidden, dropout=settings.dropout, projection=settings.projection, rule=settings.rule,
                own=own, pairs=features.taxonomy.pairs)


def read_streams(settings: Settings, features: FusedFeatures, streams: Sequence[int]) -> list[int]:
    """The streams that prediction needs."""
    if settings.head != "paper":
        return list(streams)
    first = features.streams[streams[0]].view
    return [k for k in streams if features.streams[k].view == first]


def _validated(settings: Settings, head: StandardisedHead, features: FusedFeatures, partition: Partition,
               streams: Sequence[int]) -> tuple[float, float]:
    """Temperature and macro-F1 of the members' mean on validation; for zero-shot 1, and macro-F1 of the basics."""
    if not len(partition.val):
        return 1.0, float("nan")
    scores = member_scores(head, features, partition.val, streams)
    if settings.head == "zeroshot":
        assert scores.basic is not None
        calls, truth = scores.basic.mean(axis=0).argmax(axis=1), features.basic_label[partition.val]
        return 1.0, metrics.scores(truth, calls, len(BASIC)).macro_f1_present
    mean, truth = scores.probabilities.mean(axis=0), features.label[partition.val]
    macro_f1 = metrics.scores(truth, mean.argmax(axis=1), len(head.spec.classes)).macro_f1
    return metrics.fit_temperature(mean, truth), macro_f1


def _learn(head: StandardisedHead, settings: Settings, features: FusedFeatures, partition: Partition,
           streams: Sequence[int], device: torch.device) -> list[Epoch]:
    """Standardise, and train the body of the head in place."""
    read = read_streams(settings, features, streams)
    rows, val_rows = learning_rows(settings, features, partition)
    scale = measure(lambda faces: features.read(faces, read), rows)
    with torch.no_grad():
        head.mean.copy_(torch.from_numpy(scale.mean))
        head.std.copy_(torch.from_numpy(scale.std))
    scale = scale.tiled(len(streams) // len(read))
    data, val = (_examples(settings, features, faces, streams, scale, device) for faces in (rows, val_rows))
    if isinstance(head.body, Linear) and settings.head == "logreg":
        return fill_logreg(head.body, data, val, seed=settings.seed)
    seeds = range(settings.seed, settings.seed + settings.seeds)
    precision = resolve_precision(settings.precision, device)
    spec, body = head.spec, head.body.to(device)
    if isinstance(body, ZeroShot):
        _check_basics(data, spec.parts)
        spec, body = _basic_classifier(spec, body, data, device)
    initialise(body, seeds)
    return train(body, data, val, spec=spec, settings=settings, seeds=seeds, precision=precision)


def _fill_own(body: torch.nn.Module, own: Sequence[BackboneClassifier]) -> None:
    assert isinstance(body, OwnLogits)
    with torch.no_grad():
        for layer, classifier in zip(body.own, own, strict=True):
            layer.get_parameter("weight").copy_(torch.from_numpy(classifier.weight))
            layer.get_parameter("bias").copy_(torch.from_numpy(classifier.bias))


def learning_rows(settings: Settings, features: FusedFeatures, partition: Partition) -> tuple[np.ndarray, np.ndarray]:
    """Rows to learn from and to choose by. With the paper's head, and to mix basics into compounds, faces without a
    class learn too."""
    if settings.head == "paper" or (settings.compound_mixup and features.taxonomy.has_pairs):
        return np.union1d(partition.train, partition.extra), partition.val
    return partition.train, partition.val


def _examples(settings: Settings, features: FusedFeatures, rows: np.ndarray, streams: Sequence[int], scale: Scale,
              device: torch.device) -> Examples:
    label = features.basic_label if settings.head == "zeroshot" else features.label
    examples = Examples(rows=rows, label=label[rows], basic=features.basic[rows],
                        basic_label=features.basic_label[rows], read=lambda faces: features.read(faces, streams),
                        scale=scale, device=device)
    return examples.resident() if features.matrix is not None else examples


def _check_basics(data: Examples, parts: Sequence[Sequence[str]]) -> None:
    needed = np.flatnonzero(membership(parts).any(axis=1))
    absent = [BASIC[number] for number in needed if not (data.label == number).any()]
    if absent:
        raise InputError(f"zero-shot needs training faces with the basic labels {', '.join(absent)}: "
                         "add a store that has them (`fuse STORE STORE ...`)")


def _basic_classifier(spec: Spec, body: ZeroShot, data: Examples, device: torch.device) -> tuple[Spec, Concat]:
    """The inner MLP of a ZeroShot head as a head of its own, and -inf for basics that no face teaches."""
    untaught = np.bincount(data.label, minlength=len(BASIC)) == 0
    body.absent[:, :, torch.from_numpy(untaught).to(device)] = float("-inf")
    inner_spec = replace(spec, kind="mlp", classes=BASIC, pairs=())
    inner = Concat(inner_spec).to(device)
    inner.mlp = body.mlp
    return inner_spec, inner
