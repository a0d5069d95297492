"""What stage two does with a large store, features streamed from disk: for `bench growth`."""

import time
from pathlib import Path

from twofold.fuse.experiment import Experiment, prepare
from twofold.fuse.settings import resolve
from twofold.fuse.training.fit import fit

MEMORY_GB = 0.05  #: less than any size of the bench takes, so that all do the same work


def join_store(path: Path) -> float:
    """What comes before training: manifest and files joined by key, who trains and who scores."""
    began = time.perf_counter()
    _experiment(path)
    return time.perf_counter() - began


def train_epoch(path: Path) -> float:
    """Standardising, one epoch of an MLP of all streams, and its score on validation."""
    experiment = _experiment(path)
    streams, began = range(len(experiment.features.streams)), time.perf_counter()
    fit(experiment.settings, experiment.features, experiment.partitions[0], streams)
    return time.perf_counter() - began


def _experiment(path: Path) -> Experiment:
    changes = {"head": "mlp", "epochs": 1, "seeds": 1, "classes": "cexpr7", "memory_gb": MEMORY_GB, "device": "cpu"}
    return prepare([path], resolve(changes=changes))
