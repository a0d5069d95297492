"""How long a planned extraction will take: a few of its faces are computed, into a store that is thrown away."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from twofold.cache.store import Store
from twofold.data.images.sources import ImageSource
from twofold.extract.engine import compute
from twofold.extract.plan import Job, Settings

TRIES = 2  #: the first one also pays for what a process does only once


def estimate(jobs: Sequence[Job], keys: Sequence[str], faces: ImageSource, settings: Settings) -> float:
    """Seconds on this machine for all missing rows of `jobs`; 0 if there are none, or no face tried can be encoded."""
    rows = sum(int(job.missing.sum()) for job in jobs)
    count = max((job.encoder.batch_size for job in jobs), default=0)
    some = [replace(job, missing=_first(job.missing, count)) for job in jobs]
    with tempfile.TemporaryDirectory(prefix="twofold-") as folder:
        for _ in range(TRIES):
            work = compute(some, keys, faces, Store(Path(folder)), settings=settings, progress=False)
    return work.seconds.wall * rows / work.rows if work.rows else 0.0


def _first(missing: np.ndarray, count: int) -> np.ndarray:
    """The same, but for all after the first `count`."""
    return missing & (np.cumsum(missing) <= count)
