"""One head on one set of streams and one partition of the faces: from settings to a trained classifier."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from twofold.cache.format.classifier import OwnClassifier
from twofold.data.errors import InputError
from twofold.data.labels import BASIC
from twofold.fuse.features import FusedFeatures
from twofold.fuse.heads.concat import Concat
from twofold.fuse.heads.logreg import fill_logreg
from twofold.fuse.heads.own_classifier import own_classifiers
from twofold.fuse.heads.pair_rules import membership
from twofold.fuse.heads.registry import Classifier
from twofold.fuse.heads.spec import Spec
from twofold.fuse.heads.stacked_layers import initialise
from twofold.fuse.partition import Partition
from twofold.fuse.scores import metrics
from twofold.fuse.settings import Settings
from twofold.fuse.training.device import parse_device, resolve_precision
from twofold.fuse.training.late_weights import fill_late
from twofold.fuse.training.loop import Epoch, train
from twofold.fuse.training.standardised import BLOCK, Examples, Scale, measure


@dataclass(frozen=True)
class Fitted:
    """A trained head. streams: numbers of those it reads, in the order of its columns."""

    head: Classifier
    streams: tuple[int, ...]
    history: list[Epoch]
    temperature: float  #: fitted on validation; 1 for zero-shot, which may not look at compound labels
    val_macro_f1: float
    seconds: float


def fit(
    settings: Settings, features: FusedFeatures, partition: Partition, streams: Sequence[int], *,
    singles: Sequence[Fitted] = (),
) -> Fitted:
    """Train settings.head on the streams with these numbers.

    For the paper's head with several views the streams of the first view predict and those of the others only take
    part in the contrastive loss. singles: for `late`, heads already trained on each stream alone.
    """
    started = time.perf_counter()
    device = parse_device(settings.device)
    shown = _shown(settings, features, streams)
    own = own_classifiers(features)[0] if settings.head == "zeroshot" else []
    members = 1 if settings.head == "logreg" or own else settings.seeds
    spec = Spec(kind=settings.head, dims=tuple(features.streams[k].dim for k in shown),
                classes=features.taxonomy.classes, members=members, hidden=settings.hidden, dropout=settings.dropout,
                projection=settings.projection, rule=settings.rule, own=bool(own))
    head = Classifier(spec)
    if settings.head == "late":
        singles = singles or fit_singles(settings, features, partition, shown)
        history = fill_late(head, settings, features, partition, singles)
    elif own:
        history = _fill_own(head, [own[k] for k in shown])
    else:
        history = _fill(head, settings, features, partition, streams, device)
    head = head.cpu().eval()
    found = probabilities(head, features, partition.val, shown).mean(axis=0)
    truth = features.label[partition.val]
    temperature = 1.0 if settings.head == "zeroshot" else metrics.fit_temperature(found, truth)
    score = metrics.scores(truth, found.argmax(axis=1), len(spec.classes)).macro_f1
    return Fitted(head, tuple(shown), history, temperature, score, time.perf_counter() - started)


def fit_singles(
    settings: Settings, features: FusedFeatures, partition: Partition, streams: Sequence[int],
) -> list[Fitted]:
    """What `late` averages: an mlp on each stream alone."""
    return [fit(replace(settings, head="mlp"), features, partition, (k,)) for k in streams]


@torch.inference_mode()
def probabilities(head: Classifier, features: FusedFeatures, rows: np.ndarray, streams: Sequence[int]) -> np.ndarray:
    """(M, n, C) float32 probabilities of each member for these rows."""
    return _run(head, features, rows, streams, lambda output: output.logits.float().softmax(dim=-1))


@torch.inference_mode()
def contributions(
    head: Classifier, features: FusedFeatures, rows: np.ndarray, streams: Sequence[int],
) -> list[float] | None:
    """Mean share of each stream in the decision over these rows, for heads that weigh streams; else None."""
    if head.spec.kind not in ("gated", "late"):
        return None
    return _run(head, features, rows, streams, lambda output: output.gates.float()).mean(axis=(0, 1)).tolist()


def _run(head: Classifier, features: FusedFeatures, rows: np.ndarray, streams: Sequence[int], take) -> np.ndarray:
    step = max(64, BLOCK // head.spec.members // 4)
    parts = [take(head(torch.from_numpy(features.read(rows[start:start + step], streams)))).numpy()
             for start in range(0, len(rows), step)]
    return np.concatenate(parts, axis=1)


def _shown(settings: Settings, features: FusedFeatures, streams: Sequence[int]) -> list[int]:
    """The streams that prediction needs."""
    if settings.head != "paper":
        return list(streams)
    first = features.streams[streams[0]].view
    return [k for k in streams if features.streams[k].view == first]


def _fill(head: Classifier, settings: Settings, features: FusedFeatures, partition: Partition, streams: Sequence[int],
          device: torch.device) -> list[Epoch]:
    shown = _shown(settings, features, streams)
    learning = _rows(settings, features, partition)
    scale = measure(lambda rows: features.read(rows, shown), learning[0])
    with torch.no_grad():
        head.mean.copy_(torch.from_numpy(scale.mean))
        head.std.copy_(torch.from_numpy(scale.std))
    data, val = (_examples(settings, features, rows, streams, scale.tiled(len(streams) // len(shown)), device)
                 for rows in learning)
    if settings.head == "logreg":
        return fill_logreg(head.body, data, val, seed=settings.seed)
    seeds = range(settings.seed, settings.seed + settings.seeds)
    precision = resolve_precision(settings.precision, device)
    spec, body = head.spec, head.body.to(device)
    if settings.head == "zeroshot":
        _check_basics(data, spec.classes)
        spec, body = _basic_classifier(head, data, device)
    initialise(body, seeds)
    return train(body, data, val, spec=spec, settings=settings, seeds=seeds, precision=precision)


def _fill_own(head: Classifier, own: Sequence[OwnClassifier]) -> list[Epoch]:
    with torch.no_grad():
        for layer, one in zip(head.body.own, own, strict=True):
            layer.weight.copy_(torch.from_numpy(one.weight))
            layer.bias.copy_(torch.from_numpy(one.bias))
    return []


def _rows(settings: Settings, features: FusedFeatures, partition: Partition) -> tuple[np.ndarray, np.ndarray]:
    """Rows to learn from and to choose by: for zero-shot, all with a basic label, else those with a class.

    With the paper's head, and to mix basics into compounds, faces without a class learn too.
    """
    if settings.head == "zeroshot":
        every = np.union1d(partition.train, partition.extra)
        return tuple(rows[features.basic_label[rows] >= 0] for rows in (every, partition.val))
    if settings.head == "paper" or (settings.compound_mixup and features.taxonomy.target == "compound"):
        return np.union1d(partition.train, partition.extra), partition.val
    return partition.train, partition.val


def _examples(settings: Settings, features: FusedFeatures, rows: np.ndarray, streams: Sequence[int], scale: Scale,
              device: torch.device) -> Examples:
    label = features.basic_label if settings.head == "zeroshot" else features.label
    examples = Examples(rows=rows, label=label[rows], basic=features.basic[rows],
                        basic_label=features.basic_label[rows], read=lambda some: features.read(some, streams),
                        scale=scale, device=device)
    return examples.resident() if features.matrix is not None else examples


def _check_basics(data: Examples, classes: Sequence[str]) -> None:
    needed = np.flatnonzero(membership(classes).any(axis=1))
    absent = [BASIC[number] for number in needed if not (data.label == number).any()]
    if absent:
        raise InputError(f"zero-shot needs training faces with the basic labels {', '.join(absent)}: "
                         "add a store that has them (`fuse STORE STORE ...`)")


def _basic_classifier(head: Classifier, data: Examples, device: torch.device):
    """The inner MLP of a ZeroShot head as a head of its own, and -inf for basics that no face teaches."""
    untaught = np.bincount(data.label, minlength=len(BASIC)) == 0
    head.body.absent[:, :, torch.from_numpy(untaught).to(device)] = float("-inf")
    spec = Spec(**{**vars(head.spec), "kind": "mlp", "classes": BASIC})
    inner = Concat(spec).to(device)
    inner.mlp = head.body.mlp
    return spec, inner
