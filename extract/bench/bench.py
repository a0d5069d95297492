"""The verb `bench extract`: how near the loop comes to its slowest leg, and how fast a card this host can feed."""

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from twofold.cache.store import Store
from twofold.data.images.sources import ImageRoots, ImageSource, open_images, parse_roots
from twofold.data.manifest import read_manifest
from twofold.data.utils.errors import InputError
from twofold.data.utils.machine import openmp_settings
from twofold.extract.bench.legs import Leg, measure_legs
from twofold.extract.bench.plain import plain_seconds
from twofold.extract.bench.simulated import SimulatedCard
from twofold.extract.encoders.encoder import BatchLimit
from twofold.extract.encoders.registry import load_network
from twofold.extract.engine.engine import compute
from twofold.extract.engine.passes import Passes
from twofold.extract.engine.tally import Tally
from twofold.extract.plan import ExtractOptions, Job, recipe_of
from twofold.extract.streams import Encoders, Stream
from twofold.extract.views import view

LARGEST_BATCH, PASS_SECONDS = 256, 0.05  #: of a simulated card: many passes, so that the first and last weigh little
CARD_SECONDS = 4.0  #: of faces that a simulated card is fed
ENOUGH = 0.95  #: of a card's rate, filling the first batch and publishing the last part included
SAMPLED = 20  #: rounds of the same faces at most


@dataclass(frozen=True)
class CardRate:
    """A simulated card that takes so many faces a second, for all encoders together, and what it got.

    host_ms: of this process outside reading, decoding and preparing, for a face and an encoder; writing is in it.
    """

    card: float
    fed: float
    host_ms: float


@dataclass(frozen=True)
class ExtractBench:
    """One run on one machine: the legs alone, the whole, what others do, and cards that are not there.

    ceiling: faces a second that the whole cannot exceed: on a card its slowest leg; where all legs share the cores,
    what their summed CPU time allows. plain: faces a second of a loop over a DataLoader, None where not tried.
    """

    backbones: list[str]
    faces: int
    device: str
    workers: int
    cores: int
    legs: list[Leg]
    whole: float
    ceiling: float
    plain: float | None
    cards: list[CardRate]

    def record(self) -> dict[str, Any]:
        return asdict(self) | {"waiting": openmp_settings(), "limit": self.limit()}

    def limit(self) -> str:
        """What is in the way, in a sentence."""
        if self.device == "cuda":
            slowest = min(self.legs, key=lambda leg: leg.faces_a_second)
            return f"{slowest.name} is the limit: {slowest.faces_a_second:.0f} faces/s alone"
        costly = max(self.legs, key=lambda leg: leg.cpu_seconds)
        share = costly.cpu_seconds / sum(leg.cpu_seconds for leg in self.legs)
        return f"the {self.cores} cores are the limit: {share:.0%} of their time is {costly.name}"

    def _limit_of(self, card: CardRate) -> str:
        decode = self.legs[0].faces_a_second
        if card.fed >= ENOUGH * card.card:
            return "the card is the limit"
        return f"decoding is the limit, {decode:.0f} alone" if decode < card.card else "this process is the limit"

    def text(self) -> str:
        slowest = min(leg.faces_a_second for leg in self.legs)
        lines = [f"{', '.join(self.backbones)} on {self.device}: {self.faces} faces, {self.workers} decoding threads, "
                 f"{openmp_settings()}",
                 *(f"  {leg.name:9} {leg.faces_a_second:10.1f} faces/s alone, {leg.faces_a_second / slowest:7.1f} x "
                   f"the slowest, {1e3 * leg.cpu_seconds:8.3f} ms of CPU a face" for leg in self.legs),
                 f"  {'whole':9} {self.whole:10.1f} faces/s, {self.whole / self.ceiling:.2f} of the "
                 f"{self.ceiling:.1f} that the {'slowest leg' if self.device == 'cuda' else 'cores'} would allow"]
        if self.plain:
            lines.append(f"  {'plain':9} {self.plain:10.1f} faces/s by a DataLoader, a backbone after the other: "
                         f"ours is {self.whole / self.plain:.2f} x as fast")
        lines += [f"  a card of {card.card:6.0f} faces/s gets {card.fed:8.1f} ({card.fed / card.card:.2f}): "
                  f"{self._limit_of(card)}; host work outside decoding {card.host_ms:.3f} ms a face and backbone"
                  for card in self.cards]
        return "\n".join([*lines, f"{self.limit()}."])


def bench_extract(streams: Sequence[Stream], *, manifest: Path, roots: Sequence[str], device: str, workers: int,
                  faces: int, cards: Sequence[float], plain: bool) -> ExtractBench:
    """Measure extraction of the first `faces` faces of a manifest, and of the same again and again on cards.

    cards: rates of simulated ones, in faces a second for all streams together. Raises InputError as `extract`.
    """
    keys = list(read_manifest(manifest).keys)[:faces]
    source = open_images(parse_roots(roots))
    if len(source.roots) > 1 or not keys:
        raise InputError("bench extract wants the faces of one root, and at least one")
    encoders, workers = Encoders(device), workers or os.cpu_count() or 1
    jobs = []
    for stream in streams:
        encoder, seen = encoders.load(stream.source), view(stream.view)
        jobs.append(Job(encoder, seen, recipe_of(encoder, seen, dtype=stream.dtype), np.ones(len(keys), bool)))
    legs = measure_legs(jobs, keys, source, workers=workers)
    kind, cores = jobs[0].encoder.device.type, len(os.sched_getaffinity(0))
    ceiling = min(leg.faces_a_second for leg in legs) if kind == "cuda" else \
        cores / sum(leg.cpu_seconds for leg in legs)
    whole = _computed(jobs, keys, source, workers)
    return ExtractBench(
        backbones=[job.encoder.name for job in jobs], faces=len(keys), device=kind, workers=workers, cores=cores,
        legs=legs, whole=whole.faces / whole.seconds.wall, ceiling=ceiling,
        plain=_plain(jobs, streams, keys, source, workers) if plain else None,
        cards=[_card(rate, jobs, keys, source, workers) for rate in cards])


def _computed(jobs: Sequence[Job], keys: Sequence[str], faces: ImageSource, workers: int,
              passes: Passes | None = None) -> Tally:
    """All faces, into a store that is thrown away."""
    with tempfile.TemporaryDirectory(prefix="twofold-") as folder:
        return compute(jobs, keys, faces, Store(Path(folder), new=True), options=ExtractOptions(workers=workers),
                       progress=False, passes=passes)


def _plain(jobs: Sequence[Job], streams: Sequence[Stream], keys: Sequence[str], faces: ImageSource,
           workers: int) -> float:
    seconds = sum(plain_seconds(load_network(stream.source.backbone, weights=stream.source.weights), job.encoder, keys,
                                faces, workers=workers) for job, stream in zip(jobs, streams, strict=True))
    return len(keys) / seconds


def _card(rate: float, jobs: Sequence[Job], keys: Sequence[str], faces: ImageRoots, workers: int) -> CardRate:
    """The same faces again and again, by other keys, until the card would be busy for a while."""
    rounds = min(SAMPLED, max(1, round(CARD_SECONDS * rate / len(keys))))
    root = next(iter(faces.roots.values()))
    repeated = ImageRoots({str(number): root for number in range(rounds)}, faces.limits)
    names = [f"{number}/{key}" for number in range(rounds) for key in keys]
    everything, size = np.ones(len(names), bool), max(1, min(LARGEST_BATCH, int(rate * PASS_SECONDS)))
    fed = [replace(job, encoder=replace(job.encoder, limit=BatchLimit(size)), missing=everything) for job in jobs]
    before = time.process_time()
    tally = _computed(fed, names, repeated, workers, SimulatedCard(rate * len(jobs)))
    host = time.process_time() - before - tally.seconds.decode
    return CardRate(rate, tally.faces / tally.seconds.wall, 1e3 * host / (len(names) * len(jobs)))
