"""Samples on their way to the encoders: read and decoded once, their pixels written straight into batches.

A `BatchPool` hands out slots of a few reused buffers, so that decoding is never more than these buffers ahead.
"""

import hashlib
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from twofold.data.images.decode import DECODER, REMARKS, ImageError, decode
from twofold.data.images.sources import ImageSource
from twofold.extract.encoders.preprocessing import Preprocessing, Resizer
from twofold.extract.engine.views import apply_view


@dataclass(slots=True)
class LoadedSample:
    """A sample by row and key; once decoded it has the SHA-256 of its image, or the reason for its failure, and the
    decoder's `REMARKS`."""

    row: int
    key: str
    sha256: str = ""
    failure: str = ""
    remarks: Counter[str] = field(default_factory=Counter)


@dataclass(eq=False)
class Batch:
    """A buffer for the images of one forward pass, and the samples in it, in order.

    pixels: (B, S, S, 3) uint8, pinned where a CUDA device reads it.
    """

    pool: "BatchPool"
    pixels: torch.Tensor
    samples: list[LoadedSample] = field(default_factory=list)
    decoded: int = 0  #: of its samples, the first ones
    users: int = 0  #: forward passes that still read it

    def __post_init__(self) -> None:
        self.array = self.pixels.numpy()  # the same memory

    def release(self) -> None:
        """Count one forward pass less that reads the batch; return it to its pool after the last."""
        self.users -= 1
        if not self.users:
            self.samples, self.decoded = [], 0
            self.pool.free.append(self)


Slot = tuple[Batch, int]  #: where the pixels of one sample go


class BatchPool:
    """The batches of all encoders that need the same pixels of the same samples.

    missing: (samples,) bool, which samples; count: number of buffers, each reused once no forward pass reads it;
    decoder: as the recipe has it.
    """

    def __init__(self, view: str, preprocessing: Preprocessing, missing: np.ndarray, *, batch_size: int, count: int,
                 pinned: bool, decoder: str = DECODER):
        self.view, self.preprocessing, self.missing, self.batch_size = view, preprocessing, missing, batch_size
        self.decoder = decoder
        shape = (batch_size, preprocessing.size, preprocessing.size, 3)
        self.free = [Batch(self, torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)) for _ in range(count)]
        self.filling: deque[Batch] = deque()  #: the oldest first; only the last may have free slots

    def missing_of(self, samples: Sequence[LoadedSample]) -> int:
        """Return how many of these samples the pool needs."""
        return sum(bool(self.missing[sample.row]) for sample in samples)

    @property
    def free_slots(self) -> int:
        last = self.batch_size - len(self.filling[-1].samples) if self.filling else 0
        return last + len(self.free) * self.batch_size

    def slot_for(self, sample: LoadedSample) -> Slot:
        """Reserve the next slot for this sample; there must be a free one."""
        if not self.filling or len(self.filling[-1].samples) == self.batch_size:
            self.filling.append(self.free.pop())
        batch = self.filling[-1]
        batch.samples.append(sample)
        return batch, len(batch.samples) - 1

    def mark_decoded(self, count: int) -> list[Batch]:
        """Count the next `count` samples as decoded; return the batches that this completes."""
        complete = []
        while count:
            batch = self.filling[0]
            here = min(count, self.batch_size - batch.decoded)
            batch.decoded += here
            count -= here
            if batch.decoded == self.batch_size:
                complete.append(self.filling.popleft())
        return complete

    def pop_partial(self) -> Batch | None:
        """Return the last, only partly decoded batch, padded with black, or None."""
        if not self.filling or not self.filling[0].decoded:
            return None
        batch = self.filling.popleft()
        del batch.samples[batch.decoded:]
        batch.array[batch.decoded:] = 0
        return batch


def decode_into(images: ImageSource, wanted: Sequence[tuple[LoadedSample, Sequence[Slot]]]) -> float:
    """Read and decode each sample once and write its pixels to its slots; return this thread's CPU seconds.

    Each view is computed once, and resized once to each size and by each filter, also where several slots share it. A
    sample that cannot be read or decoded keeps the reason, and its slots become black.
    """
    began = time.thread_time()
    for sample, slots in wanted:
        views: dict[tuple[str, str], Resizer] = {}
        try:
            content = images.read(sample.key)
            sample.sha256 = hashlib.sha256(content).hexdigest()
            image = decode(content, images.limits)
            sample.remarks = image.info[REMARKS]
            for batch, index in slots:
                key = batch.pool.view, batch.pool.decoder
                if key not in views:
                    views[key] = Resizer(apply_view(key[0], image, sample.sha256), decoder=key[1])
                batch.array[index] = batch.pool.preprocessing.prepare(views[key])
        except ImageError as error:
            sample.failure = str(error)
            for batch, index in slots:
                batch.array[index] = 0
    return time.thread_time() - began
