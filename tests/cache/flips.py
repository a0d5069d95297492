"""Single wrong bits in what a small feature file says of itself: each is told in a sentence, or changes nothing.

    python -m tests.cache.flips --version 1 [--bits 20000] [--seed 0]

Without --bits it flips every bit outside the arrays. Exits with 1 if one is believed, hangs or costs too much.
"""

import argparse
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from tests.cache.conftest import make_recipe
from tests.cache.version1 import write_version1
from twofold.cache.errors import CacheError
from twofold.cache.format.featurefile import FeatureFile
from twofold.cache.format.write import write_featurefile

WRITERS = {1: write_version1, 2: write_featurefile}
LONGEST_SECONDS, MOST_BYTES, LONGEST_SENTENCE = 10, 10**9, 1000


def small_file(path: Path, version: int) -> None:
    """300 rows, so that a version 1 file has two chunks, and a failure."""
    features = np.random.default_rng(0).standard_normal((300, 3)).astype(np.float16)
    WRITERS[version](path, recipe=make_recipe(), dim=3, keys=[f"é/{row}.png" for row in range(300)],
                     sha256=[f"{row:064x}" for row in range(300)], features=features, failures={"bad.png": "no image"})


def metadata(path: Path) -> list[int]:
    """The places of all bytes that belong to no array."""
    arrays = set()
    with h5py.File(path, "r", locking=False) as file:
        start = file.userblock_size
        for name in ("features", "keys", "sha256", "failures/keys", "failures/reasons", "checksums"):
            if (dataset := file.get(name)) is None:
                continue
            pieces = [(info.byte_offset, info.size) for info in map(dataset.id.get_chunk_info, range(
                dataset.id.get_num_chunks()))] if dataset.chunks else [(dataset.id.get_offset(), dataset.nbytes)]
            arrays |= {start * bool(dataset.chunks) + place for begin, size in pieces
                       for place in range(begin, begin + size)}
    return [place for place in range(path.stat().st_size) if place not in arrays]


def content(path: Path) -> tuple:
    """All that is in a feature file. Raises CacheError."""
    file = FeatureFile(path)
    file.check()
    return (file.keys.tolist(), file.sha256.tolist(), file.failures, file.read(dtype=np.float16).tobytes(),
            file.recipe, file.classifier, file.logits())


@dataclass
class Outcome:
    """What came of all flips. wrong: what was believed though it is not so, or cost too much."""

    refused: int = 0
    unchanged: int = 0
    seconds: float = 0.0  #: that the slowest took, of whatever processor
    sentences: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def try_flips(path: Path, bits: Sequence[tuple[int, int]]) -> Outcome:
    """Flip each of these bits (byte, bit) by itself, read the file, and put it back."""
    right, sound, outcome = content(path), path.read_bytes(), Outcome()
    for byte, bit in bits:
        flipped = bytearray(sound)
        flipped[byte] ^= 1 << bit
        path.write_bytes(flipped)
        began = time.monotonic()
        try:
            same = content(path) == right
            outcome.unchanged += same
            outcome.wrong += [] if same else [f"bit {bit} of byte {byte}: other content is believed"]
        except CacheError as error:
            outcome.refused += 1
            outcome.sentences[str(error).removeprefix(f"{path}: ")[:60]] += 1
            if len(str(error)) > LONGEST_SENTENCE or "\n" in str(error):
                outcome.wrong.append(f"bit {bit} of byte {byte}: no sentence: {str(error)[:200]}")
        outcome.seconds = max(outcome.seconds, time.monotonic() - began)
    path.write_bytes(sound)
    return outcome


def peak_bytes() -> int:
    """The most memory that this process, or one that it has waited for, has had."""
    return 1024 * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", type=int, choices=WRITERS, required=True)
    parser.add_argument("--bits", type=int, help="a sample of so many; by default all")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "small.h5")
        small_file(path, chosen.version)
        bits = [(byte, bit) for byte in metadata(path) for bit in range(8)]
        sample = random.Random(chosen.seed).sample(bits, min(len(bits), chosen.bits or len(bits)))
        outcome = try_flips(path, sample)
    print(f"version {chosen.version}: {len(sample)} of {len(bits)} bits flipped (seed {chosen.seed}): "
          f"{outcome.refused} refused, {outcome.unchanged} without effect, {len(outcome.wrong)} wrong; slowest "
          f"{outcome.seconds:.1f} s, at most {peak_bytes() / 1e6:.0f} MB")
    sentences = [f"{count:7d}  {sentence}" for sentence, count in outcome.sentences.most_common(40)]
    print(*sentences, *outcome.wrong, sep="\n")
    slow = outcome.seconds > LONGEST_SECONDS or peak_bytes() > MOST_BYTES
    return 1 if outcome.wrong or slow else 0


if __name__ == "__main__":
    sys.exit(main())
