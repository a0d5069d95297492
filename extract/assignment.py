"""Work that can be sent anywhere: rows of feature files, and all that computing them wants to know."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twofold.cache.recipe import Recipe
from twofold.data.images.sources import ImageSource
from twofold.extract.plan import ExtractOptions
from twofold.extract.streams import EncoderSource


@dataclass(frozen=True, kw_only=True)
class MissingRows:
    """Rows of one feature file that are to be computed. rows: their places in the manifest."""

    source: EncoderSource
    recipe: Recipe
    rows: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What one process has to compute, whole in itself, so that it can be sent anywhere."""

    files: Sequence[MissingRows]
    keys: Sequence[str]
    faces: ImageSource
    store: Path
    device: str
    options: ExtractOptions
