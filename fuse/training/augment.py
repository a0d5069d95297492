"""What may be done to a batch of features before the loss sees it.

Each function returns the batch to go on with; it may write into the `x` it was given, which belongs to this step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from twofold.data.labels import BASIC
from twofold.fuse.training.ensemble import MemberRandom


@dataclass(frozen=True)
class Batch:
    """x (M, B, D); target (M, B, C) shares of the classes; weight (M, B), 0 for a sample without a class;
    basic (M, B, 8) shares, zeros if unknown; label (M, B), -1 where there is no single class."""

    x: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor
    basic: torch.Tensor
    label: torch.Tensor


@dataclass(frozen=True)
class Pools:
    """Where to find samples of each basic emotion among the rows of x, to make compounds of. rows: (8, longest)."""

    rows: torch.Tensor
    count: torch.Tensor  #: (8,)
    pairs: torch.Tensor  #: (A, 2) numbers of the two basics of each class that can be made
    classes: torch.Tensor  #: (A,)
    basic: torch.Tensor  #: (A, 8) half for each of the pair


def membership(parts: Sequence[Sequence[str]]) -> np.ndarray:
    """(8, C) 1 where a basic emotion is one of the parts of a class: both of a compound's pair, the one of a basic."""
    out = np.zeros((len(BASIC), len(parts)), np.float32)
    for column, basics in enumerate(parts):
        out[[BASIC.index(basic) for basic in basics], column] = 1
    return out


def pools(basic_label: np.ndarray, parts: Sequence[Sequence[str]], device: torch.device) -> Pools | None:
    """Pools from (N,) basic labels, -1 for none; None if no class can be made from them, as in a block of few samples.

    parts: the basic emotions that each class is made of.
    """
    rows = [np.flatnonzero(basic_label == number) for number in range(len(BASIC))]
    part = membership(parts)
    able = [c for c in range(len(parts))
            if part[:, c].sum() == 2 and all(len(rows[basic]) for basic in np.flatnonzero(part[:, c]))]
    if not able:
        return None
    padded = np.zeros((len(BASIC), max(map(len, rows))), np.int64)
    for number, places in enumerate(rows):
        padded[number, :len(places)] = places
    pairs = np.stack([np.flatnonzero(part[:, c]) for c in able])
    tensors = padded, np.array([len(places) for places in rows]), pairs, np.array(able), part.T[able] / 2
    return Pools(*(torch.from_numpy(values).to(device) for values in tensors))


def mixup(batch: Batch, alpha: float, random: MemberRandom) -> Batch:
    """Each row mixed with its neighbour (batches are shuffled), shares from Beta(alpha, alpha); arXiv 1710.09412.

    A mixture of two classes has no single one: for the contrastive loss it belongs with its own versions only.
    """
    share = random.beta(alpha, batch.x.shape[1])[..., None]
    other = 1 - share

    def mixed(values: torch.Tensor) -> torch.Tensor:
        return share * values + other * values.roll(1, dims=1)

    mass = mixed(batch.weight[..., None] * batch.target)
    weight = mixed(batch.weight[..., None])
    label = torch.where(batch.label == batch.label.roll(1, dims=1), batch.label, -1)
    return replace(batch, x=mixed(batch.x).to(batch.x.dtype), target=mass / weight.clamp_min(1e-12),
                   weight=weight[..., 0], basic=mixed(batch.basic), label=label)


def mix_compounds(batch: Batch, x: torch.Tensor, basics: Pools, share: float, class_weight: torch.Tensor,
                   random: MemberRandom) -> Batch:
    """The last `share` of the batch replaced by mixtures of two basic samples, labelled as their compound.

    Classes are drawn evenly, so rare ones gain most; shares of the two lie between 0.3 and 0.7, so that both show.
    After the feature-space mixup of arXiv 2503.07969. x: (N, D), the rows that `basics` counts.
    """
    count = round(share * batch.x.shape[1])
    if not count:
        return batch
    draws = random.uniform(4, count)
    which = (draws[:, 0] * len(basics.classes)).long().clamp_max(len(basics.classes) - 1)
    samples = []
    for side in (0, 1):
        basic = basics.pairs[which, side]
        place = (draws[:, 1 + side] * basics.count[basic]).long().clamp_max(basics.count[basic] - 1)
        samples.append(x[basics.rows[basic, place]])
    ratio = (0.3 + 0.4 * draws[:, 3])[..., None]
    label = basics.classes[which]
    batch.x[:, -count:] = torch.lerp(samples[1], samples[0], ratio.to(x.dtype))
    new = {"target": torch.nn.functional.one_hot(label, batch.target.shape[-1]).float(), "weight": class_weight[label],
           "basic": basics.basic[which], "label": torch.full_like(batch.label[:, -count:], -1)}
    kept = {name: getattr(batch, name)[:, :-count] for name in new}
    return replace(batch, **{name: torch.cat([kept[name], values], dim=1) for name, values in new.items()})


def drop_streams(batch: Batch, dims: Sequence[int], drop: float, random: MemberRandom) -> Batch:
    """Whole streams zeroed (set to the training mean) for single samples, each with probability `drop`, never all.

    x may hold several versions of a sample side by side, each of all streams: none of them is ever empty.
    """
    versions = batch.x.shape[-1] // sum(dims)
    draws = random.uniform(batch.x.shape[1], versions, len(dims))
    luckiest = torch.nn.functional.one_hot(draws.argmax(dim=-1), len(dims)).bool()
    keep = ((draws >= drop) | luckiest).to(batch.x.dtype).flatten(start_dim=-2)
    for k, part in enumerate(batch.x.split(list(dims) * versions, dim=-1)):
        part *= keep[..., k, None]
    return batch
