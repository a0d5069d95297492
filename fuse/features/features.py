"""The features of several backbones side by side, and what is known of each face; `join` makes them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from twofold.cache.format.featurefile import FeatureFile
from twofold.cache.format.finite import first_not_finite
from twofold.cache.recipe import Recipe
from twofold.data.labels import Taxonomy
from twofold.data.utils.errors import InputError
from twofold.data.utils.machine import USUAL_MEMORY, free_memory

COPIES = 2.5  #: the joined matrix, the standardised training rows of the widest head, and what is passing through


@dataclass(frozen=True)
class Stream:
    """One backbone and view: its columns of the joined features. files: one for each store, in order.

    fold_files: where the encoder was fine-tuned one a fold, the file of each fold (of the one store); then `files` is
    that of the first. mark: what tells it apart from streams of the same backbone and view, as `marks` gives it.
    """

    backbone: str
    view: str
    recipe: Recipe
    dim: int
    files: tuple[FeatureFile, ...]
    fold_files: tuple[FeatureFile, ...] = ()
    mark: str = ""

    def of_fold(self, fold: int) -> "Stream":
        """The stream as the encoder of that fold gives it; itself where there is one encoder for all."""
        if not self.fold_files:
            return self
        file = self.fold_files[fold]
        return replace(self, recipe=file.recipe, dim=file.dim, files=(file,))

    @property
    def name(self) -> str:
        return stream_name(self.backbone + self.mark, self.view)


def marks(streams: Sequence[tuple[str, str, Recipe]]) -> list[str]:
    """Of each (backbone, view, recipe): `@` and the digits that its file is named by, where another has the same
    backbone and view; else nothing."""
    count = Counter((backbone, view) for backbone, view, _ in streams)
    return [f"@{recipe.fingerprint[:8]}" if count[backbone, view] > 1 else "" for backbone, view, recipe in streams]


def stream_name(backbone: str, view: str) -> str:
    """What tables call a stream: the backbone, with the view unless it is the original."""
    return backbone if view == "original" else f"{backbone} ({view})"


@dataclass(frozen=True)
class FusedFeatures:
    """N faces that every stream has, in manifest order, the first store's first. All arrays have N rows.

    label: class in the taxonomy, -1 if none. basic: (N, 8) shares of the basic emotions in BASIC's order, for a
    compound its pair, half each, else the basic label, else zeros. basic_label: the basic label alone, -1 if none.
    fold: the manifest's column of that name, empty where it has none.
    row: (N, K) place of the face in each stream's file. matrix: (N, D) float32 once loaded, else None.
    """

    taxonomy: Taxonomy
    streams: tuple[Stream, ...]
    keys: np.ndarray
    store: np.ndarray
    split: np.ndarray
    group: np.ndarray
    fold: np.ndarray
    label: np.ndarray
    basic: np.ndarray
    basic_label: np.ndarray
    sha256: np.ndarray
    row: np.ndarray
    notes: tuple[str, ...]
    matrix: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def dim(self) -> int:
        return sum(stream.dim for stream in self.streams)

    def columns(self, streams: Sequence[int]) -> np.ndarray:
        """Columns of `matrix` that these streams take, in their order."""
        starts = np.cumsum([0, *(stream.dim for stream in self.streams)])
        return np.concatenate([np.arange(starts[k], starts[k + 1]) for k in streams])

    def read(self, rows: np.ndarray, streams: Sequence[int] | None = None) -> np.ndarray:
        """(n, D of these streams) float32, their features side by side, of these rows. streams: all, unless given."""
        everything = range(len(self.streams))
        streams = everything if streams is None else streams
        if self.matrix is not None:
            if list(streams) == list(everything):
                return self.matrix[rows]
            return self.matrix[np.ix_(rows, self.columns(streams))]
        block = np.empty((len(rows), sum(self.streams[k].dim for k in streams)), np.float32)
        start = 0
        for k in streams:
            self._fill(block[:, start:start + self.streams[k].dim], rows, k)
            start += self.streams[k].dim
        return block

    def loaded(self) -> "FusedFeatures":
        """The same with all features in memory, 4 N D bytes."""
        return replace(self, matrix=self.read(np.arange(len(self))))

    def _fill(self, block: np.ndarray, rows: np.ndarray, k: int) -> None:
        for number, file in enumerate(self.streams[k].files):
            here = np.flatnonzero(self.store[rows] == number)
            if len(here):
                places = self.row[rows[here], k]
                values = file.read_rows(places)
                if (wrong := first_not_finite(values)) is not None:
                    key = file.keys[places[wrong]]
                    raise InputError(f"{file.path}: the features of {key!r} are not finite numbers: see `cache verify`")
                block[here] = values


def fits(features: FusedFeatures, limit_gb: float) -> bool:
    """True if all features may be held as float32 in `limit_gb` gigabytes; 0 means half of the memory that is free."""
    limit = limit_gb * 1e9 if limit_gb else 0.5 * (free_memory() or USUAL_MEMORY)
    return COPIES * 4 * len(features) * features.dim <= limit
