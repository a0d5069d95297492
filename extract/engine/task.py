"""What one process computes: encoders, and the rows of feature files that it makes with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from twofold.cache.recipe import Recipe
from twofold.data.images.decode import DECODER
from twofold.data.images.sources import ImageSource
from twofold.extract.encoders.encoder import Encoder
from twofold.extract.encoders.preprocessing import DECODERS
from twofold.extract.encoders.registry import load_encoder
from twofold.extract.engine.views import view_record


@dataclass(frozen=True, kw_only=True)
class EncoderSource:
    """Where an encoder comes from: the arguments of `load_encoder` but for the device."""

    backbone: str
    weights: str | None = None
    precision: str = "auto"
    batch_size: int = 0
    compiled: bool = False
    classes: tuple[str, ...] = ()

    def with_precision(self, precision: str) -> "EncoderSource":
        """Return the same source in this precision on any device; ONNX models keep their own."""
        return self if self.backbone.startswith("onnx:") else replace(self, precision=precision)


class Encoders:
    """The encoders of one device, each loaded once."""

    def __init__(self, device: str, loaded: Mapping[EncoderSource, Encoder] | None = None):
        self.device, self.loaded = device, dict(loaded or {})

    def load(self, source: EncoderSource) -> Encoder:
        """Load an encoder. Raises InputError for a name, device, precision or weights that are not available."""
        if source not in self.loaded:
            self.loaded[source] = load_encoder(
                source.backbone, weights=source.weights, device=self.device, precision=source.precision,
                batch_size=source.batch_size, compiled=source.compiled, classes=source.classes)
        return self.loaded[source]


def recipe_of(encoder: Encoder, view: str, *, dtype: str, decoder: str = DECODER) -> Recipe:
    """Return the recipe: everything that a value of this encoder and view depends on.

    decoder: as a recipe has it; for one that is not among DECODERS, the usual one.
    """
    return Recipe(
        backbone=encoder.name, architecture=encoder.architecture, weights=encoder.weights, tap=encoder.tap,
        preprocessing=encoder.preprocessing.record(), view=view_record(view),
        decoder=decoder if decoder in DECODERS.values() else DECODER,
        precision=encoder.precision, dtype=dtype, pieces=encoder.pieces,
    )


@dataclass(frozen=True, kw_only=True)
class FileRows:
    """Rows of one feature file to compute. rows: indices into the keys of the task, sorted."""

    source: EncoderSource
    recipe: Recipe
    rows: np.ndarray


@dataclass(frozen=True, kw_only=True)
class ComputeTask:
    """What one process computes, complete in itself, so that it can be sent to another process or node.

    workers: decoding threads, 0 for one a core; max_failures: stop after more failed samples than this, -1 for never;
    shard_rows: what a crash repeats at most; max_batch: samples per forward pass, 0 for the encoder's number.
    """

    files: Sequence[FileRows]
    keys: Sequence[str]
    images: ImageSource
    store: Path
    workers: int = 0
    max_failures: int = -1
    shard_rows: int = 2048
    max_batch: int = 0

    @property
    def samples(self) -> np.ndarray:
        """Indices of all samples that any file lacks, sorted."""
        return np.unique(np.concatenate([np.empty(0, int), *(file.rows for file in self.files)]))

    @property
    def rows_per_shard(self) -> int:
        """Half of what may be lost: while a shard is open, the one before may still be on its way to the disk."""
        return max(1, self.shard_rows // 2)
