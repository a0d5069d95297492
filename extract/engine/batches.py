"""Faces on their way to the encoders: read and decoded once, their pixels written straight into batches.

A `Feed` hands out the places of a few reused buffers, so that however fast decoding is, it is a bounded way ahead.
"""

import hashlib
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from twofold.data.images.decode import ImageError, decode
from twofold.data.images.sources import ImageSource
from twofold.extract.encoders.preprocessing import Preprocessing
from twofold.extract.views import View


@dataclass(slots=True)
class Face:
    """A face of the manifest. Once it is decoded it has the hash of its image, or the reason why there is none."""

    row: int
    key: str
    sha256: str = ""
    failure: str = ""


@dataclass(eq=False)
class Batch:
    """A buffer for the pictures of one forward pass, and whose they are, in order.

    pixels: (B, S, S, 3) uint8, in memory that the card can fetch by itself where there is one.
    """

    pixels: torch.Tensor
    faces: list[Face] = field(default_factory=list)
    taken: int = 0  #: of its faces that are decoded, the first ones
    passes: int = 0  #: forward passes that still need it

    def __post_init__(self) -> None:
        self.array = self.pixels.numpy()  # the same memory

    @property
    def is_full(self) -> bool:
        return len(self.faces) == len(self.array)


class Feed:
    """The batches of all encoders that need the same pixels of the same faces.

    missing: (faces,) bool, who they are; count: of buffers, which are taken again once nothing needs them.
    """

    def __init__(self, view: View, preprocessing: Preprocessing, missing: np.ndarray, *, batch_size: int, count: int,
                 pinned: bool):
        self.view, self.preprocessing, self.missing = view, preprocessing, missing
        shape = (batch_size, preprocessing.size, preprocessing.size, 3)
        self.free = [Batch(torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)) for _ in range(count)]
        self.filling: deque[Batch] = deque()  #: the oldest first; only the last may have room
        self.batch_size = batch_size

    @property
    def room(self) -> int:
        """Faces that can be placed now."""
        last = self.batch_size - len(self.filling[-1].faces) if self.filling else 0
        return last + len(self.free) * self.batch_size

    def place(self, face: Face) -> "Place":
        """The next place, for this face; there must be room."""
        if not self.filling or self.filling[-1].is_full:
            self.filling.append(self.free.pop())
        batch = self.filling[-1]
        batch.faces.append(face)
        return Place(self, batch, len(batch.faces) - 1)

    def take(self, count: int) -> list[Batch]:
        """The next `count` faces are decoded; gives the batches that this completes."""
        complete = []
        while count:
            batch = self.filling[0]
            here = min(count, self.batch_size - batch.taken)
            batch.taken += here
            count -= here
            if batch.taken == self.batch_size:
                complete.append(self.filling.popleft())
        return complete

    def last(self) -> Batch | None:
        """At the end: the batch that is only partly filled, the rest of it black."""
        if not self.filling or not self.filling[0].taken:
            return None
        batch = self.filling.popleft()
        del batch.faces[batch.taken:]
        batch.array[batch.taken:] = 0
        return batch

    def give_back(self, batch: Batch) -> None:
        """One forward pass less needs the batch."""
        batch.passes -= 1
        if not batch.passes:
            batch.faces, batch.taken = [], 0
            self.free.append(batch)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the pixels of one face are wanted."""

    feed: Feed
    batch: Batch
    slot: int


def fill(faces: ImageSource, wanted: Sequence[tuple[Face, Sequence[Place]]]) -> float:
    """Read and decode each face once and write its pixels to each place; returns the seconds of this thread's work.

    A face that cannot be read or decoded keeps the reason, and its places are black.
    """
    began = time.thread_time()
    for face, places in wanted:
        try:
            content = faces.read(face.key)
            face.sha256 = hashlib.sha256(content).hexdigest()
            _write(decode(content, faces.limits), face.sha256, places)
        except ImageError as error:
            face.failure = str(error)
            for place in places:
                place.batch.array[place.slot] = 0
    return time.thread_time() - began


def _write(image: Image.Image, sha256: str, places: Sequence[Place]) -> None:
    """Views and preprocessing that several places share are computed once."""
    viewed: dict[str, Image.Image] = {}
    prepared: dict[tuple[str, Preprocessing], np.ndarray] = {}
    for place in places:
        view, how = place.feed.view, place.feed.preprocessing
        if view.name not in viewed:
            viewed[view.name] = view.apply(image, sha256)
        if (view.name, how) not in prepared:
            prepared[view.name, how] = how.prepare(viewed[view.name])
        place.batch.array[place.slot] = prepared[view.name, how]
