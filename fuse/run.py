"""Stage two as one function: the features of a store become a trained head and its table, kept as a Run."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from cache.store import Store
from data.errors import InputError
from data.labels import taxonomy
from fuse.features import FusedFeatures, join
from fuse.report import Table
from fuse.runfile import Run, write_run
from fuse.score import Score, score
from fuse.sides import Sides, sides
from fuse.standard import Standard, fit_standard
from fuse.train import Trained, Training, probabilities, train


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to train on and how; the fields are the options of `fuse`."""

    store: Path
    out: Path
    backbones: Sequence[str] = ()
    views: Sequence[str] = ("original",)
    target: str = "compound"
    classes: str = "cexpr7"
    seeds: int = 1
    device: str = "auto"
    training: Training = field(default_factory=Training)


@dataclass(frozen=True)
class Fitted:
    """A trained head with all that it takes to use it."""

    standard: Standard
    trained: Trained
    probabilities: np.ndarray  #: (S, N, C) of every face


def fuse(request: Request) -> Table:
    """Train a head on each backbone alone and on all together; the last is written as the Run `request.out`.

    Raises InputError or CacheError, before anything is written, if the request or the data make no sense.
    """
    began = time.perf_counter()
    classes = taxonomy(request.classes)
    if classes.target != request.target:
        raise InputError(f"{classes.name} is a taxonomy of {classes.target} expressions: say --target {classes.target}")
    device = pick_device(request.device)
    features = join(Store(request.store), backbones=request.backbones, views=request.views, taxonomy=classes)
    parts = sides(features)
    names, seeds = list(features.blocks), list(range(request.seeds))
    subsets = [[name] for name in names] + ([names] if len(names) > 1 else [])
    fitted = [fit(features, parts, subset, seeds=seeds, training=request.training, device=device) for subset in subsets]
    scores = [test_score(features, parts, subset, one) for subset, one in zip(subsets, fitted, strict=True)]
    table = Table(title=f"{classes.name}, {len(parts.test)} test faces", classes=classes.classes, scores=scores,
                  seeds=request.seeds, notes=notes(features, parts), left_out=features.left_out, out=request.out)
    best = fitted[-1]
    write_run(request.out, Run(
        standard=best.standard, parameters=best.trained.parameters, classes=classes, recipes=features.recipes,
        settings=request, seeds=seeds), features=features, probabilities=best.probabilities,
        history=best.trained.history, table=table, seconds=time.perf_counter() - began)
    return table


def fit(features: FusedFeatures, parts: Sides, streams: list[str], *, seeds: list[int], training: Training,
        device: torch.device) -> Fitted:
    """Train a head on these streams; the test rows have no part in it."""
    standard = fit_standard(features.blocks, streams, parts.train)
    x, y = (torch.from_numpy(array).to(device) for array in (standard.apply(features.blocks), features.labels))
    trained = train(x[parts.train], y[parts.train], x[parts.val], y[parts.val], classes=len(features.taxonomy.classes),
                    seeds=seeds, training=training)
    return Fitted(standard, trained, probabilities(trained.parameters, x).cpu().numpy())


def test_score(features: FusedFeatures, parts: Sides, streams: list[str], fitted: Fitted) -> Score:
    """The score of a head on the test rows."""
    rows = parts.test
    name = streams[0] if len(streams) == 1 else "fusion of " + " + ".join(streams)
    return score(name, features.labels[rows], fitted.probabilities[:, rows], features.group[rows],
                 dim=sum(len(mean) for mean in fitted.standard.mean.values()),
                 untrained=any(name in features.untrained for name in streams),
                 best_epochs=fitted.trained.best_epoch.tolist())


def notes(features: FusedFeatures, parts: Sides) -> list[str]:
    """What a reader of the table should know of the data."""
    said = [f"{len(parts.train)} faces train, {len(parts.val)} choose the epoch"
            + (" (carved out of train by group)" if parts.carved else "") + f", {len(parts.test)} only score"]
    if parts.dropped:
        said.append(f"{parts.dropped} faces of train or val are not used: their group also stands in a later split")
    if features.untrained:
        said.append(f"UNTRAINED weights: {', '.join(features.untrained)}; such figures say nothing about the networks")
    return said


def pick_device(name: str) -> torch.device:
    """The device of that name; `auto` takes a GPU if there is one. Raises InputError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):
        raise InputError(f"the device {name!r} is not to be had here: choose auto or cpu") from None
    return device
