"""Samples as training takes them: standardised, resident or in shuffled blocks; batches and their augmentation.

An augmentation returns the batch to go on with; it may write into the `x` it was given, which belongs to this step.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from twofold.data.labels import BASIC
from twofold.fuse.core.task import Task
from twofold.fuse.training.ensemble import MemberRandom

CHUNK = 256  #: rows that are read together: a chunk of a feature file
BLOCK = 8192  #: rows of a streamed block, and of a step in any pass over many rows
BLOCK_NUMBERS = BLOCK * 4096  #: the same of wide rows, in columns

Read = Callable[[np.ndarray], np.ndarray]  #: row numbers (n,) to features (n, D) float32, a new array


def block_samples(width: int) -> int:
    """How many samples of so many columns are read or passed through a head at once."""
    return max(1, min(BLOCK, BLOCK_NUMBERS // width))


def fit_scaler(read: Read, rows: np.ndarray, *, width: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (D,) of these rows, 1 for a constant column, in one pass (Chan et al., 1983: sums of
    squares of blocks about their own means). width: columns of a row as `block_samples` takes it."""
    count, mean, squares, step = 0, np.zeros(1), np.zeros(1), block_samples(width)
    for start in range(0, len(rows), step):
        block = read(rows[start:start + step])
        middle = block.mean(axis=0, dtype=np.float64)
        block -= middle.astype(np.float32)
        shift, total = middle - mean, count + len(block)
        own = np.einsum("nd,nd->d", block, block, dtype=np.float64)
        squares = squares + own + shift**2 * count * len(block) / total
        mean, count = mean + shift * len(block) / total, total
    std = np.sqrt(squares / max(count, 1))
    std = np.where(std > 1e-6 * np.maximum(np.abs(mean), 1e-3), std, 1.0)
    return mean.astype(np.float32), std.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Samples:
    """n samples of a task. target: (n, C) what they teach; label: (n,) class, -1 for none, 0 where there are no
    classes; basic: (n, 8) that sum to 1, zeros for none; basic_label: (n,), -1 for none. read: from positions among
    them to standardised features; width: columns of these, at most; x: all of them (n, D) on the device, if they fit.
    """

    task: Task
    target: np.ndarray
    label: np.ndarray
    basic: np.ndarray
    basic_label: np.ndarray
    read: Read
    device: torch.device
    width: int = 1
    x: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.label)

    def blocks(self, generator: np.random.Generator | None = None) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """(positions, features on the device): everything at once if resident, else blocks.

        Given a generator, the blocks are made of chunks in random order: near to a full shuffle, at the speed of
        sequential reading. Within a block, rows stand in file order: shuffle them there.
        """
        if self.x is not None:
            yield np.arange(len(self)), self.x
            return
        block = block_samples(self.width)
        chunk = max(1, CHUNK * block // BLOCK)
        chunks = np.array_split(np.arange(len(self)), max(1, -(-len(self) // chunk)))
        order = range(len(chunks)) if generator is None else generator.permutation(len(chunks))
        shuffled = [chunks[number] for number in order]
        for start in range(0, len(shuffled), block // chunk):
            positions = np.sort(np.concatenate(shuffled[start:start + block // chunk]))
            yield positions, torch.from_numpy(self.read(positions)).to(self.device)

    def resident(self) -> "Samples":
        """The same with all features on the device."""
        return replace(self, x=torch.from_numpy(self.read(np.arange(len(self)))).to(self.device))


@dataclass(frozen=True)
class Batch:
    """x (M, B, D); target (M, B, C), shares of the classes first; weight (M, B), 0 for a sample without a class;
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
    return np.array([[basic in basics for basics in parts] for basic in BASIC], np.float32)


def pools(basic_label: np.ndarray, parts: Sequence[Sequence[str]], device: torch.device) -> Pools | None:
    """Pools from (N,) basic labels, -1 for none, for classes made of these parts; None if none can be made, as in a
    block of few samples."""
    rows = [np.flatnonzero(basic_label == number) for number in range(len(BASIC))]
    part = membership(parts)
    able = [c for c, shown in enumerate(part.T) if shown.sum() == 2 and all(map(len, itertools.compress(rows, shown)))]
    if not able:
        return None
    padded = np.zeros((len(BASIC), max(map(len, rows))), np.int64)
    for number, places in enumerate(rows):
        padded[number, :len(places)] = places
    pairs = np.stack([np.flatnonzero(part[:, c]) for c in able])
    tensors = padded, np.array([len(places) for places in rows]), pairs, np.array(able), part.T[able] / 2
    return Pools(*(torch.from_numpy(values).to(device) for values in tensors))


def mixup(batch: Batch, alpha: float, random: MemberRandom, *, classes: int) -> Batch:
    """Each row mixed with its neighbour (batches are shuffled), shares from Beta(alpha, alpha); arXiv 1710.09412.

    classes: how many columns of the target, the first, are shares. A mixture of two has no single
    class: for the contrastive loss it belongs with its own versions only.
    """
    share = random.beta(alpha, batch.x.shape[1])[..., None]
    other = 1 - share

    def mixed(values: torch.Tensor) -> torch.Tensor:
        return share * values + other * values.roll(1, dims=1)

    weight = mixed(batch.weight[..., None])
    shares = mixed(batch.weight[..., None] * batch.target[..., :classes]) / weight.clamp_min(1e-12)
    label = torch.where(batch.label == batch.label.roll(1, dims=1), batch.label, -1)
    return replace(batch, x=mixed(batch.x).to(batch.x.dtype), weight=weight[..., 0], basic=mixed(batch.basic),
                   target=torch.cat([shares, mixed(batch.target[..., classes:])], dim=-1), label=label)


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
    target = torch.nn.functional.one_hot(label, batch.target.shape[-1]).float()
    target[..., len(class_weight):] = torch.nan  # of other tasks nothing is known
    new = {"target": target, "weight": class_weight[label],
           "basic": basics.basic[which], "label": torch.full_like(batch.label[:, -count:], -1)}
    kept = {name: getattr(batch, name)[:, :-count] for name in new}
    return replace(batch, **{name: torch.cat([kept[name], values], dim=1) for name, values in new.items()})


def drop_streams(batch: Batch, dims: Sequence[int], drop: float, random: MemberRandom, *, frames: bool = False
                 ) -> Batch:
    """Whole streams zeroed (set to the training mean) for single samples, each with probability `drop`, never all.

    x may hold several versions of a sample side by side, each of all streams: none of them is ever empty. frames: it
    holds those of a clip, all of which lose the same stream.
    """
    versions = 1 if frames else batch.x.shape[-1] // sum(dims)
    draws = random.uniform(batch.x.shape[1], versions, len(dims))
    luckiest = torch.nn.functional.one_hot(draws.argmax(dim=-1), len(dims)).bool()
    keep = ((draws >= drop) | luckiest).to(batch.x.dtype)
    for k, part in enumerate(batch.x.unflatten(-1, (-1, sum(dims))).split(list(dims), dim=-1)):
        part *= keep[..., k, None]
    return batch
